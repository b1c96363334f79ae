"""Seconds of a training step at the specimen's size, of `fit` and of what else one could use, in one interleaved run.

    python -m benchmarks.speed                          all, some ten minutes; the environments are made the first time
    python -m benchmarks.speed --only "floor,fit,plain Lightning" --users 5120
    python -m benchmarks.speed --write                  and put the table into the README

Every contestant is a process of its own. They take turns of one epoch, several rounds, so that a machine that is slower
for a while is slower for all. Exit status 1 if `fit` is more than 20 % slower than the plain Lightning module.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import scipy.sparse as sp
import torch

from benchmarks.speed.contestants import CONTESTANTS
from mvae import synthetic

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "bench-speed"
CPU_TORCH = "torch==2.13.0"
#: Contestants with packages of their own: what pip installs, line by line. torch first, where one asks for any torch.
PACKAGES = {
    "irspack": [["irspack==0.5.2", "jax[cpu]", "dm-haiku", "optax"]],
    "Cornac": [[CPU_TORCH], ["cornac==3.0.1", CPU_TORCH]],
    "RecBole": [[CPU_TORCH], ["recbole==1.2.1", "setuptools<81", "numpy<2", "pandas<3", CPU_TORCH]],
}
LABELS = {
    "floor": "the floor: three products of the last layer, fused Adam",
    "fit": "**`fit`, float32**",
    "fit bf16": '**`fit`, `precision="bf16-mixed"`**',
    "plain Lightning": "a tutorial's LightningModule",
    "raw PyTorch": "a plain PyTorch loop",
    "irspack": "irspack 0.5.2, MultVAE (JAX) ¹",
    "Cornac": "Cornac 3.0.1, VAECF ¹",
    "RecBole": "RecBole 1.2.1, MultiVAE ¹",
}
MARKS = "<!-- bench-speed -->", "<!-- /bench-speed -->"


@dataclass
class Contestant:
    """A process that trains when it is told to.

    Attributes:
        rounds: the median seconds of a step, a number for each turn.
        peak: MB.
    """

    name: str
    process: subprocess.Popen[str]
    rounds: list[float] = field(default_factory=list)
    peak: float = 0.0

    def ask(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit status {self.process.wait()}; its last words are above.")
        return line

    def turn(self) -> None:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        answer = json.loads(self.ask())
        self.rounds.append(statistics.median(answer["seconds"]))
        self.peak = answer["peak"]

    @property
    def seconds(self) -> float:
        return statistics.median(self.rounds)


def environment(name: str) -> str:
    """The Python that runs a contestant; its environment is made the first time."""
    if name not in PACKAGES:
        return sys.executable
    folder = FOLDER / name.lower()
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        print(f"Making the environment of {name} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for packages in PACKAGES[name]:
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
            subprocess.run(install, check=True)
        (folder / ".ready").touch()
    return str(python)


def start(name: str, data: Path) -> Contestant:
    script = Path(__file__).with_name("contestants.py")
    paths = {} if name in PACKAGES else {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [environment(name), str(script), name, str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=open(FOLDER / f"{name}.log", "w"),  # noqa: SIM115  (the process writes to it)
        text=True,
        cwd=FOLDER,  # some libraries leave files where they are started
        env={"OMP_WAIT_POLICY": "passive", **os.environ, **paths},
    )
    contestant = Contestant(name, process)
    print(f"{name}: {contestant.ask().strip()}", flush=True)
    return contestant


def processor() -> str:
    """Its name, cores and the instructions that matter here."""
    lines = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", lines)
    low = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if re.search(rf"\b{flag}\b", lines)]
    return f"{name[1] if name else platform.processor()}, {torch.get_num_threads()} threads, {' '.join(low)}"


def table(contestants: list[Contestant], size: str) -> str:
    by_name = {contestant.name: contestant for contestant in contestants}
    floor, plain = by_name.get("floor"), by_name.get("plain Lightning")
    rows = [
        "| | ms a step | lowest–highest turn | against the floor | against the tutorial's | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for one in contestants:
        spread = f"{min(one.rounds) * 1e3:.0f}–{max(one.rounds) * 1e3:.0f}"
        above = f"{one.seconds / floor.seconds:.2f} ×" if floor else "–"
        faster = f"{plain.seconds / one.seconds:.2f} × as fast" if plain and one is not floor else "–"
        cells = [LABELS[one.name], f"{one.seconds * 1e3:.1f}", spread, above, faster, f"{one.peak:,.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    version = torch.__version__.partition("+")[0]
    notes = [
        f"{size}, batches of 128; {processor()}; torch {version}; medians of turns of one epoch.",
        "¹ Its encoder has one tanh layer of 600, and the specimen's one more of 200.",
    ]
    return "\n\n".join(["\n".join(rows), *notes])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=31_360)
    parser.add_argument("--items", type=int, default=6_807)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="names, between commas")
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    data = FOLDER / "data.npz"
    users = options.users + 200  # `fit` holds 200 out
    made = synthetic(users, options.items, interactions_per_user=min(164.0, options.items / 4))
    sp.save_npz(data, made.matrix, compressed=False)
    contestants = [start(name, data) for name in CONTESTANTS if name in options.only.split(",")]
    for contestant in contestants:
        contestant.turn()  # not counted: JAX compiles in its first epoch, PyTorch asks for memory
        contestant.rounds.clear()
    for number in range(options.rounds):
        for contestant in contestants:
            contestant.turn()
            print(f"round {number + 1} {contestant.name}: {contestant.rounds[-1] * 1e3:.1f} ms a step", flush=True)
    for contestant in contestants:
        contestant.process.communicate()
    shown = table(contestants, f"{options.users:,} users, {options.items:,} items, {made.matrix.nnz:,} interactions")
    print(f"\n{shown}")
    if options.write:
        page = (ROOT / "README.md").read_text(encoding="utf-8")
        before, after = page.partition(MARKS[0])[0], page.partition(MARKS[1])[2]
        (ROOT / "README.md").write_text(f"{before}{MARKS[0]}\n{shown}\n{MARKS[1]}{after}", encoding="utf-8")
    seconds = {contestant.name: contestant.seconds for contestant in contestants}
    if seconds.get("fit", 0) > 1.2 * seconds.get("plain Lightning", float("inf")):
        print("\nSLOWER: `fit` takes more than 1.2 times as long as the tutorial's module.")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
