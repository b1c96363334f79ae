"""A training that is killed: the process of lesson 07.

python scripts/dying_run.py FOLDER [--die-at-step N | --die-in-save N]

Trains with `fit(…, resume=True)`: the same command, started again, goes on from the newest whole file in FOLDER.
At the end the weights are in FOLDER/weights.pt.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from mvae import Interactions, InteractionsDataModule, MultiVAE, fit, load_movielens


def die() -> None:
    """What `kill -9` does: the system ends the process, and nothing in it is asked."""
    os.kill(os.getpid(), signal.SIGKILL)


class DiesAt(Callback):
    """Ends the process after an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Die, if it is time."""
        if trainer.global_step == self.step:
            die()


def die_in_save(number: int) -> None:
    """End the process when a checkpoint is written and has not got its name yet."""
    replace, left = os.replace, [number]

    def replace_or_die(source: Any, target: Any, **options: Any) -> None:
        if str(target).endswith(".ckpt"):
            left[0] -= 1
            if left[0] == 0:
                die()
        replace(source, target, **options)

    os.replace = replace_or_die


def main() -> None:
    """Train until the end, or until it is time to die."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die-at-step", type=int)
    parser.add_argument("--die-in-save", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.die_in_save:
        die_in_save(options.die_in_save)
    data = InteractionsDataModule(Interactions.from_ratings(load_movielens("100k")))
    torch.manual_seed(0)
    model = MultiVAE(data.num_items, hidden_dims=[200, 50])
    result = fit(
        data,
        model,
        out=options.folder,
        max_epochs=4,
        save_every=2,
        resume=True,
        progress=False,
        callbacks=[DiesAt(options.die_at_step)] if options.die_at_step else [],
        accelerator="cpu",
    )
    torch.save(result.trainer.lightning_module.state_dict(), options.folder / "weights.pt")


if __name__ == "__main__":
    main()
