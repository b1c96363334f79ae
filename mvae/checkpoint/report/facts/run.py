"""A fact, and a checkpoint with the places that the rules look at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.pickled.meaning import meaning
from mvae.checkpoint.pickled.values import Object, Tensor
from mvae.checkpoint.report.byte_budget import Sections
from mvae.checkpoint.report.entries import TensorEntry
from mvae.errors import CheckpointError
from mvae.text import jsonable

FIT = ("loops", "fit_loop")
BATCHES = (*FIT, "epoch_loop.batch_progress")


@dataclass(frozen=True)
class Fact:
    """One thing that follows.

    Attributes:
        name: a short name for programs, such as `steps_per_epoch`.
        value: a number, text, bool, list or dict, as JSON takes it.
        text: one sentence for people.
        follows_from: path in the checkpoint → value there.
    """

    name: str
    value: Any
    text: str
    follows_from: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """value, text, derived (always true) and from, as JSON takes them."""
        found = {"value": self.value, "text": self.text, "derived": True, "from": self.follows_from}
        return {name: jsonable(part) for name, part in found.items()}


@dataclass
class Run:
    """A checkpoint, with the places that the rules look at.

    Attributes:
        file: the checkpoint.
        tensors: those in it.
        sections: which tensor is what.
        batch_size: of the training, if the file does not say; or None.
        tree: the checkpoint if it is a dict, else an empty one.
        optimizers: the states of the optimizers, each with its path.
    """

    file: Contents
    tensors: list[TensorEntry]
    sections: Sections
    batch_size: int | None

    def __post_init__(self) -> None:
        self.tree: dict[Any, Any] = self.file.tree if isinstance(self.file.tree, dict) else {}
        self.optimizers = self.sections.optimizers

    @property
    def is_lightning(self) -> bool:
        """True if Lightning wrote it."""
        return self.get("pytorch-lightning_version") is not None

    def get(self, *path: Any) -> Any:
        """The value at a path, or None. A tensor or numpy number with one element comes as a plain number."""
        value: Any = self.tree
        for step in path:
            value = meaning(value)
            if isinstance(value, (list, tuple)) and type(step) is int and step < len(value):
                value = value[step]
            elif isinstance(value, (dict, Object)):
                value = value.get(step)
            else:
                return None
        return plain(value)

    def number(self, *path: Any) -> Any:
        """As `get`, but only a number."""
        value = self.get(*path)
        return value if type(value) in (int, float) else None

    def setting(self, *names: str) -> tuple[str, Any] | None:
        """The first of these hyperparameters that is a number, with its path."""
        for group in ("hyper_parameters", "datamodule_hyper_parameters", "hparams", "args"):
            for name in names:
                value = self.number(group, name)
                if value is not None:
                    return f"{group}.{name}", value
        return None

    def callbacks(self, kind: str) -> Iterator[tuple[str, dict[Any, Any]]]:
        """The states of callbacks of a class, each with its key."""
        states = self.tree.get("callbacks")
        for key, state in states.items() if isinstance(states, dict) else ():
            if re.match(rf"(<.*\.)?{kind}\b", str(key)) and isinstance(state, dict):
                yield str(key), state

    def epochs_done(self) -> tuple[int, dict[str, Any]] | None:
        """Epochs whose every batch was processed, with where it stands; None within an epoch, or if it is not said.

        `epoch` does not say: it is the number of the current epoch. Neither does `processed` alone: in the moment
        between an epoch's last batch and its end, and after a run that `max_steps` ended, it is one off.
        """
        progress = (*FIT, "epoch_progress", "current")
        done, started = self.number(*progress, "processed"), self.number(*progress, "started")
        if type(done) is not int or done < 0 or self.in_epoch():
            return None
        name = "started" if started == done + 1 else "processed"
        epochs = done + (name == "started")
        total, each = self.number(*BATCHES, "total", "ready"), self.number(*BATCHES, "current", "ready")
        if total and each and total != epochs * each:
            return None  # the epochs were not all of one length
        return epochs, {f"loops.fit_loop.epoch_progress.current.{name}": epochs}

    def in_epoch(self) -> bool:
        """True if the file was saved in the middle of an epoch."""
        return bool(self.number(*BATCHES, "current", "ready")) and self.get(*BATCHES, "is_last_batch") is False


def plain(value: Any) -> Any:
    """A tensor with one element, or a numpy number, as a plain number; everything else unchanged."""
    if isinstance(value, Tensor) and value.numel == 1 and value.storage is not None:
        try:
            return value.item()
        except CheckpointError:
            return value
    return meaning(value)
