"""A training on several processes: the script of lesson 11.

python scripts/several_processes.py FOLDER --devices N [--without-chance] [--sharded]

Every process runs this file. Lightning starts the others, and tells each which number it has. In FOLDER are then what
`fit` leaves, and `users-0.json`, `users-1.json` …: which users each process was given, step by step.

--without-chance   no dropout, and z = μ: what is left to differ between two runs is the order of additions
--sharded          every process keeps a part of each weight, and writes it into a file of its own (FSDP)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from mvae import Interactions, InteractionsDataModule, MultiVAE, fit, load_movielens
from mvae.training import quiet


class WithoutChance(MultiVAE):
    """Takes the middle of the cloud instead of a draw from it."""

    def sample(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """μ itself."""
        return mu


class Sharded(MultiVAE):
    """Keeps a part of each weight in each process (`fully_shard`, FSDP2), and gathers a layer when it is needed."""

    is_sharded = False

    def configure_model(self) -> None:
        """Lightning calls it in every process, and again before it validates."""
        if not self.is_sharded:
            for part in (self.encoder, self.mu, self.logvar, self.decoder):
                fully_shard(part, mesh=self.device_mesh["data_parallel"])
        self.is_sharded = True


class Users(Callback):
    """Notes the rows of the training matrix that this process was given, step by step."""

    def __init__(self, data: InteractionsDataModule) -> None:
        self.row_of = {row.tobytes(): number for number, row in enumerate(data.train.toarray().astype(bool))}
        self.steps: list[list[int]] = []

    def on_train_batch_start(self, trainer: L.Trainer, model: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Note one step."""
        self.steps.append([self.row_of[row.tobytes()] for row in batch.bool().numpy()])


def sharded(data: InteractionsDataModule, folder: Path, devices: int) -> int:
    """Train with Lightning's ModelParallelStrategy, and save through torch.distributed.checkpoint."""
    strategy = ModelParallelStrategy(
        data_parallel_size=devices,
        tensor_parallel_size=1,
        save_distributed_checkpoint=True,
        process_group_backend="gloo",
    )
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with quiet():
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices=devices,
            strategy=strategy,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            **silent,
        )
        trainer.fit(Sharded(data.num_items, hidden_dims=[60, 20]), datamodule=data)
        trainer.save_checkpoint(folder / "sharded.ckpt")
    return int(trainer.global_rank)


def main() -> None:
    """Train, and write down who was given whom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--without-chance", action="store_true")
    parser.add_argument("--sharded", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = InteractionsDataModule(Interactions.from_ratings(load_movielens("100k")), batch_size=127)
    torch.manual_seed(0)
    if options.sharded:
        sharded(data, options.folder, options.devices)
        return
    if options.without_chance:
        model: MultiVAE = WithoutChance(data.num_items, hidden_dims=[60, 20], dropout=0.0)
    else:
        model = MultiVAE(data.num_items, hidden_dims=[60, 20])
    users = Users(data)
    result = fit(
        data,
        model,
        out=options.folder,
        max_epochs=4,
        progress=False,
        callbacks=[users],
        accelerator="cpu",
        precision="64-true",
        devices=options.devices,
        strategy=DDPStrategy(process_group_backend="gloo") if options.devices > 1 else "auto",
    )
    number = result.trainer.global_rank
    (options.folder / f"users-{number}.json").write_text(json.dumps(users.steps), encoding="utf-8")


if __name__ == "__main__":
    main()
