"""fit(): the Trainer and its callbacks, wired as in lesson 02, and a run that goes on where it was killed."""

from __future__ import annotations

import logging
import math
import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from mvae.callbacks import History, OwnRandomNumbers, Progress
from mvae.checkpoint.tools.newest import damage_in, find_newest, resumable
from mvae.checkpoint.with_torch.newest import Interval, SaveNewest
from mvae.checkpoint.with_torch.resume import ExactResume
from mvae.checkpoint.with_torch.saving import DurableCheckpointIO
from mvae.data.vocabulary import VocabularyDataModule, find_vocabulary
from mvae.errors import CheckpointError, CheckpointNotFoundError
from mvae.models import SMALL_DATA as SMALL_DATA
from mvae.models import ItemModel, kind_of


@dataclass(frozen=True)
class FitResult:
    """What `fit` leaves.

    Attributes:
        model: the model with the weights of the best epoch, in eval mode; float32, whatever it was trained in.
        checkpoint: the file they are in.
        history: one row a step (`History`), also in `history.csv` beside the checkpoint.
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
    save_every: Interval | None = None,
    resume: bool | str | Path = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    ckpt_path: str | Path | None = None,
    **trainer_options: Any,
) -> FitResult:
    """Train until `val_loss` has not fallen for `patience` epochs, and keep the best epoch's checkpoint.

    Checkpoints are written whole or not at all (`DurableCheckpointIO`), and a run that is
    resumed from one equals a run that was never interrupted (`ExactResume`). On SIGTERM and
    on Ctrl-C the step under way is finished, its state saved, and
    `TrainingStopped` raised: exit code 143 or 130, if nothing catches it. A program that
    calls `fit(…, resume=True)` can be killed at any moment and started again, until it ends.

    Args:
        datamodule: the data.
        model: what to train; by default a new `MultiVAE(datamodule.num_items, **SMALL_DATA)`, or what
            `mvae.models.KINDS` says for other data. The weights of a model you pass in are your own: seed
            before you make it.
        out: folder for the checkpoint and `history.csv`.
        max_epochs: stop here at the latest.
        patience: epochs without a lower `val_loss` before training stops. A resumed run has that of its file.
        seed: seeds Python, NumPy and torch before the default model is made and trained.
        save_last: also keep `last.ckpt`, a copy of the newest checkpoint that was saved. (Lightning 2.6 writes it
            where it writes a best one, not in every epoch.)
        save_every: also keep the newest state (`SaveNewest`): `"epoch"`, a number of steps,
            or a time such as `"10 min"`. No more than that, and the step under way, is ever lost. By default
            `"1 min"` if `resume` is given; otherwise only the best is saved.
        resume: True: go on from the newest whole checkpoint in `out` (`get_newest_checkpoint`), or start
            where there is none yet. A file, or another folder: go on from it, with the same data. A run that had
            ended is not trained again: with a larger `max_epochs` it goes on, unless early stopping ended it.
        progress: show a live bar where there is a screen.
        callbacks: more Lightning callbacks. An `ExactResume` or `SaveNewest` among them takes the place of ours.
        ckpt_path: Lightning's name for a file to `resume` from.
        trainer_options: anything else for `lightning.Trainer`, such as `precision="bf16-mixed"`. A
            `CheckpointIO` among its `plugins` takes the place of ours.

    Raises:
        DataError: the checkpoint to resume from was trained on another item vocabulary.
        TypeError: the model does not learn from such data.
        CheckpointError: the checkpoint is damaged, or holds no state of a training.
        CheckpointNotSavedError: `out` cannot be written to, or its disk is full.
        TrainingStopped: see above. It is a `SystemExit`.
    """
    kind = kind_of(datamodule, model)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    L.seed_everything(seed, verbose=False)
    resume = ckpt_path or resume
    history = History(out / "history.csv")
    saver = _saver(out, kind.model.file_name, save_last)
    others = [history, OwnRandomNumbers(seed), EarlyStopping("val_loss", patience=patience), *callbacks]
    others += [Progress()] if progress else []
    newest = SaveNewest(
        out, save_every or ("1 min" if resume else None), resume_line=f"fit(…, out={str(out)!r}, resume=True)"
    )
    with quiet():
        trainer = L.Trainer(
            max_epochs=max_epochs,
            callbacks=_in_order(others, saver, newest),
            plugins=_with_durable_io(trainer_options.pop("plugins", None)),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **{"devices": 1, "log_every_n_steps": 1} | trainer_options,
        )
        _warn_of_slow_bf16(trainer)
        if model is None:
            with trainer.init_module():  # in the precision it is trained in
                model = kind.model(datamodule.num_items, **kind.settings)
        start = _start(resume, out, model, datamodule)
        trainer.fit(model, datamodule=datamodule, ckpt_path=start, weights_only=True)
    return _result(trainer, model, history, saver, start)


def _warn_of_slow_bf16(trainer: L.Trainer) -> None:
    """bf16 without the instructions for it is computed number by number."""
    if not trainer.precision.startswith("bf16") or trainer.strategy.root_device.type != "cpu":
        return
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch's, not public; other processors are not x86
    asked = [getattr(torch.cpu, name)() for name in known if hasattr(torch.cpu, name)]
    if asked and not any(asked) and platform.machine().lower() in ("x86_64", "amd64"):
        rank_zero_warn(
            f"precision={trainer.precision!r} on a processor without bf16 instructions (avx512_bf16, amx): a step of "
            "the course's large model took 2,100 ms there, and 100 ms in float32. Leave precision out."
        )


def plain_run(
    model: L.LightningModule,
    data: L.LightningDataModule,
    folder: str | Path,
    epochs: int,
    *callbacks: Callback,
    ckpt_path: str | Path | None = None,
    **trainer_options: Any,
) -> L.Trainer:
    """A run with nothing but Lightning's own parts, set as the makers of the course's specimen set theirs.

    `fit` puts more into a checkpoint, and writes it more carefully; the lessons show the one beside the other.

    Returns:
        The Trainer; the file of the best epoch is in the folder, and its path in
        `trainer.checkpoint_callback.best_model_path`.
    """
    name = "multi-vae-{epoch:02d}-{val_loss:.4f}"
    saver = ModelCheckpoint(folder, name, monitor="val_loss", mode="min", save_top_k=1, save_last=False)
    own: list[Callback] = [EarlyStopping("val_loss", patience=20), *callbacks, saver]
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    options |= {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with quiet():
        trainer = L.Trainer(max_epochs=epochs, callbacks=own, **options | trainer_options)
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def _saver(out: Path, name: str, save_last: bool) -> ModelCheckpoint:
    """Keeps the best epoch's checkpoint."""
    return ModelCheckpoint(
        dirpath=out,
        filename=name + "-{epoch:02d}-{val_loss:.4f}",
        monitor="val_loss",
        mode="min",
        save_top_k=1,
        save_last=save_last,
        verbose=True,
    )


