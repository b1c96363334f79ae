"""Draw the README's pictures again, into docs/: where a checkpoint's bytes are, and what `mvae inspect` shows.

python scripts/pictures.py
"""

from __future__ import annotations

import os
import tempfile
from contextlib import chdir
from pathlib import Path

import lightning as L
import matplotlib
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from mvae import InteractionsDataModule, MultiVAE, synthetic
from mvae.checkpoint import inspect
from mvae.checkpoint.drawing.figure import byte_budget_figure
from mvae.checkpoint.drawing.terminal import print_tree
from mvae.training import quiet

DOCS = Path(__file__).resolve().parents[1] / "docs"


def specimen(folder: Path) -> Path:
    """A checkpoint of the network that the course is about: 6,807 items, 8,497,007 parameters, Adam."""
    data = InteractionsDataModule(synthetic(num_users=500, num_items=6807, interactions_per_user=8.0))
    saver = ModelCheckpoint(dirpath=folder, filename="multi-vae", monitor="val_loss")
    with quiet():
        trainer = L.Trainer(
            max_epochs=2,
            callbacks=[EarlyStopping("val_loss"), saver],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(MultiVAE(num_items=6807), data.train_dataloader(), data.val_dataloader())
    return Path(saver.best_model_path)


def main() -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from rich.console import Console

    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        file = inspect(specimen(Path(folder)).name)
        byte_budget_figure(file)
        pyplot.savefig(DOCS / "budget.png", dpi=110)
        console = Console(record=True, width=110, file=open(os.devnull, "w"))  # noqa: SIM115
        print_tree(file, depth=1, console=console)
        console.save_svg(str(DOCS / "inspect.svg"), title="mvae inspect multi-vae.ckpt")


if __name__ == "__main__":
    main()
