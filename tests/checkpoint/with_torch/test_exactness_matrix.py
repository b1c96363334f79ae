"""Situations × loaders × where it was saved × where it died: crashed and resumed, each equals the uninterrupted run.

The nightly profile (``HYPOTHESIS_PROFILE=nightly``) runs every cell, the others every tenth.
"""

from __future__ import annotations

import os
import re
import warnings
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from exact_loaders import LOADERS, SLOW_LOADERS
from exact_runs import CrashAt, Run, SaveAt, Situation, all_differences
from exact_situations import SITUATIONS

ALL = SITUATIONS | {name: Situation(make) for name, make in (LOADERS | SLOW_LOADERS).items()}
SAVED = [("batch", 2), ("batch", 6), ("batch", 8), ("validation", 6), ("validation", 12), ("epoch", 1), ("epoch", 2)]
DIED = {"batch": 0, "validation": 3, "epoch": 1}
"""How many batches after the save."""

NAMED = {
    "SWA": ({("batch", 2), ("batch", 8)}, "StochasticWeightAveraging sets itself up only as an epoch starts"),
    "dataloader_iter": ({("batch", 2), ("batch", 8)}, "training_step takes the batches itself"),
    "a target network in the module's hook": (
        {("batch", 2), ("batch", 6), ("batch", 8)},
        r"what Target\.on_train_batch_end does after the save is not in the file",
    ),
    "random persistent workers for validation": (
        {("batch", 8), ("validation", 6), ("validation", 12), ("epoch", 1), ("epoch", 2)},
        "persistent workers draw random numbers for validation",
    ),
}
"""The cells that are not exact, and what is said of them as they are saved and as they are resumed."""

NEVER = {  # moments that do not come up
    "limit_train_batches 4": {("validation", 6)},
    "limit_train_batches 4, CSRLoader": {("validation", 6)},
    "limit_train_batches 4, IterableDataset": {("validation", 6)},
    "limit_train_batches 0.5": {("validation", 12)},
    "limit_train_batches 0.5, max_size_cycle": {("validation", 12)},
    "overfit_batches": {("validation", 12)},
    "val_check_interval 4, across epochs": {("validation", 6)},
    "val_check_interval 4, IterableDataset": {("validation", 6)},
    "check_val_every_n_epoch": {("validation", 6)},
    "no validation": {("validation", 6), ("validation", 12)},
    "EarlyStopping on a validation": {("validation", 12)},
    "DataLoader, drop_last": {("validation", 6), ("validation", 12)},
    "min_size": {("validation", 12)},
    "min_size of StatefulDataLoaders": {("validation", 12)},
}

CELLS = [(name, place) for name, place in product(ALL, SAVED) if place not in NEVER.get(name, ())]
if os.environ.get("HYPOTHESIS_PROFILE") != "nightly":
    CELLS = CELLS[::10]


@cache
def uninterrupted(name: str) -> Run:
    return Run(ALL[name], SaveAt(None, None))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchdata's workers, at their end
@pytest.mark.parametrize(("name", "place"), CELLS, ids=lambda value: str(value).strip("()").replace("'", ""))
def test_crashed_and_resumed_it_equals_the_uninterrupted_run_or_says_why_not(
    tmp_path: Path, name: str, place: tuple[str, int]
) -> None:
    situation = ALL[name]
    saver = SaveAt(place, tmp_path)
    with warnings.catch_warnings(record=True) as as_saved:
        warnings.simplefilter("always")
        crashed = Run(situation, saver, crash=CrashAt(saver, DIED[place[0]]))
    assert saver.saved
    assert crashed.crashed or place[0] != "batch"
    with warnings.catch_warnings(record=True) as as_resumed:
        warnings.simplefilter("always")
        resumed = Run(situation, SaveAt(None, None), resume=tmp_path / "newest.ckpt")
    said = [[str(warning.message) for warning in found] for found in (as_saved, as_resumed)]
    if place in NAMED.get(name, ((), ""))[0]:
        for messages in said:
            assert any(re.search(NAMED[name][1], message) for message in messages), messages
    else:
        assert all_differences(uninterrupted(name), resumed) == []
        assert not any("exactly" in message for messages in said for message in messages)


def test_there_are_enough_cells() -> None:
    cells = [1 for name, place in product(ALL, SAVED) if place not in NEVER.get(name, ())]
    assert len(cells) >= 120
