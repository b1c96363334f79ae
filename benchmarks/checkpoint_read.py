"""What the commands on checkpoint files cost, on files of 101 MB, 5 GB and 80,000 tensors that it makes itself.

    python -m benchmarks.checkpoint_read                   everything (some minutes; 11 GB of disk, 1 GB of memory)
    python -m benchmarks.checkpoint_read --quick           0.5 GB in place of 5
    python -m benchmarks.checkpoint_read --only salvage    one part: inspect, diff, verify, salvage or export

**inspect**: `mvae inspect FILE` from the shell, in turns with a bare interpreter; `torch.load`; and in this process.
**diff**: two files that differ in one tensor, until it is known which; and then until it is known by how much.
**verify**: `mvae verify FILE`, beside reading the file and computing a CRC-32 with nothing around it.
**salvage**: the file of 101 MB cut at every hundredth of its length, and with a bit flipped in 100 places.
**export**: the weights of the file of 101 MB.

The file of 101 MB is what torch saves of the network of the course's specimen with Adam. The others are written in
the same format block by block, so that they need not fit in memory; torch reads them as it reads its own. Files are in
the page cache when they are read. Seconds are the median, and in parentheses the least and the most. A peak is the
kernel's own count for the process (VmHWM), mapped pages of the file included.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mvae.checkpoint import CheckpointError, diff, export, inspect, salvage, verify
from mvae.checkpoint.formats.zip_writer import write_checkpoint
from mvae.checkpoint.pickled.values import Storage, Tensor
from mvae.checkpoint.pickled.writer import Pickler, Stored

MB, BLOCK = 1_000_000, 1 << 20

#: Runs what follows and prints the process's peak memory in bytes; a child's `ru_maxrss` would be its parent's.
MEASURED = """
import sys
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
try:
    {program}
except SystemExit as end:
    assert end.code in (0, None), end.code
print(peak(), file=sys.stderr)
"""

MVAE = "from mvae.cli import main; main()"
TORCH_FULL = "import torch; torch.load(sys.argv[1], weights_only=True)"
TORCH_MMAP = "import torch; torch.load(sys.argv[1], weights_only=True, mmap=True, map_location='meta')"
PLAIN_CRC = """import zlib
    crc, buffer = 0, memoryview(bytearray(1 << 20))
    with open(sys.argv[1], "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = zlib.crc32(buffer[:count], crc)"""


# --- the files


def document_file(path: Path, num_items: int) -> None:
    """The network of the course's specimen with what Adam keeps, saved by torch; in a process of its own."""
    program = (
        "import sys, torch; from mvae import MultiVAE\n"
        "torch.manual_seed(0)\n"
        "model = MultiVAE(int(sys.argv[2]))\n"
        "optimizer = torch.optim.Adam(model.parameters())\n"
        "for p in model.parameters(): p.grad = torch.randn_like(p)\n"
        "optimizer.step()\n"
        "torch.save({'epoch': 435, 'global_step': 106820, 'state_dict': model.state_dict(), 'optimizer_states': "
        "[optimizer.state_dict()], 'hyper_parameters': dict(model.hparams)}, sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(path), str(num_items)], check=True)


def large_file(path: Path, tensors: int, numel: int, changed: int | None = None) -> None:
    """Weights and Adam's moments, `tensors` tensors of `numel` float32 in all; one of them may be changed."""
    state: dict[str, Any] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for number in range(tensors // 3):
        state[f"layers.{number}.weight"] = _tensor(numel)
        moments[number] = {"exp_avg": _tensor(numel), "exp_avg_sq": _tensor(numel)}
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "params": list(moments)}
    tree = {"epoch": 3, "state_dict": state, "optimizer_states": [{"state": moments, "param_groups": [group]}]}
    noise = random.Random(0).randbytes(min(4 * numel, 1 << 24))

    def content(stored: Stored) -> Iterator[bytes]:
        mark = b"another!" if int(stored.key) == changed else stored.key.encode().ljust(8)
        for start in range(0, stored.storage.nbytes, len(noise)):
            yield (mark + noise[8:])[: stored.storage.nbytes - start]

    with open(path, "wb") as file:
        write_checkpoint(file, tree, content, Pickler())


def _tensor(numel: int) -> Tensor:
    return Tensor("float32", (numel,), (1,), 0, Storage("", "float32", numel, "cpu"))


# --- measuring


def shell(program: str, *arguments: object, times: int = 5) -> tuple[list[float], int]:
    """Seconds of each run of a Python program in a new process, and the most memory it took."""
    seconds, peak = [], 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED.format(program=program), *map(str, arguments)]
    for _ in range(times):
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, env=environment)
        seconds.append(time.perf_counter() - began)
        peak = max(peak, int(done.stderr.split()[-1]))
    return seconds, peak


