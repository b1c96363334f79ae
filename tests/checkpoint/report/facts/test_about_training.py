"""Learning rates, examples and scores: only what follows."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from mvae.checkpoint import inspect
from mvae.checkpoint.report.facts import Fact


def of(value: Any, **options: Any) -> dict[str, Fact]:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return {fact.name: fact for fact in inspect(buffer.getvalue(), **options).facts}


SCHEDULERS = {
    "StepLR": (lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.1), 5, "multiplied by 0.1 twice"),
    "ExponentialLR": (lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5), 3, "halved 3 times"),
    "MultiStepLR": (lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 2], 0.5), 4, "halved twice"),
    "cosine": (lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 8), 4, None),
    "warm-up": (lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.5, total_iters=9), 0, None),
    "ConstantLR": (lambda o: torch.optim.lr_scheduler.ConstantLR(o, 0.5, total_iters=9), 1, None),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_cut_is_a_cut_only_if_the_scheduler_cuts(name: str) -> None:
    make, steps, text = SCHEDULERS[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    scheduler = make(optimizer)
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    found = of({"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()]})
    said = found["learning_rate"].text
    if text is None:
        assert found["learning_rate"].value["cuts"] is None
        assert said.startswith(f"the learning rate is {optimizer.param_groups[0]['lr']:g}; ")
        assert "initial_lr is 0.1" in said
    else:
        assert text in said


def test_schedulers_that_cannot_be_matched_to_optimizers_say_nothing() -> None:
    states = [{"state": {}, "param_groups": [{"lr": 0.05}]} for _ in range(2)]
    assert "learning_rate" not in of({"optimizer_states": states, "lr_schedulers": [{"gamma": 0.5, "base_lrs": [0.1]}]})


def batches(count: int) -> dict[str, Any]:
    return {"fit_loop": {"epoch_loop.batch_progress": {"current": {"ready": count}, "is_last_batch": True}}}


def test_examples() -> None:
    value = {"loops": batches(190)}
    assert of(value, batch_size=1)["training_examples"].text == (
        "190 batches of 1 an epoch: 190 training examples (on each process)."
    )
    assert "1,513 to 1,520 training examples" in of(value, batch_size=8)["training_examples"].text
    text = of({"loops": batches(1), "hyper_parameters": {"batch_size": 8}})["training_examples"].text
    assert text.startswith("1 batch of 8 an epoch: 1 to 8 training examples (on each process, if the loader")
    for nonsense in (0, -3, 2.5):
        found = of({"loops": batches(3), "hyper_parameters": {"batch_size": nonsense}})["training_examples"]
        assert found.value is None


def test_epochs_of_different_lengths_give_no_steps_an_epoch() -> None:
    loops = batches(4)
    loops["fit_loop"] |= {"epoch_progress": {"current": {"processed": 2, "started": 2}}}
    loops["fit_loop"]["epoch_loop.batch_progress"]["total"] = {"ready": 10}
    assert "steps_per_epoch" not in of({"global_step": 10, "loops": loops})
    loops["fit_loop"]["epoch_loop.batch_progress"]["total"] = {"ready": 8}
    assert of({"global_step": 8, "loops": loops})["steps_per_epoch"].value == 4


def test_a_scaler_that_is_none_speaks_of_no_mixed_precision() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(1))  # it has no scale before it is used
    assert of({"scaler": scaler.state_dict()})["precision"].value == "16-mixed"
    assert "precision" not in of({"scaler": {"mean": 0.0, "scale": 2.0}})


def test_early_stopping_that_has_seen_nothing_says_nothing() -> None:
    state = {"wait_count": 0, "stopped_epoch": 0, "best_score": torch.tensor(float("inf")), "patience": 3}
    assert "early_stopping" not in of({"callbacks": {"EarlyStopping{}": state}})
    state |= {"best_score": torch.tensor(1.0), "wait_count": 1}
    text = of({"callbacks": {"EarlyStopping{}": state}})["early_stopping"].text
    assert text == "the monitored score had not improved for 1 check, with a patience of 3."


def test_a_score_that_is_no_number_is_nobodys_best() -> None:
    state = {"best_model_path": "a/epoch=3.ckpt", "best_model_score": torch.tensor(float("nan"))}
    assert "best" not in of({"callbacks": {"ModelCheckpoint{}": state}})


def test_unused_bytes_are_those_that_no_tensor_covers() -> None:
    flat = torch.zeros(10_000)
    halves = {"state_dict": {"a": flat[:5000], "b": flat[5000:], "t": flat.reshape(100, 100).t()}}
    assert "unused_bytes" not in of(halves)
    assert of({"state_dict": {"a": flat[:10], "again": flat[5:20]}})["unused_bytes"].value == 4 * (10_000 - 20)
    assert "unused_bytes" not in of({"state_dict": {"a": flat[:10]}, "raw": flat.storage()})
