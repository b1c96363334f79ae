"""The tree that is drawn, in the terminal and on the page: what is in it and what is folded."""

from __future__ import annotations

from pathlib import Path

import torch
from screen import saved, shown

from mvae.checkpoint import inspect


def test_depth_unfolds(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["lightning"])
    lines = [len(shown(file, depth).splitlines()) for depth in range(6)]
    assert lines == sorted(lines)
    assert lines[0] < lines[2] < lines[5]
    assert "exp_avg_sq" in shown(file, 5)


def test_long_containers_are_folded() -> None:
    text = shown(
        inspect(saved({"state_dict": {f"w{i}": torch.ones(1) for i in range(500)}, "vocabulary": list(range(9999))}))
    )
    assert "… 477 more" in text
    assert len(text.splitlines()) < 100


def test_many_top_level_keys_are_folded() -> None:
    text = shown(inspect(saved({f"w{i}": torch.ones(1) for i in range(500)})))
    assert "… 477 more" in text
    assert len(text.splitlines()) < 60


def test_known_configurations_show_their_content(zoo: dict[str, Path]) -> None:
    text = shown(inspect(zoo["omegaconf"]), depth=5)
    assert "omegaconf.dictconfig.DictConfig" in text
    assert "600" in text
    assert "_flags_cache" not in text


def test_foreign_objects_show_class_and_contents(zoo: dict[str, Path]) -> None:
    text = shown(inspect(zoo["hyperparameters"]), depth=4)
    assert "torch.nn.modules.linear.Linear" in text
    assert "in_features" in text
    assert "/data/x" in text
    assert "_backward_hooks" not in text
    assert "gone_project.Config" in shown(inspect(zoo["vanished"]))


def test_shared_tensors_say_with_whom() -> None:
    weight = torch.ones(3)
    assert "same bytes as state_dict.a" in shown(inspect(saved({"state_dict": {"a": weight, "b": weight}})))


def test_floats_are_shown_as_floats() -> None:
    text = shown(inspect(saved({"h": {"weight_decay": 0.0, "cap": 1.0, "count": 1, "nan": float("nan")}})))
    assert "weight_decay 0.0 · cap 1.0 · count 1 · nan nan" in text


def test_what_tensors_on_one_storage_have_in_common() -> None:
    flat = torch.arange(24.0)
    value = {"a": flat[:16], "b": flat[16:], "c": flat[:16], "d": flat[8:20], "t": flat[:16].view(4, 4).t()}
    lines = {line.split()[1]: line for line in shown(inspect(saved(value))).splitlines() if "float32" in line[:40]}
    assert "storage" not in lines["a"]
    assert lines["b"].endswith("on one storage, with other bytes than a")
    assert lines["c"].endswith("same bytes as a")
    assert lines["d"].endswith("shares bytes with a")
    assert lines["t"].endswith("shares bytes with a")
