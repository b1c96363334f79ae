"""The two files of lesson 06: a replica of the specimen, and a checkpoint whose making the reader does not know.

python scripts/case_files.py replica FOLDER     the specimen's network and counters; its weights are not the specimen's
python scripts/case_files.py unknown FOLDER     a short real training on MovieLens-100K with settings drawn by lot

The second writes `unknown.ckpt`, and `truth.json` with the settings: not to be opened before the lesson says so.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader

from mvae import Interactions, InteractionsDataModule, MultiVAE, load_movielens, synthetic
from mvae.training import quiet

NAME = "multi-vae-{epoch:02d}-{val_loss:.4f}"
SPECIMEN = {"epoch": 435, "global_step": 106_820, "lr": 1.5625e-05, "val_loss": 1064.78}
"""What its makers say of it: docs/specimen.md."""


def train(model: L.LightningModule, loaders: tuple[Any, Any], folder: Path, epochs: int, **options: Any) -> Path:
    """A plain Lightning run, as the specimen's makers describe theirs; the file of its best epoch."""
    saver = ModelCheckpoint(folder, NAME, monitor="val_loss", mode="min", save_top_k=1, save_last=False)
    callbacks: list[Callback] = [EarlyStopping("val_loss", patience=20), saver]
    with quiet():
        trainer = L.Trainer(
            max_epochs=epochs,
            callbacks=callbacks,
            accelerator="cpu",
            devices=1,
            num_sanity_val_steps=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(model, *loaders)
    return Path(saver.best_model_path)


def replica(folder: Path) -> Path:
    """The specimen's network, trained for two epochs of seven steps; then its counters are set to the specimen's."""
    data = InteractionsDataModule(synthetic(num_users=1_100, num_items=6807, interactions_per_user=5), batch_size=128)
    torch.manual_seed(5)
    rows = torch.from_numpy(data.train[: 7 * 128].toarray())
    small = train(MultiVAE(6807), (DataLoader(rows, 128), data.val_dataloader()), folder, epochs=2)
    checkpoint = torch.load(small, weights_only=True)
    small.unlink()

    epochs, steps = SPECIMEN["epoch"] + 1, SPECIMEN["global_step"]
    counts = {14: steps, 7: steps // epochs, 2: epochs, 1: epochs - 1}
    checkpoint["loops"]["fit_loop"] = recounted(checkpoint["loops"]["fit_loop"], counts)
    checkpoint["epoch"], checkpoint["global_step"] = SPECIMEN["epoch"], steps
    [adam] = checkpoint["optimizer_states"]
    for state in adam["state"].values():
        state["step"].fill_(steps)
    adam["param_groups"][0]["lr"] = SPECIMEN["lr"]
    [plateau] = checkpoint["lr_schedulers"]
    plateau |= {"best": SPECIMEN["val_loss"], "last_epoch": epochs, "_last_lr": [SPECIMEN["lr"]], "num_bad_epochs": 0}
    path = folder / f"multi-vae-epoch={SPECIMEN['epoch']}-val_loss={SPECIMEN['val_loss']:.4f}.ckpt"
    stopper, saver = checkpoint["callbacks"].values()
    score = torch.tensor(SPECIMEN["val_loss"])
    stopper["best_score"] = score
    named = {"best_model_path": str(path), "kth_best_model_path": str(path), "best_k_models": {str(path): score}}
    saver |= {"best_model_score": score, "current_score": score, "kth_value": score, **named}
    torch.save(checkpoint, path)
    return path


def recounted(progress: Any, counts: dict[int, int]) -> Any:
    """The counters of a small run as those of a large one: each number of the small one stands for one of the large."""
    if isinstance(progress, dict):
        return {key: recounted(value, counts) for key, value in progress.items()}
    return counts.get(progress, progress) if type(progress) is int else progress


class Unknown(MultiVAE):
    """Mult-VAE with another schedule. It is no hyperparameter, so nothing in the file names it but the scheduler."""

    schedule: ClassVar[dict[str, Any]]

    def configure_optimizers(self) -> Any:
        """As MultiVAE, with the schedule drawn."""
        optimizer = torch.optim.Adam(
            self.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"]
        )
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def unknown(folder: Path, lot: int = 2018) -> Path:
    """Train for real, with settings that nobody chose."""
    draw = random.Random(lot)
    settings = {
        "min_rating": draw.choice([3.0, 4.0, 5.0]),
        "batch_size": draw.choice([32, 64, 100, 128, 200]),
        "seed": draw.randrange(1_000),
        "max_epochs": draw.randrange(30, 45),
        "factor": draw.choice([0.1, 0.25, 0.3, 0.5]),
        "wait": draw.choice([1, 2]),
    }
    hyper_parameters = {
        "dropout": draw.choice([0.3, 0.5, 0.7]),
        "lr": draw.choice([1e-3, 2e-3, 3e-3]),
        "kl_max_weight": draw.choice([0.2, 0.5, 1.0]),
        "kl_anneal_steps": draw.choice([100, 200, 2_000]),
    }
    data = InteractionsDataModule(Interactions.from_ratings(load_movielens("100k"), settings["min_rating"]))
    torch.manual_seed(settings["seed"])
    Unknown.schedule = {"factor": settings["factor"], "patience": settings["wait"]}
    model = Unknown(num_items=data.num_items, **hyper_parameters)
    rows = torch.from_numpy(data.train.toarray())
    loader = DataLoader(rows, settings["batch_size"], shuffle=True)
    best = train(model, (loader, data.val_dataloader()), folder, settings["max_epochs"], precision="64-true")
    facts = {"users": len(rows), "items": data.num_items, "steps_per_epoch": len(loader)}
    (folder / "truth.json").write_text(json.dumps(settings | hyper_parameters | facts, indent=1), encoding="utf-8")
    return best.rename(folder / "unknown.ckpt")


def main() -> None:
    """Write one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["replica", "unknown"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a short training is quicker on one core
    options.folder.mkdir(parents=True, exist_ok=True)
    print({"replica": replica, "unknown": unknown}[options.which](options.folder).name)


if __name__ == "__main__":
    main()
