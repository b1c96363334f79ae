"""A checkpoint and the places that the rules look at."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from mvae.checkpoint import inspect
from mvae.checkpoint.report.facts import Fact


def facts(path: Any, **options: Any) -> dict[str, Fact]:
    return {fact.name: fact for fact in inspect(path, **options).facts}


def of(value: Any, **options: Any) -> dict[str, Fact]:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return facts(buffer.getvalue(), **options)


def test_a_file_from_the_middle_of_an_epoch_tells_no_steps_per_epoch() -> None:
    batches = {"current": {"ready": 3}, "is_last_batch": False}
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}, "epoch_loop.batch_progress": batches}}
    state = {"state": {0: {"step": 1}}, "param_groups": [{}]}
    found = of({"epoch": 1, "global_step": 8, "loops": loops, "optimizer_states": [state]})
    assert "steps_per_epoch" not in found
    assert "middle of an epoch" in found["resume"].text


@pytest.mark.parametrize(
    "nonsense",
    [
        {"epoch": "x", "global_step": [1], "loops": 3, "callbacks": [], "optimizer_states": {}, "hyper_parameters": 1},
        {"epoch": -1, "global_step": -5, "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 0}}}}},
        {"epoch": 1e308, "global_step": float("inf"), "hyper_parameters": {"kl_anneal_steps": float("nan")}},
        {"epoch": True, "global_step": 10**400, "hyper_parameters": {"lr": 0, "kl_anneal_steps": 0, "batch_size": 0}},
        {"optimizer_states": [{"state": [], "param_groups": []}, {"state": {0: 1}, "param_groups": [3]}], "loops": {}},
        {"optimizer_states": [{"state": {0: {"step": 1}}, "param_groups": [{"lr": float("nan"), "initial_lr": 0}]}]},
        {"callbacks": {"ModelCheckpoint": {"best_model_path": b"x", "best_model_score": "high"}}, "epoch": None},
        {"callbacks": {"EarlyStopping": {"stopped_epoch": None, "wait_count": torch.ones(3)}, 3: 4}},
        {"hyper_parameters": [1, 2], "lr_schedulers": [{"factor": 0}, {"gamma": 1}, 7], "state_dict": 3},
    ],
)
def test_nothing_follows_from_nonsense(nonsense: dict[str, Any]) -> None:
    for fact in of(nonsense, batch_size=4).values():
        fact.to_dict()