def _in_order(others: list[Callback], saver: ModelCheckpoint, newest: SaveNewest) -> list[Callback]:
    """The callbacks of a run. Those that save see what all the others did, and the newest state has the best one too.

    An ExactResume or SaveNewest among the others is taken instead of ours.
    """
    exact = [callback for callback in others if isinstance(callback, ExactResume)] or [ExactResume()]
    newest = next((callback for callback in others if isinstance(callback, SaveNewest)), newest)
    rest = [callback for callback in others if not isinstance(callback, (ExactResume, SaveNewest))]
    return [*rest, *exact, saver, newest]


def _start(
    resume: bool | str | Path, out: Path, model: L.LightningModule, datamodule: VocabularyDataModule
) -> Path | None:
    """The file to resume from; None to start anew.

    Raises:
        CheckpointError: there is none in the folder, or the file will not do.
        DataError: it was trained on another item vocabulary.
    """
    if resume is False or (resume is True and not any(out.glob("*.ckpt"))):
        return None
    path = out if resume is True else Path(resume)
    if path.is_dir():
        found = find_newest(path, partial(_foreign, model))
        for sentence in found.passed:
            rank_zero_warn(sentence)
        if found.path is None:
            raise CheckpointNotFoundError(
                f"There is no .ckpt file in {path} to resume from. {' '.join(found.passed)} To start anew, choose "
                "another folder or remove them."
            )
        path, tree = found.path, found.tree
    else:
        tree, reason = resumable(path)
        reason = reason or damage_in(path)
        if reason:
            raise CheckpointError(f"{path} cannot be resumed from: {reason}")
    # Lightning compares the weights first, and its message would be about sizes only.
    if vocabulary := find_vocabulary(tree):
        datamodule.load_state_dict(vocabulary[1])
    return path


def _foreign(model: L.LightningModule, tree: dict[str, Any]) -> str:
    """Why a checkpoint is not one of this kind of run; "" if it is."""
    weights = tree.get("state_dict")
    if not find_vocabulary(tree) or not isinstance(weights, dict):
        return "it was not trained with a data module of mvae: there is no item vocabulary in it."
    other = weights.keys() ^ model.state_dict().keys()
    return f"it is of another model: only one of the two has {min(map(str, other))}." if other else ""


def _result(
    trainer: L.Trainer, model: ItemModel, history: History, saver: ModelCheckpoint, start: Path | None
) -> FitResult:
    """The best model of a run that has ended.

    Raises:
        RuntimeError: there is none.
    """
    score = saver.best_model_score
    if start is not None and score is None:
        raise RuntimeError(
            f"{start} is from the end of its run: max_epochs={trainer.max_epochs} leaves nothing to train. Raise it."
        )
    if not saver.best_model_path or score is None or not math.isfinite(score):
        raise RuntimeError("Training ended without a model to keep: val_loss was never a finite number. Lower lr.")
    best = Path(saver.best_model_path)
    best_model = type(model).load_from_checkpoint(best, map_location=model.device, weights_only=True)
    return FitResult(best_model.eval(), best, history.table, trainer)


def _with_durable_io(plugins: Any) -> list[Any]:
    """The Trainer's plugins as a list, with `DurableCheckpointIO` unless there is a CheckpointIO already."""
    plugins = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins] if plugins else []
    has_io = any(isinstance(plugin, CheckpointIO) for plugin in plugins)
    return plugins if has_io else [*plugins, DurableCheckpointIO()]


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Lightning's banners, tips and advice; warnings and errors about the run itself come through."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for advice in (".*does not have many workers.*", ".*is not empty.*", ".*LeafSpec.*", ".*sync_dist=True.*"):
                warnings.filterwarnings("ignore", advice)
            yield
    finally:
        logger.setLevel(level)
