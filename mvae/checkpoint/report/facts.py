"""What the numbers in a checkpoint give away about the run that made it.

Nothing here is written in the file: each fact is derived, says so, and carries the values it follows from, so that a
reader can check it by hand. A fact that does not follow is left out rather than guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.report import facts_about_resuming, facts_about_training, facts_about_weights
from mvae.checkpoint.report.entries import TensorEntry
from mvae.checkpoint.report.run import Fact as Fact
from mvae.checkpoint.report.run import Run

RULES: list[Callable[[Run], Iterator[Fact]]] = [
    facts_about_weights.contents,
    facts_about_weights.parameters,
    facts_about_resuming.optimizer,
    facts_about_weights.precision,
    facts_about_training.steps_per_epoch,
    facts_about_training.training_examples,
    facts_about_training.learning_rate,
    facts_about_training.kl_annealing,
    facts_about_training.best,
    facts_about_training.early_stopping,
    facts_about_weights.wrapped,
    facts_about_weights.copies,
    facts_about_weights.oversized,
    facts_about_resuming.beyond_lightning,
    facts_about_resuming.resuming,
]


def derive(contents: Contents, tensors: list[TensorEntry], batch_size: int | None = None) -> list[Fact]:
    """Every fact that follows from a checkpoint.

    Args:
        contents: the checkpoint.
        tensors: those in it.
        batch_size: of the training, if the file does not say.
    """
    facts: list[Fact] = []
    run = Run(contents, tensors, batch_size)
    for rule in RULES:
        try:
            facts.extend(rule(run))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            continue  # a value is not of the type that Lightning writes: nothing follows from it
    return facts
