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
    from mvae import FitResult, Interactions, InteractionsDataModule, MultiVAE

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
