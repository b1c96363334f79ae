"""Kill `mvae train --resume` at its file events, start it again, and compare its end with that of a run left alone.

    python -m benchmarks.chaos                  one process and two (about 20 minutes)
    python -m benchmarks.chaos --points 200     at every file event, not at a sample

The killing and the judging are done by ckpt-chaos 0.1.8 (https://pypi.org/project/ckpt-chaos/), in an environment of
its own under build/. It notes each file that the command makes, renames or removes, ends a fresh copy of the command
at that event, gives the same command again, and looks at the step that it goes on from and at the end it comes to.

**before**: the process is gone before the event. **torn**: the file is written, cut to half, and the process is gone;
that needs a file that is written under its own name, and there is none here. **term**: SIGTERM, and five seconds.
HARD_FAIL: the second start ends in an error. SILENT_DIVERGENCE: a weight, moment, rate, counter or line of the history
is not that of the run left alone, to the bit. LOST_WORK: it goes on from an older checkpoint than the newest whole one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import venv
from collections import Counter
from pathlib import Path
from typing import Any

from mvae.checkpoint import Tensor, get_newest_checkpoint, read

VERSION = "0.1.8"
MODES = ("before", "torn", "term")
VERDICTS = ("PASS", "HARD_FAIL", "SILENT_DIVERGENCE", "LOST_WORK")
SIZE = ["--data", "synthetic:300x60", "--batch-size", "64", "--max-epochs", "4", "--save-every", "2", "--keep", "99"]


def environment(folder: Path) -> Path:
    """The command `ckpt-chaos`, installed if it is not there yet. It needs nothing but Python."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "ckpt-chaos").exists():
        venv.create(folder, with_pip=True, clear=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"ckpt-chaos=={VERSION}"]
        subprocess.run([python, *install], check=True)
    return folder / "bin" / "ckpt-chaos"


def fingerprint(out: Path) -> str:
    """Of all that a run ends with: weights, moments, rates, counters, the history, and the best model.

    Tensors count by the checksums of their bytes. Left out are paths, and the time the run was started.
    """
    (best,) = out.glob("multi-vae-*.ckpt")
    end = read(get_newest_checkpoint(out)).tree
    parts = {key: end[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step")}
    parts |= {"best": read(best).tree["state_dict"], "history": (out / "history.csv").read_text()}
    return hashlib.sha256(json.dumps(plain(parts)).encode()).hexdigest()


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, Tensor):
        assert value.storage is not None
        assert value.storage.record is not None
        return [str(value.dtype), list(value.shape), value.storage.record.crc32]
    return repr(value)


def attack(chaos: Path, work: Path, processes: int, points: int) -> list[dict[str, Any]]:
    """Let ckpt-chaos run; what it wrote about each kill."""
    train = [sys.executable, "-m", "mvae", "train", *SIZE, "--devices", str(processes), "--out", "{out}", "--resume"]
    look = f"{shlex.quote(sys.executable)} -m benchmarks.chaos --fingerprint {{out}}"
    judged_by = ["--checkpoint-glob", "{out}/newest-*.ckpt", "--ckpt-ignore-size", "--result-cmd", look]
    judged_by += ["--step-regex", r"(?:resumed from|ended at) step (\d+)", "--fail-on", ",".join(VERDICTS[1:])]
    how = ["--modes", ",".join(MODES), "--max-points", str(points), "--ranks", str(processes), "--work", str(work)]
    log = work.with_suffix(".log")
    with log.open("w") as file:
        subprocess.run([chaos, "run", *how, *judged_by, "--", *train], stdout=file, stderr=subprocess.STDOUT)
    found = [json.loads(path.read_text()) for path in sorted(work.glob("pt_*/result.json"))]
    if not found:
        raise SystemExit(f"ckpt-chaos could not run; {log} says why:\n{log.read_text()[-2000:]}")
    return found


def verdict(kill: dict[str, Any]) -> str:
    """The rules of ckpt-chaos (`invariants.py`), from what it noted."""
    outcome = kill["outcome"]
    if outcome["raised"]:
        return "HARD_FAIL"
    if outcome["weights_diff"] != 0 or not outcome["ranks_agree"]:
        return "SILENT_DIVERGENCE"
    return "LOST_WORK" if (outcome["resumed_from_step"] or 0) < outcome["newest_complete_step"] else "PASS"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--points", type=int, default=30, help="kills, for one process and for two (default: 30)")
    parser.add_argument("--processes", type=int, choices=(1, 2), help="only with so many")
    parser.add_argument("--folder", type=Path, default=Path("build/chaos"))
    parser.add_argument("--fingerprint", type=Path, metavar="OUT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fingerprint:
        print(fingerprint(options.fingerprint))
        return
    chaos = environment(options.folder.resolve() / "env").absolute()
    print(f"{'processes':>9}  {'mode':6} {'kills':>5}  " + "  ".join(VERDICTS), flush=True)
    failed = False
    for processes in (1, 2) if options.processes is None else (options.processes,):
        work = options.folder.resolve() / f"{processes}-processes"
        shutil.rmtree(work, ignore_errors=True)
        kills = attack(chaos, work, processes, options.points)
        control = [kill for kill in kills if "point" not in kill]
        assert verdict(control[0]) == "PASS", "two runs left alone differ"
        for mode in MODES:
            count = Counter(verdict(kill) for kill in kills if "point" in kill and kill["point"][1] == mode)
            failed |= any(count[name] for name in VERDICTS[1:])
            row = "  ".join(f"{count[name]:{len(name)}}" for name in VERDICTS)
            print(f"{processes:>9}  {mode:6} {count.total():>5}  {row}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
