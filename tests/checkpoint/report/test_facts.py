"""What the numbers give away: the course's specimen, and runs made here whose answers are known."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mvae.checkpoint import inspect
from mvae.checkpoint.report.facts import Fact
from mvae.checkpoint.report.optimizers import kind

NAME = "multi-vae-epoch=435-val_loss=1064.7800.ckpt"


def facts(path: Any, **options: Any) -> dict[str, Fact]:
    return {fact.name: fact for fact in inspect(path, **options).facts}


def of(value: Any, **options: Any) -> dict[str, Fact]:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return facts(buffer.getvalue(), **options)


@pytest.fixture(scope="module")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of docs/specimen.md, with every number that matters and a network a hundred times smaller."""
    weights = OrderedDict({"encoder.0.weight": torch.ones(6, 68), "encoder.0.bias": torch.ones(6)})
    states = {
        i: {"step": torch.tensor(1.0), "exp_avg": w, "exp_avg_sq": w.clone()} for i, w in enumerate(weights.values())
    }
    group = {
        "lr": 1.5625e-05,
        "betas": (0.9, 0.999),
        "eps": 1e-08,
        "weight_decay": 0.0,
        "amsgrad": False,
        "params": [0, 1],
    }
    score = torch.tensor(1064.78)
    value = {
        "epoch": 435,
        "global_step": 106820,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": weights,
        "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 436}}}},
        "callbacks": {
            "EarlyStopping{'monitor': 'val_loss'}": {
                "best_score": score, "wait_count": 0, "patience": 20, "stopped_epoch": 0,
            },
            "ModelCheckpoint{'monitor': 'val_loss'}": {
                "monitor": "val_loss", "best_model_path": f"/a/{NAME}", "best_model_score": score,
            },
        },
        "optimizer_states": [{"state": states, "param_groups": [group]}],
        "lr_schedulers": [{"factor": 0.5, "patience": 5, "num_bad_epochs": 0}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.001, "kl_max_weight": 0.2, "kl_anneal_steps": 20000, "num_items": 68},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("specimen") / NAME
    torch.save(value, path)
    return path


def test_steps_per_epoch(specimen: Path) -> None:
    fact = facts(specimen)["steps_per_epoch"]
    assert fact.value == 245
    assert fact.follows_from == {"global_step": 106820, "loops.fit_loop.epoch_progress.current.processed": 436}


def test_training_examples_at_a_batch_size(specimen: Path) -> None:
    assert facts(specimen, batch_size=128)["training_examples"].value == [31233, 31360]
    unknown = facts(specimen)["training_examples"]
    assert unknown.value is None
    assert "244·B + 1 to 245·B" in unknown.text


def test_learning_rate_was_halved_six_times(specimen: Path) -> None:
    fact = facts(specimen)["learning_rate"]
    assert fact.value == {"initial": 0.001, "current": 1.5625e-05, "cuts": 6}
    assert "halved 6 times" in fact.text


def test_beta_was_full_from_epoch_81(specimen: Path) -> None:
    fact = facts(specimen)["kl_annealing"]
    assert fact.value["beta"] == 0.2
    assert fact.value["full_from_epoch"] == 81
    assert fact.value["share_at_full"] == pytest.approx(0.81, abs=0.01)


def test_this_is_the_best_epoch(specimen: Path) -> None:
    found = facts(specimen)
    assert found["best"].value == {"score": pytest.approx(1064.78, abs=1e-3), "epoch": 435, "is_this_file": True}
    assert found["early_stopping"].value["waited"] == 0
    assert "saved as it happened" in found["early_stopping"].text


def test_every_fact_is_labelled_and_says_what_it_follows_from(specimen: Path) -> None:
    for fact in facts(specimen).values():
        assert fact.to_dict()["derived"] is True
        assert fact.follows_from
        assert fact.text.endswith(".")


def test_parameters_are_counted_once(zoo: dict[str, Path]) -> None:
    assert facts(zoo["lightning"])["parameters"].value == 8 * 4 + 4 + 4 + 4 + 4 + 1
    tied = nn.Linear(3, 3, bias=False)
    assert of({"state_dict": {"a": tied.weight, "b": tied.weight}})["parameters"].value == 9


def test_a_real_run(zoo: dict[str, Path]) -> None:
    found = facts(zoo["lightning"])
    assert found["contents"].value == "lightning"
    assert found["optimizer"].value == ["AdamW"]
    assert found["steps_per_epoch"].value == 3
    assert found["training_examples"].follows_from
    assert facts(zoo["lightning"], batch_size=8)["training_examples"].value == [17, 24]
    assert found["resume"].value["resumable"]
    assert not found["resume"].value["exactly"]
    assert any("ReduceLROnPlateau" in what for what in found["resume"].value["missing"])
    assert not found["random_state"].value


def test_several_optimizers_are_told_apart(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["two optimizers"])
    assert {fact.name: fact for fact in file.facts}["optimizer"].value == ["Adam", "SGD"]
    assert {"Adam[0] exp_avg", "Adam[0] exp_avg_sq", "SGD[1] momentum_buffer"} <= set(file.bytes)


def test_other_kinds_of_contents(zoo: dict[str, Path]) -> None:
    expected = {
        "weights only": "lightning weights-only", "state dict": "state_dict", "model object": "object", "amp": "other",
    }  # fmt: skip
    assert {name: facts(zoo[name])["contents"].value for name in expected} == expected


def test_what_another_program_saved_is_not_judged_by_lightnings_measure() -> None:
    state = {"state": {0: {"step": 1}}, "param_groups": [{}]}
    assert "resume" not in of({"model": {"w": torch.ones(1)}, "optimizer": state})


def test_weights_alone_cannot_be_resumed(zoo: dict[str, Path]) -> None:
    found = facts(zoo["weights only"])
    assert found["resume"].value["missing"] == ["the optimizer's state"]
    assert "random_state" not in found


def test_wrappers_are_seen(zoo: dict[str, Path]) -> None:
    assert facts(zoo["compiled"])["wrapped_orig_mod"].value == "torch.compile"
    assert "DataParallel" in facts(zoo["data parallel"])["wrapped_module"].value
    assert not any(name.startswith("wrapped") for name in facts(zoo["state dict"]))


def test_precision(zoo: dict[str, Path]) -> None:
    assert facts(zoo["amp"])["precision"].value == "16-mixed"
    assert "bfloat16" in facts(zoo["bf16"])["precision"].value


def test_a_view_saved_with_all_it_is_a_view_of() -> None:
    found = of({"state_dict": {"row": torch.zeros(1000, 100)[0]}})
    assert found["unused_bytes"].value == 399_600


def test_random_state_and_loader_position_are_found() -> None:
    value = {
        "loops": {"fit_loop": {"state_dict": {"combined_loader": [{"position": 3}]}}},
        "rng": torch.get_rng_state(),
        "optimizer_states": [{"state": {0: {"step": 1}}, "param_groups": [{}]}],
    }
    found = of(value)
    assert found["random_state"].value
    assert found["loader_position"].value
    assert not found["resume"].value["exactly"]
    assert "saved at an epoch's end" in found["resume"].text
    value["callbacks"] = {"ExactResume": {"next": None}}
    assert of(value)["resume"].value["exactly"]
    assert of(value)["resume"].text.startswith("as far as the file shows")


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


OPTIMIZERS = ["Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_is_known_by_its_state(name: str) -> None:
    model = nn.Linear(2, 2)
    options = {"lr": 0.01, **({"momentum": 0.9} if name == "SGD" else {})}
    optimizer = getattr(torch.optim, name)(model.parameters(), **options)
    assert kind(optimizer.state_dict()) == name, "before the first step"
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert kind(optimizer.state_dict()) == name


def test_half_an_optimizer_is_neither_another_one_nor_resumable() -> None:
    group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "params": [0, 1, 2]}
    whole = {name: torch.ones(2) for name in ("step", "exp_avg", "exp_avg_sq")}
    weights = {name: torch.ones(2) for name in "abc"}
    half = {"step": torch.ones(2), "exp_avg": torch.ones(2)}
    for states, count in (([half, {}, {}], 0), ([whole, half, {}], 1), ([{}, whole, whole], 2), ([half] * 3, 0)):
        optimizer = {"state": dict(enumerate(states)), "param_groups": [group]}
        value = {"loops": {}, "state_dict": weights, "optimizer_states": [optimizer]}
        found = of(value)
        assert found["optimizer"].value == ["Adam or AdamW"]
        assert "incomplete" in found["optimizer"].text
        assert not found["resume"].value["resumable"]
        assert f"({count} of 3 parameters" in found["resume"].text
    assert "only 1 weight is there" in of(value | {"state_dict": {"a": torch.ones(2)}})["resume"].text


def test_frozen_parameters_and_optimizers_that_keep_more_for_some_are_no_half_state() -> None:
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]).requires_grad_(True)
    layers[1].requires_grad_(False)
    for name in ("Adam", "Adafactor"):
        optimizer = getattr(torch.optim, name)(layers.parameters())
        layers[0](torch.ones(1, 2)).sum().backward()
        optimizer.step()
        found = of({"loops": {}, "state_dict": layers.state_dict(), "optimizer_states": [optimizer.state_dict()]})
        assert found["resume"].value["resumable"]
        assert found["optimizer"].value == [name]


