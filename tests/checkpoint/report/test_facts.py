"""What the numbers give away: the course's specimen, and runs made here whose answers are known."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from mvae.checkpoint import inspect
from mvae.checkpoint.report.facts import Fact

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


def test_other_kinds_of_contents(zoo: dict[str, Path]) -> None:
    expected = {
        "weights only": "lightning weights-only", "state dict": "state_dict", "model object": "object", "amp": "other",
    }  # fmt: skip
    assert {name: facts(zoo[name])["contents"].value for name in expected} == expected


def test_what_another_program_saved_is_not_judged_by_lightnings_measure() -> None:
    state = {"state": {0: {"step": 1}}, "param_groups": [{}]}
    assert "resume" not in of({"model": {"w": torch.ones(1)}, "optimizer": state})


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


def test_wording(specimen: Path, zoo: dict[str, Path]) -> None:
    found = facts(specimen)
    assert "at batch size 128: 31,233 to 31,360" in found["training_examples"].text
    assert "leaves no trace in a file like this" in found["precision"].text
    assert "mixed precision" not in facts(zoo["bf16"])["precision"].text
    renamed = specimen.with_name("copy.ckpt")
    renamed.write_bytes(specimen.read_bytes())
    assert "has been renamed since, or is another one" in facts(renamed)["best"].text
