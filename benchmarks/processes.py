"""Seconds of a training step at the document's size, on one process or several.

python -m benchmarks.processes --devices N [--threads T]

6,807 items, 31,360 users, 128 users a step, layers of 600 and 200. Five steps to warm up, then the median of twenty.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from mvae import InteractionsDataModule, MultiVAE, fit
from mvae.data import synthetic

WARM, COUNTED = 5, 20


class Clock(Callback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, model: L.LightningModule, *_: Any) -> None:
        """Note one step."""
        self.ends.append(time.perf_counter())


def main() -> None:
    """Train for 25 steps; process 0 prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = InteractionsDataModule(synthetic(31_360, 6_807), batch_size=128)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        result = fit(
            data,
            MultiVAE(data.num_items),
            out=folder,
            max_epochs=1,
            progress=False,
            callbacks=[clock],
            accelerator="cpu",
            devices=options.devices,
            strategy=DDPStrategy(process_group_backend="gloo") if options.devices > 1 else "auto",
            limit_train_batches=WARM + COUNTED,
            limit_val_batches=1,
        )
    seconds = [b - a for a, b in zip(clock.ends[WARM - 1 :], clock.ends[WARM:], strict=False)]
    if result.trainer.global_rank == 0:
        print(f"{options.devices} processes of {options.threads} threads: {statistics.median(seconds):.3f} s a step")


if __name__ == "__main__":
    main()
