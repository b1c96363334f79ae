"""Small real trainings that are crashed, resumed and compared: what the matrix of exactness is made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torchmetrics import MeanMetric

from mvae.checkpoint import ExactResume
from mvae.training import quiet

ROWS, WIDTH, BATCH = 22, 4, 4  # six batches an epoch, the last one smaller


class Net(L.LightningModule):
    """Dropout, batch norm, a rate that falls, a mean over the epoch, and a metric of torchmetrics."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.Dropout(0.3))
        self.head = nn.Linear(6, 1)
        self.seen = MeanMetric()

    def loss(self, batch: Any) -> torch.Tensor:
        parts = _tensors(batch)
        dtype = self.head.weight.dtype
        return sum((self.head(self.body(part.to(dtype))) ** 2).mean() for part in parts)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=4)
        self.seen(loss.detach())
        self.log("train_seen", self.seen, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch) + torch.rand(()), batch_size=4)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.8)]


def _tensors(batch: Any) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    inner = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return [tensor for value in inner for tensor in _tensors(value)]


class Rows(Logger):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    name = version = "rows"  # type: ignore[assignment]

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))


class Trace(Callback):
    """What went into each step, and draws of its own from every generator."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: L.Trainer, model: Any, batch: Any, batch_idx: int) -> None:
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        draws = random.random(), float(np.random.rand()), float(torch.rand(1))
        sums = [float(tensor.double().sum()) for tensor in _tensors(batch)]
        self.seen.append((trainer.global_step, trainer.current_epoch, batch_idx, sums, rates, *draws))

    def on_validation_end(self, trainer: L.Trainer, model: Any) -> None:
        if trainer.sanity_checking:
            return
        self.seen.append(("validation", trainer.global_step, float(trainer.callback_metrics.get("val_loss", -1))))

    def on_train_epoch_end(self, trainer: L.Trainer, model: Any) -> None:
        self.seen.append(("epoch end", trainer.current_epoch, float(trainer.callback_metrics["train_loss_epoch"])))


class Crash(RuntimeError):  # noqa: N818
    pass


class SaveAt(Checkpoint):
    """Saves once, after a batch, a validation or an epoch; Lightning runs such callbacks last. Counts as it goes."""

    def __init__(self, place: tuple[str, int] | None, folder: Path | None) -> None:
        self.place, self.folder = place, folder
        self.saved = False

    def _at(self, trainer: L.Trainer, hook: str, number: int) -> None:
        if self.folder is not None and not self.saved and self.place == (hook, number):
            self.saved = True
            trainer.save_checkpoint(self.folder / "newest.ckpt")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._at(trainer, "batch", trainer.fit_loop.total_batch_idx + 1)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._at(trainer, "validation", trainer.fit_loop.total_batch_idx + 1)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._at(trainer, "epoch", trainer.current_epoch + 1)


class CrashAt(Callback):
    """Dies so many batches after the file was saved; 0: as soon as it is."""

    def __init__(self, saver: SaveAt, batches: int) -> None:
        self.saver, self.left = saver, batches

    def _step(self) -> None:
        if self.saver.saved:
            self.left -= 1
            if self.left < 0:
                raise Crash

    def on_train_batch_start(self, *_: Any) -> None:
        self._step()

    def on_validation_start(self, *_: Any) -> None:
        if self.left <= 0:
            self._step()


@dataclass
class Situation:
    """One way to train.

    Attributes:
        loader: makes the training loader.
        net: makes the model.
        options: of the Trainer.
        callbacks: makes the callbacks besides the harness's own.
        plugins: makes the Trainer's plugins.
        validation: makes the validation loader.
    """

    loader: Callable[[], Any]
    net: Callable[[], L.LightningModule] = Net
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list
    plugins: Callable[[], list[Any]] = list
    validation: Callable[[], Any] | None = None


ENDED_IN = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "callbacks", "averaging_state")


class Run:
    """One training: what it saw and logged, and the state it ended in."""

    def __init__(
        self,
        situation: Situation,
        saver: Checkpoint | None = None,
        resume: Path | None = None,
        crash: Callback | None = None,
        exact: ExactResume | None = None,
    ) -> None:
        L.seed_everything(0, verbose=False)
        model = situation.net()
        if resume is not None:
            random.seed(9), np.random.seed(9), torch.manual_seed(9)
        trace, rows = Trace(), Rows()
        callbacks = [
            *situation.callbacks(),
            trace,
            exact or ExactResume(),
            *([crash] if crash else []),
            *([saver] if saver else []),
        ]
        validation = (
            torch.utils.data.DataLoader(rows_of(6), batch_size=3)
            if situation.validation is None
            else situation.validation()
        )
        with quiet():
            self.trainer = trainer = L.Trainer(
                callbacks=callbacks,
                logger=rows,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=bool(saver),
                log_every_n_steps=1,
                accelerator="cpu",
                plugins=situation.plugins(),
                **{"max_epochs": 3} | situation.options,
            )
            try:
                trainer.fit(model, situation.loader(), validation, ckpt_path=resume, weights_only=False)
                self.crashed = False
            except Crash:
                self.crashed = True
        self.seen, self.rows, self.model = trace.seen, rows.rows, model
        if not self.crashed:
            saved = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            self.state = {key: saved[key] for key in ENDED_IN if key in saved}
            self.state["callbacks"] = {
                key: value for key, value in saved["callbacks"].items() if not key.startswith(("ExactResume", "Timer"))
            }
            self.state["metrics"] = {name: value.clone() for name, value in trainer.callback_metrics.items()}


def rows_of(number: int) -> torch.Tensor:
    return torch.arange(number * WIDTH, dtype=torch.float32).reshape(number, WIDTH) / (number * WIDTH)


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, dict):
        if one.keys() != other.keys():
            yield f"{path}: {one.keys() ^ other.keys()}"
        else:
            for key in one:
                yield from differences(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{path}: {len(one)} and {len(other)} entries"
        for number, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from differences(a, b, f"{path}.{number}")
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield path
    elif one != other:
        yield f"{path}: {one} and {other}"


def all_differences(whole: Run, resumed: Run) -> list[str]:
    """In which weight, moment, rate, callback, metric, batch or random number they differ."""
    found = list(differences(whole.state, resumed.state))
    for name in ("seen", "rows"):
        ours, theirs = getattr(resumed, name), getattr(whole, name)
        tail = theirs[len(theirs) - len(ours) :]
        if len(ours) > len(theirs):
            found.append(f"{name}: {len(ours)} of {len(theirs)}")
        found += differences(tail, ours, name)
    return found
