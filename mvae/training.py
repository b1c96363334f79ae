"""fit(): the Trainer and its callbacks, wired as in lesson 02."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins import CheckpointIO

from mvae.callbacks import History, Progress
from mvae.checkpoint.formats.reading import read
from mvae.checkpoint.with_torch.resume import ExactResume
from mvae.checkpoint.with_torch.saving import DurableCheckpointIO
from mvae.data.vocabulary import VocabularyDataModule, find_vocabulary
from mvae.models import SMALL_DATA as SMALL_DATA
from mvae.models import ItemModel, kind_of


@dataclass(frozen=True)
class FitResult:
    """What :func:`fit` leaves.

    Attributes:
        model: the model with the weights of the best epoch, in eval mode; float32, whatever it was trained in.
        checkpoint: the file they are in.
        history: one row a step (:class:`~mvae.callbacks.History`), also in ``history.csv`` beside the checkpoint.
        trainer: the Trainer, as it stood at the end.
    """

    model: ItemModel
    checkpoint: Path
    history: pd.DataFrame
    trainer: L.Trainer

    @property
    def epochs(self) -> pd.DataFrame:
        """The rows of the history that end an epoch: lr, losses and metrics, one row an epoch."""
        return self.history.dropna(subset=["val_loss"]).reset_index(drop=True)


def fit(
    datamodule: VocabularyDataModule,
    model: ItemModel | None = None,
    *,
    out: str | Path = "checkpoints",
    max_epochs: int = 200,
    patience: int = 20,
    seed: int = 0,
    save_last: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    ckpt_path: str | Path | None = None,
    **trainer_options: Any,
) -> FitResult:
    """Train until ``val_loss`` has not fallen for ``patience`` epochs, and keep the best epoch's checkpoint.

    Checkpoints are written whole or not at all (:class:`~mvae.checkpoint.DurableCheckpointIO`), and a run that is
    resumed from one equals a run that was never interrupted (:class:`~mvae.checkpoint.ExactResume`).

    Args:
        datamodule: the data.
        model: what to train; by default a new ``MultiVAE(datamodule.num_items, **SMALL_DATA)``, or what
            :data:`mvae.models.KINDS` says for other data. The weights of a model you pass in are your own: seed
            before you make it.
        out: folder for the checkpoint and ``history.csv``.
        max_epochs: stop here at the latest.
        patience: epochs without a lower ``val_loss`` before training stops.
        seed: seeds Python, NumPy and torch before the default model is made and trained.
        save_last: also keep ``last.ckpt``, a copy of the newest checkpoint that was saved. (Lightning 2.6 writes it
            where it writes a best one, not in every epoch.)
        progress: show a live bar where there is a screen.
        callbacks: more Lightning callbacks.
        ckpt_path: a checkpoint to resume from, with the same data and ``out``.
        trainer_options: anything else for ``lightning.Trainer``, such as ``precision="bf16-mixed"``. A
            ``CheckpointIO`` among its ``plugins`` takes the place of ours.

    Raises:
        DataError: ``ckpt_path`` was trained on another item vocabulary.
        TypeError: the model does not learn from such data.
        CheckpointNotSavedError: ``out`` cannot be written to, or its disk is full.
    """
    kind = kind_of(datamodule, model)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if ckpt_path is not None:
        _check_vocabulary(ckpt_path, datamodule)
    L.seed_everything(seed, verbose=False)
    history = History(out / "history.csv")
    saver = ModelCheckpoint(
        dirpath=out,
        filename=kind.model.file_name + "-{epoch:02d}-{val_loss:.4f}",
        monitor="val_loss",
        mode="min",
        save_top_k=1,
        save_last=save_last,
        verbose=True,
    )
    stopper = EarlyStopping(monitor="val_loss", mode="min", patience=patience)
    wired: list[Callback] = [history, stopper, *callbacks]
    if progress:
        wired.append(Progress())
    if not any(isinstance(callback, ExactResume) for callback in callbacks):
        wired.append(ExactResume())
    wired.append(saver)
    with quiet():
        trainer = L.Trainer(
            max_epochs=max_epochs,
            callbacks=wired,
            plugins=_with_durable_io(trainer_options.pop("plugins", None)),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **{"devices": 1, "log_every_n_steps": 1} | trainer_options,
        )
        if model is None:
            with trainer.init_module():  # in the precision it is trained in
                model = kind.model(datamodule.num_items, **kind.settings)
        trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    score = saver.best_model_score
    if ckpt_path is not None and score is None:
        raise RuntimeError(f"{ckpt_path} is from the end of its run: {max_epochs=} leaves nothing to train. Raise it.")
    if not saver.best_model_path or score is None or not math.isfinite(score):
        raise RuntimeError("Training ended without a model to keep: val_loss was never a finite number. Lower lr.")
    best = Path(saver.best_model_path)
    best_model = type(model).load_from_checkpoint(best, map_location=model.device, weights_only=True)
    return FitResult(best_model.eval(), best, history.table, trainer)


def _with_durable_io(plugins: Any) -> list[Any]:
    """The Trainer's plugins as a list, with :class:`DurableCheckpointIO` unless there is a CheckpointIO already."""
    plugins = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins] if plugins else []
    has_io = any(isinstance(plugin, CheckpointIO) for plugin in plugins)
    return plugins if has_io else [*plugins, DurableCheckpointIO()]


def _check_vocabulary(path: str | Path, datamodule: VocabularyDataModule) -> None:
    """Compare vocabularies before Lightning restores the weights, whose message would be about sizes only."""
    if vocabulary := find_vocabulary(read(path).tree):
        datamodule.load_state_dict(vocabulary[1])


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Lightning's banners, tips and advice; warnings and errors about the run itself come through."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for advice in (".*does not have many workers.*", ".*is not empty.*", ".*LeafSpec.*"):
                warnings.filterwarnings("ignore", advice)
            yield
    finally:
        logger.setLevel(level)
