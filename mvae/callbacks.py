"""Lightning callbacks: what happened in a run, as a table; how far it is, on the screen; a seed for each process."""

from __future__ import annotations

import csv
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from mvae.durable import durable_file
from mvae.errors import DataError


class History(Callback):
    """One row for every optimizer step; the last row of an epoch carries the validation losses and metrics too.

    The table has `step` (optimizer steps done, 1 for the first), `epoch`, `beta` and `lr` (both as used in
    that step), and what the model logged: `train_loss`, `val_loss`, `val_ndcg@100`, …

    Args:
        path: CSV file for the table, written with every checkpoint and when training ends. A resumed run continues
            the file it finds there: the rows of steps that are taken again go, and missing ones are warned of. Of
            several processes the first one writes it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def on_train_start(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        if trainer.global_step > 0 and self.path is not None and self.path.exists():
            self.rows = _rows(self.path, trainer.global_step)
            missing = trainer.global_step - len(self.rows)
            if missing:
                rank_zero_warn(f"{self.path} has no row for {missing:,} of the {trainer.global_step:,} steps so far.")

    def on_train_batch_start(self, trainer: L.Trainer, model: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.rows and self.rows[-1]["step"] == trainer.global_step + 1:
            return  # gradients are accumulated: another batch of the same step
        row: dict[str, float] = {"step": trainer.global_step + 1, "epoch": trainer.current_epoch}
        row["beta"] = float(getattr(model, "beta", 0.0))
        row["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.rows.append(row)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._note(trainer, "train_")

    def on_validation_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._note(trainer, "val_")

    def _note(self, trainer: L.Trainer, prefix: str) -> None:
        logged = trainer.callback_metrics.items()
        if self.rows:  # none if a run is resumed without its table, and begins with a validation
            self.rows[-1].update({name: float(value) for name, value in logged if name.startswith(prefix)})

    def on_save_checkpoint(self, trainer: L.Trainer, model: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        with suppress(OSError):  # the checkpoint is about to be saved to the same folder, and will say it better
            self._write(trainer)

    def on_fit_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        if (
            not self.rows and self.path is not None and self.path.exists()
        ):  # a run that had ended already, or never began
            self.rows = _rows(self.path, trainer.global_step)
        else:
            self._write(trainer)

    def on_exception(self, trainer: L.Trainer, model: L.LightningModule, exception: BaseException) -> None:
        with suppress(OSError):  # which would hide the exception that brought us here
            self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if self.path is not None and self.rows and trainer.is_global_zero:
            with durable_file(self.path) as file:
                file.write(self.table.to_csv(index=False).encode())


def _rows(path: Path, steps: int) -> list[dict[str, float]]:
    """The rows of the first so many steps in a table that was written before, to the last bit."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]
        return [row for row in rows if row["step"] <= steps]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(
            f"{path} is not the history of a run: {error!r}. Move it elsewhere to go on without it."
        ) from None


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float(text or "nan")


class OwnRandomNumbers(Callback):
    """Of several processes, each draws its own dropout and its own z. One seed for all would give all the same ones."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def setup(self, trainer: L.Trainer, model: L.LightningModule, stage: str) -> None:
        if trainer.global_rank > 0:  # the first one draws what a process alone would draw
            torch.manual_seed(self.seed + trainer.global_rank)


class Progress(Callback):
    """A live bar over the epochs, in a terminal or in a notebook; nothing where nobody is looking.

    In a notebook the bar removes itself when training ends, so that no dead bar is stored with the page.
    """

    def on_fit_start(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        self.bar = _bar_for_this_screen() if trainer.is_global_zero else _NoBar()
        self.total = trainer.max_epochs or 0

    def on_train_epoch_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        metrics = trainer.callback_metrics
        shown = {"loss": "val_loss", "NDCG@100": "val_ndcg@100"}
        text = " · ".join(f"{name} {float(metrics[key]):.4g}" for name, key in shown.items() if key in metrics)
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        self.bar.update(
            trainer.current_epoch + 1, self.total, f"{text} · β {getattr(model, 'beta', 0):.3f} · lr {lr:.1e}"
        )

    def on_fit_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        self.bar.close()

    def on_exception(self, trainer: L.Trainer, model: L.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


class _NoBar:
    def update(self, done: int, total: int, text: str) -> None: ...

    def close(self) -> None: ...


class _TerminalBar(_NoBar):
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("epoch {task.completed}/{task.total}"), BarColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
        self.task = self.progress.add_task("", total=None)
        self.progress.start()

    def update(self, done: int, total: int, text: str) -> None:
        self.progress.update(self.task, completed=done, total=total, description=text)

    def close(self) -> None:
        self.progress.stop()


class _NotebookBar(_NoBar):
    """One output that is overwritten in place, and empty again at the end.

    So it is stored empty, and compares equal to what a run without a screen leaves.
    """

    EMPTY: ClassVar = {"text/plain": ""}

    def __init__(self) -> None:
        from IPython.display import display

        self.handle = display(self.EMPTY, raw=True, display_id=True)

    def update(self, done: int, total: int, text: str) -> None:
        html = (
            f'<progress value="{done}" max="{total}" style="width: 16em; vertical-align: middle"></progress> '
            f"epoch {done}/{total} · {text}"
        )
        self.handle.update({"text/html": html, "text/plain": f"epoch {done}/{total} · {text}"}, raw=True)

    def close(self) -> None:
        self.handle.update(self.EMPTY, raw=True)


def _bar_for_this_screen() -> _NoBar:
    if "ipykernel" in sys.modules and "IPython" in sys.modules:
        from IPython import get_ipython

        if getattr(get_ipython(), "kernel", None) is not None:
            return _NotebookBar()
    return _TerminalBar() if sys.stderr.isatty() else _NoBar()
