"""What saving costs, what a kill costs, and whether a resumed run is the same run.

    python -m benchmarks.checkpoint_save                  everything (about 25 minutes; 11 GB of memory and of disk)
    python -m benchmarks.checkpoint_save --quick          the same in small
    python -m benchmarks.checkpoint_save --only kills     one part: save, kills, resumes or cost

**save**: the network of 6,807 items with Adam (102 MB), and one of 5 GB, saved by Lightning's own
``TorchCheckpointIO``, by the same with an ``fsync`` after it, and by ``DurableCheckpointIO``. The peak is the
checkpoint in memory and what the process grows by above it: 1.00 means that there is no copy.

**kills**: a process that saves one checkpoint after the other over the last one is ended by ``kill -9`` at a random
moment. Good is a file that loads, has all checksums right, and is not older than the last save that returned.
``$TMPDIR`` is on another file system than the checkpoints, where there is one.

**resumes**: a training with dropout, shuffling, KL annealing and a learning rate that falls is ended by ``kill -9`` at
one to three random moments, resumed from the newest checkpoint each time, and compared with one left alone.

**cost**: what a step takes, and what ``ExactResume`` takes of it, in short epochs and in long ones. (Between two runs
without it there is a difference of one to two per cent already.)

Each measurement and each run is a process of its own, forked from this one so that none pays for the imports.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import shutil
import signal
import statistics
import tempfile
import threading
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mvae import InteractionsDataModule, MultiVAE, fit, synthetic
from mvae.checkpoint import DurableCheckpointIO, ExactResume
from mvae.training import quiet


class WithFsync(TorchCheckpointIO):
    """Lightning's own, and then the least it would need to outlive a power cut."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        for name in (path, os.path.dirname(path)):
            descriptor = os.open(name, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


WRITERS = {"Lightning": TorchCheckpointIO, "Lightning + fsync": WithFsync, "DurableCheckpointIO": DurableCheckpointIO}


def start(work: Callable[[int], Any]) -> tuple[int, int]:
    """Run ``work`` in a process of its own, with a pipe to write to: its id, and the end to read from."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            work(write)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    return child, read


# --- save


def checkpoint_of(num_items: int) -> dict[str, Any]:
    """The network of the course for so many items, with what Adam keeps."""
    model = MultiVAE(num_items)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = model.configure_optimizers()["optimizer"]
    optimizer.step()
    optimizer.zero_grad()
    return {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "epoch": 0}


def memory(name: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def measure_save(writer: str, num_items: int, times: int, path: Path, pipe: int) -> None:
    """Write bytes of the file, bytes that the process grew by at most, and seconds of each save to a pipe."""
    checkpoint = checkpoint_of(num_items)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, seconds = memory("VmRSS"), []
    for _ in range(times):
        os.sync()
        began = time.perf_counter()
        WRITERS[writer]().save_checkpoint(checkpoint, path)
        seconds.append(time.perf_counter() - began)
    os.write(pipe, pickle.dumps((path.stat().st_size, memory("VmHWM") - before, seconds)))


def bench_save(folder: Path, quick: bool) -> None:
    print("save: peak memory for the checkpoint and its saving; seconds (median, least)")
    for num_items, times in [(6_807, 5)] if quick else [(6_807, 15), (347_000, 3)]:
        for writer in WRITERS:
            path = folder / "model.ckpt"
            child, read = start(partial(measure_save, writer, num_items, times, path))
            with os.fdopen(read, "rb") as pipe:
                size, grown, seconds = pickle.loads(pipe.read())
            os.waitpid(child, 0)
            path.unlink()
            print(
                f"  {size / 1e6:7,.1f} MB  {writer:20} peak {1 + grown / size:5.2f} × the checkpoint   "
                f"{statistics.median(seconds):6.2f} s, {min(seconds):6.2f} s",
                flush=True,
            )


# --- kills


def save_for_ever(writer: str, path: Path, numbers: int, pipe: int) -> None:
    tensors = [torch.zeros(numbers // 8) for _ in range(8)]
    for step in range(1, 10**9):
        for tensor in tensors:
            tensor.fill_(step)
        WRITERS[writer]().save_checkpoint({"step": step, "state_dict": tensors}, path)
        os.write(pipe, step.to_bytes(8, "little"))


def kill_once(writer: str, path: Path, numbers: int, delay: float) -> str:
    """Let it save, kill it ``delay`` seconds after the first save, and look: "good", or what is wrong."""
    child, read = start(partial(save_for_ever, writer, path, numbers))
    saved = os.read(read, 8)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 8):
        saved = more
    os.close(read)
    if not path.exists():
        return "no file"
    try:
        damaged = zipfile.ZipFile(path).testzip()
        found = torch.load(path, weights_only=True)
    except Exception:
        return "does not load"
    right = damaged is None and all(bool((tensor == found["step"]).all()) for tensor in found["state_dict"])
    return "damaged" if not right else "good" if found["step"] >= int.from_bytes(saved, "little") else "too old"


def bench_kills(folder: Path, quick: bool) -> None:
    kills, numbers = (20, 2_500_000) if quick else (200, 25_500_000)
    scratch = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    apart = "on another" if os.stat(folder).st_dev != os.stat(scratch).st_dev else "on the same"
    print(f"kills: {kills} saves of {numbers * 4 / 1e6:,.0f} MB, $TMPDIR {apart} file system")
    for writer in ("Lightning", "DurableCheckpointIO"):
        place, rng = folder / "kills", random.Random(0)
        place.mkdir()
        tempfile.tempdir = str(scratch)
        outcomes: Counter[str] = Counter()
        beside, in_scratch = 0, 0
        for _ in range(kills):
            outcomes[kill_once(writer, place / "last.ckpt", numbers, rng.uniform(0, 1))] += 1
            beside = max(beside, len(set(os.listdir(place)) - {"last.ckpt"}))
            for left in scratch.iterdir():  # nobody else would remove it, and here it fills the memory
                in_scratch += 1
                left.unlink()
        WRITERS[writer]().save_checkpoint({}, place / "last.ckpt")
        tempfile.tempdir = None
        print(
            f"  {writer:20} {', '.join(f'{count} {outcome}' for outcome, count in outcomes.most_common())}; litter: "
            f"{in_scratch} files in $TMPDIR, at most {beside} beside the checkpoint, "
            f"{len(os.listdir(place)) - 1} after the next save",
            flush=True,
        )
        shutil.rmtree(place)
    scratch.rmdir()


# --- resumes

EPOCHS, STEPS = 12, 132  # 11 batches an epoch


class Net(MultiVAE):
    """The learning rate falls within a few epochs."""

    def configure_optimizers(self) -> Any:
        chosen: Any = super().configure_optimizers()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(chosen["optimizer"], factor=0.5, patience=0)
        return chosen | {"lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Kill(Callback):
    """``kill -9`` a random moment after a step has begun."""

    def __init__(self, step: int, delay: float) -> None:
        self.step, self.delay = step, delay

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            threading.Timer(self.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()


class LightningAlone(ExactResume):
    """Takes the place of ExactResume in fit(), and does nothing."""

    on_save_checkpoint = Callback.on_save_checkpoint
    on_load_checkpoint = Callback.on_load_checkpoint
    setup = Callback.setup
    teardown = Callback.teardown
    on_fit_start = Callback.on_fit_start
    on_train_start = Callback.on_train_start
    on_train_batch_end = Callback.on_train_batch_end
    on_train_epoch_end = Callback.on_train_epoch_end
    on_train_end = Callback.on_train_end


def train(out: Path, every: int, exact: bool, kill: Kill | None = None, seed: int = 0) -> None:
    """One run to its end or to its kill, from the newest checkpoint in ``out`` if there is one."""
    data = InteractionsDataModule(synthetic(300, 200, interactions_per_user=15), batch_size=16)
    newest = out / "newest.ckpt"
    callbacks: list[Callback] = []
    callbacks += [ModelCheckpoint(out, newest.stem, every_n_train_steps=every, enable_version_counter=False)]
    callbacks += [] if exact else [LightningAlone()]
    callbacks += [kill] if kill else []
    resuming = newest.exists()
    result = fit(
        data,
        Net(200, [60, 20], lr=0.01, kl_anneal_steps=STEPS),
        out=out,
        max_epochs=EPOCHS,
        seed=seed if resuming else 0,
        progress=False,
        callbacks=callbacks,
        ckpt_path=newest if resuming else None,
    )
    result.trainer.save_checkpoint(out / "final.ckpt", weights_only=False)


def final_state(out: Path) -> dict[str, Any]:
    """Every weight, moment, rate and step count at the end, and β, rate and losses of every step and epoch."""
    checkpoint = torch.load(out / "final.ckpt", weights_only=True)
    kept = {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}
    return kept | {"history": (out / "history.csv").read_text()}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def bench_resumes(folder: Path, quick: bool) -> None:
    runs = 5 if quick else 50
    print(f"resumes: {runs} runs of {STEPS} steps, each killed one to three times")

    def run(out: Path, exact: bool, **options: Any) -> None:
        def work(_: int) -> None:
            # Lightning alone ends in an error if it left out a validation that early stopping asks for, or if the
            # best epoch so far does not come again and its file is gone.
            with nullcontext() if exact else suppress(RuntimeError, FileNotFoundError):
                train(out, exact=exact, **options)

        child, read = start(work)
        os.waitpid(child, 0)
        os.close(read)

    run(folder / "whole", exact=True, every=1)
    whole = final_state(folder / "whole")
    assert whole["global_step"] == STEPS
    rates = len({line.split(",")[3] for line in whole["history"].splitlines()[1:]})
    for exact in (False, True):
        rng, kills = random.Random(0), 0
        count: Counter[str] = Counter()
        for number in range(runs):
            out = folder / "resumed"
            every = rng.choice([1, 2, 3, 4, 6, 8, 11])
            # Not before the first checkpoint, and with some steps left to do.
            for step in sorted(rng.sample(range(12, STEPS - 12), rng.randint(1, 3))):
                run(out, exact, every=every, kill=Kill(step, rng.uniform(0, 0.03)), seed=number)
                kills += 1
            run(out, exact, every=every, seed=number)
            ended = (out / "final.ckpt").exists()
            count["error"] += not ended
            count["equal"] += ended and equal(final_state(out), whole)
            shutil.rmtree(out)
        name = "with ExactResume" if exact else "Lightning alone"
        print(
            f"  {name:20} {count['equal']} of {runs} equal in every weight, moment, rate and β; {count['error']} ended "
            f"in an error; {kills} kills, {rates} learning rates",
            flush=True,
        )


# --- cost


class WithoutScheduler(MultiVAE):
    def configure_optimizers(self) -> Any:
        return super().configure_optimizers()["optimizer"]


class Watched(ExactResume):
    """Notes what it takes itself in each step; the batch that it lets the loader fetch is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.own: list[float] = []

    def setup(self, trainer: Any, model: Any, stage: str) -> None:
        super().setup(trainer, model, stage)
        fetch = self._passes.fetch

        def timed(draw: Callable[[], Any]) -> Any:
            times = [time.perf_counter()]

            def noted() -> Any:
                times.append(time.perf_counter())
                batch = draw()
                times.append(time.perf_counter())
                return batch

            batch = fetch(noted)
            self.own.append(time.perf_counter() - times[2] + times[1] - times[0])
            return batch

        self._passes.fetch = timed  # type: ignore[method-assign]

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        began = time.perf_counter()
        super().on_train_batch_end(trainer, *arguments)
        self.own[-1] += time.perf_counter() - began


def measure_cost(batches: int, pipe: int) -> None:
    """Write the seconds of a step, and of these ExactResume's, to a pipe: the medians over one epoch."""
    import lightning as L

    class Clock(Callback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_batch_end(self, *_: Any) -> None:
            self.times.append(time.perf_counter())

    clock, exact = Clock(), Watched()
    rows = torch.zeros(128, 6_807).bernoulli_(0.02)
    loader = torch.utils.data.DataLoader([rows] * batches, batch_size=None, shuffle=True)  # type: ignore[arg-type,var-annotated]
    with quiet():
        trainer = L.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[exact, clock], limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(WithoutScheduler(6_807), loader)
    steps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    os.write(pipe, pickle.dumps((statistics.median(steps), statistics.median(exact.own))))


def bench_cost(folder: Path, quick: bool) -> None:
    print("cost: a step, and what ExactResume takes of it, at 6,807 items and batches of 128 (medians)")
    for batches in (20, 60) if quick else (50, 500):
        child, read = start(partial(measure_cost, batches))
        with os.fdopen(read, "rb") as pipe:
            step, own = pickle.loads(pipe.read())
        os.waitpid(child, 0)
        print(f"  {batches:4} batches   {step * 1e3:6.1f} ms, of it {own * 1e3:5.2f} ms: {own / step:.2%}", flush=True)


PARTS = {"save": bench_save, "kills": bench_kills, "resumes": bench_resumes, "cost": bench_cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="fewer and smaller")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--folder", type=Path, default=Path("build"), help="on the disk to measure")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process that has started threads cannot be forked
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder.resolve()) as folder:
        for name, part in PARTS.items():
            if options.only in (None, name):
                part(Path(folder), options.quick)


if __name__ == "__main__":
    main()
