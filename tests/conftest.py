"""What all tests share: no network, no real data unless a test asks for it, and one small model trained once."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import pandas as pd

    from mvae import BERT4Rec, FitResult, Interactions, InteractionsDataModule, MultiVAE, SequencesDataModule

settings.register_profile("ci", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", settings.get_profile("ci"), max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

os.environ.setdefault("OMP_NUM_THREADS", "1")  # nets this small only lose by threads

TINY_NET = {"hidden_dims": [16, 8], "lr": 0.05, "kl_anneal_steps": 10}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test fetches anything, or passes only because of what lies in ``data/``."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("MVAE_DATA", str(tmp_path_factory.getbasetemp() / "no-data-here"))


@pytest.fixture(scope="session")
def interactions() -> Interactions:
    """150 people, 60 items whose ids are text, so that a column is never mistaken for an id."""
    from dataclasses import replace

    from mvae import synthetic

    made = synthetic(150, 60, interactions_per_user=10)
    return replace(made, item_ids=[f"item-{i:02d}" for i in range(60)], source="made-up")


@pytest.fixture(scope="session")
def datamodule(interactions: Interactions) -> InteractionsDataModule:
    from mvae import InteractionsDataModule

    return InteractionsDataModule(interactions, batch_size=32)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., MultiVAE]:
    """Makes a small model: the same one every time."""
    import torch

    from mvae import MultiVAE

    def make(num_items: int = 60, **hyper_parameters: object) -> MultiVAE:
        torch.manual_seed(0)
        return MultiVAE(num_items, **TINY_NET | hyper_parameters)

    return make


@pytest.fixture(scope="session")
def trained(
    datamodule: InteractionsDataModule,
    tiny_model: Callable[..., MultiVAE],
    tmp_path_factory: pytest.TempPathFactory,
) -> FitResult:
    """A finished run. Its folder is shared: read it, change nothing in it."""
    from mvae import fit

    out: Path = tmp_path_factory.mktemp("trained")
    return fit(datamodule, tiny_model(), out=out, max_epochs=8, save_last=True)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name → path of a real checkpoint, made once: read them, change nothing in them."""
    from real_files import make_zoo

    return make_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def cycle_ratings() -> pd.DataFrame:
    """120 people who go round 20 items whose ids are text: after each item comes the next one, always.

    Everybody begins somewhere else and goes 6 to 13 steps. The rows are in no order; only ``timestamp`` has it.
    """
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    rows = [
        (user, f"item-{(start + step) % 20:02d}", 5.0, 1000 * user + 10 * step)
        for user, (start, length) in enumerate(
            zip(rng.integers(20, size=120), rng.integers(7, 15, size=120), strict=True)
        )
        for step in range(length)
    ]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
    table.attrs["source"] = "made-up"
    return table.sample(frac=1, random_state=0)


@pytest.fixture(scope="session")
def cycle(cycle_ratings: pd.DataFrame) -> SequencesDataModule:
    from mvae import Interactions, SequencesDataModule

    interactions = Interactions.from_ratings(cycle_ratings)
    return SequencesDataModule(interactions, cycle_ratings, batch_size=32, max_len=10)


@pytest.fixture(scope="session")
def tiny_bert() -> Callable[..., BERT4Rec]:
    """Makes a small BERT4Rec for the cycle: the same one every time."""
    import torch

    from mvae import BERT4Rec

    def make(num_items: int = 20, **hyper_parameters: object) -> BERT4Rec:
        torch.manual_seed(0)
        small = {"hidden_dim": 16, "num_layers": 1, "max_len": 10, "dropout": 0.1, "lr": 0.01}
        return BERT4Rec(num_items, **small | hyper_parameters)

    return make


@pytest.fixture(scope="session")
def trained_bert(
    cycle: SequencesDataModule, tiny_bert: Callable[..., BERT4Rec], tmp_path_factory: pytest.TempPathFactory
) -> FitResult:
    """A finished run of BERT4Rec. Its folder is shared: read it, change nothing in it."""
    from mvae import fit

    return fit(cycle, tiny_bert(), out=tmp_path_factory.mktemp("bert"), max_epochs=40, progress=False)
