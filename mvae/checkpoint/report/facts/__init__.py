"""What the numbers in a checkpoint give away about the run that made it.

Nothing here is written in the file: each fact is derived, says so, and carries the values it follows from, so that a
reader can check it by hand. A fact that does not follow is left out rather than guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.report.byte_budget import Sections
from mvae.checkpoint.report.entries import TensorEntry
from mvae.checkpoint.report.facts import about_resuming, about_training, about_weights
from mvae.checkpoint.report.facts.run import Fact as Fact
from mvae.checkpoint.report.facts.run import Run

RULES: list[Callable[[Run], Iterator[Fact]]] = [
    about_weights.contents,
    about_weights.parameters,
    about_resuming.optimizer,
    about_weights.precision,
    about_training.steps_per_epoch,
    about_training.training_examples,
    about_training.learning_rate,
    about_training.kl_annealing,
    about_training.best,
    about_training.early_stopping,
    about_weights.wrapped,
    about_weights.copies,
    about_weights.oversized,
    about_resuming.beyond_lightning,
    about_resuming.resuming,
]


def derive(
    contents: Contents, tensors: list[TensorEntry], sections: Sections, batch_size: int | None = None
) -> list[Fact]:
    """Every fact that follows from a checkpoint.

    Args:
        contents: the checkpoint.
        tensors: those in it.
        sections: what each of them belongs to.
        batch_size: of the training, if the file does not say.
    """
    facts: list[Fact] = []
    run = Run(contents, tensors, sections, batch_size)
    for rule in RULES:
        try:
            facts.extend(rule(run))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            continue  # a value is not of the type that Lightning writes: nothing follows from it
    return facts
