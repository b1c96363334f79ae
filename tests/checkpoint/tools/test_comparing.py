"""What differs between two checkpoints: found from checksums, measured against torch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from compared import training
from safetensors.torch import save_file

from mvae.checkpoint import CheckpointError, CheckpointFile, diff, read
from mvae.checkpoint.formats.stream import Stream
from mvae.checkpoint.pickled.values import Tensor


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the bytes of a tensor are read."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Stream, "span", refuse)


@pytest.mark.usefixtures("no_reading")
def test_a_file_and_its_copy_are_the_same(save: Any) -> None:
    found = diff(save(training()), save(training()))
    assert found.same
    assert found.equal == 17
    assert "the same" in str(found)


@pytest.mark.usefixtures("no_reading")
def test_what_changed_follows_from_checksums_alone(save: Any) -> None:
    value = training()
    changed = copy.deepcopy(value)
    changed["state_dict"]["1.weight"][0, 0] += 1
    found = diff(save(value), save(changed))
    assert [change.name for change in found.changed] == ["state_dict.1.weight"]
    assert (found.equal, found.by_bytes, found.same) == (16, 0, False)


def test_dtype_and_shape_changes(save: Any) -> None:
    a = {"w": torch.randn(4, 3), "v": torch.ones(3)}
    b = {"w": a["w"].bfloat16(), "v": torch.ones(4)}
    found = diff(save(a), save(b))
    by_name = {change.name: change for change in found.changed}
    assert by_name["v"].amount is None, "other shapes cannot be subtracted"
    amount = by_name["w"].amount
    assert amount is not None
    assert 0 < amount.relative < 0.01
    assert "float32 [4, 3] → bfloat16 [4, 3]" in str(found)


def test_another_order_is_no_difference(save: Any) -> None:
    state = dict(training()["state_dict"])
    found = diff(save(state), save(dict(reversed(state.items()))))
    assert found.same
    assert found.reordered
    assert "in another order" in str(found)


def test_a_renamed_tensor_is_found_by_its_content(save: Any) -> None:
    a, b = ({name: torch.ones(9), "x": torch.zeros(3)} for name in ("encoder", "code"))
    found = diff(save(a), save(b))
    assert found.renamed == [("encoder", "code")]
    assert [*found.only_a, *found.only_b] == []
    twice = {"a": torch.ones(9), "b": torch.ones(9)}
    assert diff(save({"encoder": torch.ones(9)}), save(twice)).renamed == [], "it could be either"


def test_files_without_checksums_are_compared_by_their_bytes(save: Any, tmp_path: Path) -> None:
    value = {"w": torch.randn(600_000), "t": torch.randn(5, 7).t(), "e": torch.ones(0)}
    changed = copy.deepcopy(value)
    changed["w"][-1] += 1
    old = save(value, _use_new_zipfile_serialization=False)
    assert diff(old, save(value)).same
    found = diff(old, save(changed))
    assert [change.name for change in found.changed] == ["w"]
    assert found.by_bytes == 2
    save_file({key: tensor.contiguous() for key, tensor in value.items()}, tmp_path / "x.safetensors")
    assert diff(tmp_path / "x.safetensors", old).same, "a transposed tensor has the same elements"


def test_views_of_one_storage_are_told_apart(save: Any) -> None:
    flat, other = torch.arange(1000.0), torch.arange(1000.0)
    other[5] = -1
    a = {"x": flat[:10], "y": flat[500:], "t": flat[:100].view(10, 10).t()}
    b = {"x": other[:10], "y": other[500:], "t": other[:100].view(10, 10).t()}
    found = diff(save(a), save(b))
    assert [change.name for change in found.changed] == ["x", "t"]
    assert found.by_bytes == 3
    assert [change.amount.changed for change in found.changed if change.amount] == [1, 1]


def test_a_sharded_tensor_and_a_whole_one(save: Any) -> None:
    whole = torch.arange(24.0).reshape(6, 4)
    files = []
    for _ in range(2):
        file = CheckpointFile(read(save({"w": whole, "p": [whole[:2].clone(), whole[2:].clone()]})))
        sharded = Tensor("float32", (6, 4), (), 0, None, kind="sharded")
        sharded.parts = dict(zip(("[0:2, 0:4]", "[2:6, 0:4]"), file.tree.pop("p"), strict=True))
        file.tree["w"] = sharded
        files.append(file)
    found = diff(files[0], files[1])
    assert (found.same, found.by_bytes, found.equal) == (True, 0, 1)
    found = diff(files[0], save({"w": whole}))
    assert (found.same, found.by_bytes, found.equal) == (True, 1, 1)
    whole[5, 3] = 0
    assert [change.name for change in diff(save({"w": whole}), files[0]).changed] == ["w"]


def test_what_cannot_be_read_is_an_error(tmp_path: Path, save: Any) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        diff(tmp_path / "missing", save(training()))