def test_wording(specimen: Path, zoo: dict[str, Path]) -> None:
    found = facts(specimen)
    assert "at batch size 128: 31,233 to 31,360" in found["training_examples"].text
    assert "leaves no trace in a file like this" in found["precision"].text
    assert "mixed precision" not in facts(zoo["bf16"])["precision"].text
    renamed = specimen.with_name("copy.ckpt")
    renamed.write_bytes(specimen.read_bytes())
    assert "has been renamed since, or is another one" in facts(renamed)["best"].text


def test_a_loss_scaler_is_known_by_what_it_keeps() -> None:
    scaler = torch.amp.GradScaler("cpu").state_dict()
    for key in ("scaler", "amp_scaler", "MixedPrecision"):
        assert of({"state_dict": nn.Linear(2, 2).state_dict(), key: scaler})["precision"].value == "16-mixed"


def test_a_second_name_for_the_same_tensors_is_no_second_copy() -> None:
    weights = nn.Linear(4, 4).state_dict()
    found = of({"model": weights, "ema": weights})["other_weights.ema"]
    assert found.text == "`ema` holds the same tensors as the weights: they take no room of their own."
    copied = {name: tensor.clone() for name, tensor in weights.items()}
    assert "a second copy" in of({"model": weights, "ema": copied})["other_weights.ema"].text


def test_the_count_of_an_averaged_model_is_no_parameter() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(4, 4))
    found = of(averaged.state_dict())
    assert found["parameters"].value == 20
    assert found["precision"].value == ["float32"]