def alternately(
    a: str, b: str, *arguments: object, times: int = 11
) -> tuple[tuple[list[float], int], tuple[list[float], int]]:
    """Two programs in turns, so that what else the machine does slows both: what :func:`shell` gives, for each."""
    seconds: dict[str, list[float]] = {a: [], b: []}
    peak = {a: 0, b: 0}
    for program in (a, b) * times:
        taken, most = shell(program, *arguments, times=1)
        seconds[program] += taken
        peak[program] = max(peak[program], most)
    return (seconds[a], peak[a]), (seconds[b], peak[b])


def inside(work: Callable[[], Any], times: int = 9) -> list[float]:
    """Seconds of each call in this process."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds


def row(what: str, seconds: list[float], peak: int | None = None, limit: str = "") -> None:
    spread = f"({min(seconds):.3f}–{max(seconds):.3f})"
    memory = f"{peak / MB:8.1f} MB" if peak is not None else " " * 11
    print(f"  {what:52} {statistics.median(seconds):8.3f} s {spread:16} {memory}  {limit}", flush=True)


def size(path: Path) -> str:
    return f"{path.stat().st_size / MB:,.1f} MB"


# --- the parts


def bench_inspect(files: dict[str, Path]) -> None:
    print("inspect")
    for name in ("document", "large"):
        path = files[name]
        bare, taken = alternately("pass", MVAE, "inspect", path)
        times = statistics.median(taken[0]) / statistics.median(bare[0])
        row("python -c pass", *bare)
        row(f"mvae inspect, {size(path)}", *taken, f"{times:.1f} × python -c pass; limit 6 ×, 45 MB")
        row(f"  in process, {size(path)}", inside(lambda path=path: inspect(path)), None, "limit 0.030 s")  # type: ignore[misc]
        row("  torch.load, mmap and meta", *shell(TORCH_MMAP, path, times=3))
        if path.stat().st_size < 6e9:
            row("  torch.load, in full", *shell(TORCH_FULL, path, times=2))
    path = files["many"]
    row("mvae inspect, 80,000 tensors", *shell(MVAE, "inspect", path), "limit 2 s")
    row("  in process", inside(lambda: inspect(path), 3))


def bench_diff(files: dict[str, Path]) -> None:
    print("diff")
    a, b = files["large"], files["changed"]
    row(f"in process, two of {size(a)}: which changed", inside(lambda: diff(a, b)), None, "limit 0.1 s")
    found = diff(a, b)
    assert [change.name for change in found.changed] == ["state_dict.layers.7.weight"]
    assert found.by_bytes == 0
    row("  by how much", inside(lambda: diff(a, b).changed[0].amount, 3))
    row("mvae diff A A, from the shell", *shell(MVAE, "diff", a, a))
    row("mvae diff A A, 80,000 tensors", *shell(MVAE, "diff", files["many"], files["many"], times=3))


def bench_verify(files: dict[str, Path]) -> None:
    print("verify")
    for name, times in (("document", 5), ("large", 3)):
        path = files[name]
        row(f"mvae verify, {size(path)}", *shell(MVAE, "verify", path, times=times))
        row("  reading and a CRC-32, nothing else", *shell(PLAIN_CRC, path, times=times))
    row("mvae verify, 80,000 tensors", *shell(MVAE, "verify", files["many"], times=3))


def bench_salvage(files: dict[str, Path], folder: Path) -> None:
    print("salvage")
    path, cut, out = files["document"], folder / "cut.ckpt", folder / "out.ckpt"
    known = {entry.name: zlib.crc32(entry.tensor.storage.view()) for entry in inspect(path).tensors}  # type: ignore[union-attr]
    shutil.copyfile(path, cut)
    kept, nothing, wrong, seconds = [], 0, 0, []
    for percent in range(99, -1, -1):
        os.truncate(cut, path.stat().st_size * percent // 100)
        began = time.perf_counter()
        try:
            found = salvage(cut, out)
        except CheckpointError:
            nothing += 1
            continue
        seconds.append(time.perf_counter() - began)
        wrong += _wrong(out, known, found.kept)
        kept.append(len(found.kept))
    row(f"{size(path)} cut at 100 places", seconds)
    print(f"  saved {len(kept)} (of {len(known)} tensors, {min(kept)} to {max(kept)}), nothing to save {nothing}")
    print(f"  tensors that are not right to the bit: {wrong}")
    _flips(path, cut, known)
    for whole, times in ((path, 3), (files["large"], 1)):
        row(f"mvae salvage, whole, {size(whole)} written", *shell(MVAE, "salvage", whole, "-o", out, times=times))


def _wrong(out: Path, known: dict[str, int], kept: list[str]) -> int:
    """How many tensors in a salvaged file are not those that were saved. Reads every byte of it."""
    entries = inspect(out).tensors
    assert [entry.name for entry in entries] == kept
    return sum(zlib.crc32(entry.tensor.storage.view()) != known[entry.name] for entry in entries)  # type: ignore[union-attr]


def _flips(path: Path, copy: Path, known: dict[str, int]) -> None:
    """Flip one bit in each of 100 random places: verify must see it, and salvage must leave it out."""
    shutil.copyfile(path, copy)
    generator, seen, wrong, lost = random.Random(0), 0, 0, 0
    with open(copy, "r+b") as file:
        for _ in range(100):
            at, bit = generator.randrange(path.stat().st_size), 1 << generator.randrange(8)
            file.seek(at)
            old = file.read(1)[0]
            for byte in (old ^ bit, old):
                file.seek(at)
                file.write(bytes([byte]))
                file.flush()
                if byte == old:
                    continue
                seen += not verify(copy).ok
                target = io.BytesIO()
                found = salvage(copy, target)
                lost += len(found.lost)
                entries = inspect(target.getvalue()).tensors
                wrong += sum(zlib.crc32(e.tensor.storage.view()) != known[e.name] for e in entries)  # type: ignore[union-attr]
    print(f"  100 flipped bits: verify saw {seen}; salvage left out {lost} tensors and kept {wrong} wrong ones")


def bench_export(files: dict[str, Path], folder: Path) -> None:
    print("export")
    for ending in ("safetensors", "ckpt"):
        out = folder / f"weights.{ending}"
        row(f"mvae export to .{ending}", *shell(MVAE, "export", files["document"], "-o", out))
        left_out = ", ".join(export(files["document"], out).left_out)
        print(f"  {size(files['document'])} → {size(out)}; left out: {left_out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="0.5 GB in place of 5, a small network in place of the document's"
    )
    parser.add_argument("--only", choices=("inspect", "diff", "verify", "salvage", "export"))
    parser.add_argument("--folder", help="where the files are made, in a folder of its own that is removed afterwards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        files = {key: folder / f"{key}.ckpt" for key in ("document", "large", "changed", "many")}
        numel = 419_430 if options.quick else 4_194_304
        document_file(files["document"], 600 if options.quick else 6_807)
        large_file(files["large"], 300, numel)
        large_file(files["changed"], 300, numel, changed=7)
        large_file(files["many"], 80_000, 16)
        for part in [options.only] if options.only else ("inspect", "diff", "verify", "salvage", "export"):
            work = globals()[f"bench_{part}"]
            work(files, folder) if part in ("salvage", "export") else work(files)


if __name__ == "__main__":
    main()
