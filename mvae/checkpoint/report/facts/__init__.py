"""What the numbers in a checkpoint give away about the run that made it.

Nothing here is written in the file: each fact is derived, says so, and carries the values it follows from, so that a
reader can check it by hand. A fact that does not follow is left out rather than guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mvae.checkpoint.report.facts import about_resuming, about_training, about_weights
from mvae.checkpoint.report.facts.run import Fact as Fact
from mvae.checkpoint.report.facts.run import Run as Run

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


def derive(run: Run) -> list[Fact]:
    """Every fact that follows from a checkpoint."""
    facts: list[Fact] = []
    for rule in RULES:
        try:
            facts.extend(rule(run))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            continue  # a value is not of the type that Lightning writes: nothing follows from it
    return facts
