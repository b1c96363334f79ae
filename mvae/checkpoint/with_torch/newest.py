"""The newest state of a training on the disk: at an interval, and when a signal ends the run."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

Interval = str | int | timedelta
"""`"epoch"`, a number of optimizer steps, or a time."""

EPOCH = "epoch"


def interval(given: Interval) -> Interval:
    """`"epoch"`, `100`, `"100"` (steps) or `"10 min"` as SaveNewest wants it; also seconds and hours.

    Raises:
        ValueError: it is none of these, or not above zero.
    """
    meant = given
    if isinstance(given, str):
        written = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|sec|min|h)", given.strip())
        if written:
            meant = timedelta(seconds=float(written[1]) * {"s": 1, "sec": 1, "min": 60, "h": 3600}[written[2]])
        elif given.strip().isdecimal():
            meant = int(given)
    positive = meant > timedelta(0) if isinstance(meant, timedelta) else isinstance(meant, int) and meant > 0
    if meant != EPOCH and not positive:
        raise ValueError(
            f'{given!r} is no interval to save at. Expected "epoch", a number of steps such as 100, or a time such as '
            '"10 min", "30 s" or "2 h".'
        )
    return meant


class TrainingStopped(SystemExit):
    """A signal ended the training. A program that does not catch it ends with `code`.

    Attributes:
        code: 143 after SIGTERM, 130 after Ctrl-C: 128 and the signal's number, as shells have it.
        checkpoint: the state at the end, to resume from; None if it was to stop at once.
    """

    def __init__(self, signum: int, checkpoint: Path | None) -> None:
        super().__init__(128 + signum)
        self.checkpoint = checkpoint


class SaveNewest(Checkpoint):
    """Keep the newest state of a training in a folder, so that a run that was killed goes on from there.

    It is saved as `newest-epoch=E-step=S.ckpt` at an interval, at the end of the training, and on SIGTERM (a job
    that is preempted) and Ctrl-C: then the step under way is finished, the state saved, and `TrainingStopped`
    raised. A second Ctrl-C stops at once. Always after an optimizer step or at an epoch's end, never within a step
    and never with gradients still being accumulated; a signal during a validation waits for its end.

    The files are Lightning's own checkpoints. They are written durably with `DurableCheckpointIO` and resumed exactly
    with `ExactResume` among the callbacks; `fit` wires the three.

    Args:
        folder: where to save.
        every: `"epoch"`, a number of optimizer steps, or a `timedelta`; None: only on a signal.
        keep: so many of the newest files stay.
        options: what the training was started with, for the one who resumes it; plain values, saved in every
            checkpoint of the run under `callbacks["SaveNewest"]["options"]`.
        resume_line: what to do to go on, printed when a signal ends the run.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: Interval | None = None,
        keep: int = 1,
        options: dict[str, Any] | None = None,
        resume_line: str = "",
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; expected how many of the newest files stay, at least 1.")
        self.folder = Path(folder)
        self.every = None if every is None else interval(every)
        self.keep = keep
        self.options = options or {}
        self.resume_line = resume_line
        self.started = time.time()
        self.ended = ""
        self.files: list[str] = []
        self._own = False
        self._signal = 0
        self._handlers: dict[int, Any] = {}

    # --- what is in the checkpoint

    @property
    def state_key(self) -> str:
        return "SaveNewest"

    def state_dict(self) -> dict[str, Any]:
        """`started` (seconds since 1970), `ended` (why, if it has), the `files` kept and the `options`."""
        if self.every is None and not self.files and not self.options:
            return {}
        return {"started": self.started, "ended": self.ended, "files": list(self.files), "options": self.options}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._own = True
        self.started, self.ended = state_dict["started"], state_dict["ended"]
        self.files = [file for file in state_dict["files"] if (self.folder / file).exists()]

    def on_load_checkpoint(self, trainer: L.Trainer, model: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A folder that was moved, or named in another way, is no reason to forget the best checkpoint in it."""
        for saver in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(saver.state_key)
            if isinstance(saver, ModelCheckpoint) and state and os.path.isdir(str(saver.dirpath)):
                _move(state, str(saver.dirpath))
                saver.current_score = state["current_score"]  # Lightning saves it, and does not restore it

    # --- when to save

    def on_train_start(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.ended == "early"
        if self._own:  # Lightning never removes the file it resumed from; but here it is one of the run's own, and the
            trainer.ckpt_path = None  # best so far must make room for a better one, as in an uninterrupted run
        self._signal = 0
        self._saved_at = time.monotonic()
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._handlers[signum] = signal.signal(signum, self._note)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        step, self._step = self._step, trainer.global_step
        if trainer.global_step != step:  # else gradients are being accumulated
            self._save_if(self._is_due(trainer), trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        self.ended = _end(trainer)
        self._save_if(self.every is not None and (bool(self.ended) or self.every == EPOCH), trainer)

    def on_train_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        self._give_back()
        stop = self._stop_signal(trainer)
        if stop:  # it came after the last save
            self._stop(trainer, stop)

    def on_exception(self, trainer: L.Trainer, model: L.LightningModule, exception: BaseException) -> None:
        self._give_back()

    def _give_back(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _is_due(self, trainer: L.Trainer) -> bool:
        if isinstance(self.every, timedelta):
            due = time.monotonic() - self._saved_at >= self.every.total_seconds()
            return trainer.strategy.reduce_boolean_decision(due, all=False)  # every process must save, or none
        return isinstance(self.every, int) and trainer.global_step % self.every == 0

    # --- saving

    def _save_if(self, due: bool, trainer: L.Trainer) -> None:
        """Save if it is due, or if a signal ends the run here."""
        stop = self._stop_signal(trainer)
        if stop or due:
            self._save(trainer)
        if stop:
            self._stop(trainer, stop)

    def _save(self, trainer: L.Trainer) -> None:
        self._saved_at = time.monotonic()
        name = f"newest-epoch={trainer.current_epoch:02d}-step={trainer.global_step}.ckpt"
        # Those that are about to go are in the list that is saved: killed in between, the resumed run removes them.
        self.files = [*(file for file in self.files if file != name), name]
        trainer.save_checkpoint(self.folder / name)
        for file in self.files[: -self.keep]:
            trainer.strategy.remove_checkpoint(self.folder / file)
        self.files = self.files[-self.keep :]

    # --- signals

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._signal == signum == signal.SIGINT:
            raise TrainingStopped(signum, None)
        self._signal = self._signal or signum

    def _stop_signal(self, trainer: L.Trainer) -> int:
        """The signal that came, to this process or to another of the run; 0 if none did."""
        mine = self._signal or (signal.SIGTERM if trainer.received_sigterm else 0)
        if trainer.world_size > 1:
            for signum in (signal.SIGINT, signal.SIGTERM):
                if trainer.strategy.reduce_boolean_decision(mine == signum, all=False):
                    return signum
        return mine

    def _stop(self, trainer: L.Trainer, signum: int) -> NoReturn:
        path = self.folder / self.files[-1] if self.files else None
        if trainer.is_global_zero:
            name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
            state = f"; the state is saved in {path}." if path else ", at its end."
            line = f" To go on: {self.resume_line}" if self.resume_line else ""
            print(f"Stopped by {name} after step {trainer.global_step:,}{state}{line}", file=sys.stderr, flush=True)
        raise TrainingStopped(signum, path)


def _end(trainer: L.Trainer) -> str:
    """Why this epoch was the last: "limit" or "early"; "" if it was not."""
    epochs, max_epochs, max_steps = trainer.current_epoch + 1, trainer.max_epochs or -1, trainer.max_steps
    if 0 < max_epochs <= epochs or 0 < max_steps <= trainer.global_step:
        return "limit"
    long_enough = epochs >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
    return "early" if trainer.should_stop and long_enough else ""


def _move(state: dict[str, Any], folder: str) -> None:
    """Let a ModelCheckpoint's state speak of the same files in the folder they are in now, and of none that is gone.

    Where the folder is another one, without those files, Lightning says so itself, and begins anew.
    """

    def here(path: str) -> str:
        return os.path.join(folder, os.path.basename(path)) if path else ""

    kept = {here(path): score for path, score in state["best_k_models"].items() if os.path.exists(here(path))}
    lost = [os.path.basename(path) for path in state["best_k_models"] if here(path) not in kept]
    if lost and state["dirpath"] != folder:
        return
    state.update(dirpath=folder, best_k_models=kept)
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[name] = here(state.get(name, ""))
    if lost:
        rank_zero_warn(f"{', '.join(lost)} is not in {folder}: the best from here on is kept.")
        state.update(best_model_path="", best_model_score=None, kth_best_model_path="")
