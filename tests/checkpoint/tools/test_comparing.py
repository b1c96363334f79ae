"""What differs between two checkpoints: found from checksums, measured against torch."""

from __future__ import annotations

import copy
import io
import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import calls, checkpoint, name, pickle_of, text
from safetensors.torch import save_file

from mvae.checkpoint import CheckpointError, CheckpointFile, diff, inspect, read
from mvae.checkpoint.formats.stream import Stream
from mvae.checkpoint.pickled.values import Tensor
from mvae.checkpoint.tools.amounts import has_numbers, numbers
from mvae.checkpoint.tools.prefixes import pair_by_prefix
from mvae.checkpoint.tools.value_changes import ABSENT, value_changes
from mvae.text import as_json


def training(steps: int = 2) -> dict[str, Any]:
    """A Lightning-like checkpoint after some steps of Adam."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 3))
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 6)).square().sum().backward()
        optimizer.step()
    return {
        "epoch": steps,
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"EarlyStopping": {"best_score": torch.tensor(1.0 / steps), "wait_count": 0}},
        "hyper_parameters": {"lr": 0.001, "hidden_dims": [600, 200], "nan": math.nan},
        "item_ids": list(range(100)),
    }


@pytest.fixture
def save(tmp_path: Path) -> Any:
    """Saves a value under a new name and gives its path."""

    def save(value: Any, **options: Any) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.ckpt"
        torch.save(value, path, **options)
        return path

    return save


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


def test_a_step_of_training(save: Any) -> None:
    a, b = training(2), training(3)
    found = diff(save(a), save(b))
    assert [str(change) for change in found.values] == ["~ epoch  2 → 3"]
    assert {change.name.partition(".")[0] for change in found.changed} == {
        "state_dict",
        "optimizer_states",
        "callbacks",
    }
    by_name = {change.name: change for change in found.changed}
    step = by_name["optimizer_states.0.state.0.step"].amount
    assert step is not None
    assert (step.before, step.after) == (2.0, 3.0)
    amount = by_name["state_dict.0.weight"].amount
    old, new = a["state_dict"]["0.weight"].double(), b["state_dict"]["0.weight"].double()
    assert amount is not None
    assert amount.max_abs == pytest.approx((new - old).abs().max().item())
    assert amount.relative == pytest.approx(((new - old).norm() / old.norm()).item())
    assert amount.changed == amount.elements == 24
    report = str(found)
    assert "weights: 4 changed" in report
    assert "Adam exp_avg: 4 changed" in report
    assert "float32 []  2.0 → 3.0" in report
    json.dumps(found.to_dict(), allow_nan=False)


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


def _prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "prefixes"),
    [
        (lambda state: _prefixed(state, "module."), ("state_dict.", "module.")),
        (lambda state: {"state_dict": _prefixed(state, "_orig_mod.")}, ("state_dict.", "state_dict._orig_mod.")),
        (lambda state: state, ("state_dict.", "")),
        (lambda state: {"model": {"net": state}}, ("state_dict.", "model.net.")),
    ],
)
def test_the_same_weights_under_a_prefix(save: Any, wrap: Any, prefixes: tuple[str, str]) -> None:
    state = training()["state_dict"]
    found = diff(save({"state_dict": state}), save(wrap(dict(state))))
    assert found.prefixes == [(*prefixes, 4)]
    assert found.equal == 4
    assert [*found.changed, *found.only_a, *found.only_b] == []
    assert not found.same, "a loader would mind"


def test_prefixes_at_scale_and_by_halves() -> None:
    left = [f"state_dict.layer.{i}.weight" for i in range(20_000)] + [f"ema.{i}.w" for i in range(50)] + ["alone"]
    right = [f"m.{i}.weight" for i in range(0, 20_000, 2)] + [f"average.model.{i}.w" for i in range(50)]
    found = [(a, b, len(pairs)) for a, b, pairs in pair_by_prefix(left, right)]
    assert found == [("state_dict.layer.", "m.", 10_000), ("ema.", "average.model.", 50)]
    several = [f"{number}.weight" for number in range(20)]  # each would fit
    assert list(pair_by_prefix(["weight"], several)) == [("", "0.", [("weight", "0.weight")])]
    assert list(pair_by_prefix([f"a.x{i}" for i in range(9_000)], [f"b.y{i}" for i in range(9_000)])) == []


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


def test_added_and_removed(save: Any) -> None:
    found = diff(save(training()), save({"state_dict": training()["state_dict"], "new": {"a": {}}}))
    changes = {change.name: change for change in found.values}
    assert changes["epoch"].after is ABSENT
    assert changes["new"].before is ABSENT
    assert len(found.only_a) == 13
    assert "13 only in A" in str(found)


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


def test_numbers_that_are_not_finite(save: Any) -> None:
    a = torch.tensor([1.0, math.nan, math.inf, 2.0, 0.0])
    b = torch.tensor([math.nan, math.nan, 1.0, 3.0, -0.0])
    amount = diff(save({"w": a}), save({"w": b})).changed[0].amount
    assert amount is not None
    assert (amount.changed, amount.not_finite, amount.max_abs, amount.relative) == (4, 2, 1.0, 0.5)
    zero = diff(save({"w": torch.zeros(2)}), save({"w": torch.ones(2)})).changed[0].amount
    assert zero is not None
    assert zero.relative == math.inf
    assert as_json(zero)["relative"] == "inf"


@pytest.mark.parametrize(
    "dtype",
    ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "bfloat16", "float16"],
)
def test_small_floats_are_worth_what_torch_says(dtype: str) -> None:
    small = dtype.startswith("float8")
    raw = torch.arange(256 if small else 65536).to(torch.uint8 if small else torch.uint16)
    theirs = raw.view(getattr(torch, dtype)).double()
    ours = torch.from_numpy(numbers(raw.numpy().tobytes(), dtype))
    assert torch.equal(ours.nan_to_num(7e99), theirs.nan_to_num(7e99))


@pytest.mark.parametrize("dtype", ["complex64", "int64", "bool", "uint8", "float8_e5m2", "float64"])
def test_every_type_is_measured(save: Any, dtype: str) -> None:
    a, b = (torch.tensor([0, 1, last]).to(getattr(torch, dtype)) for last in (1, 0))
    assert has_numbers(dtype)
    amount = diff(save({"w": a}), save({"w": b})).changed[0].amount
    assert amount is not None
    assert (amount.changed, amount.max_abs) == (1, 1.0)
    single = diff(save({"w": a[2]}), save({"w": b[2]})).changed[0].amount
    assert single is not None
    assert (single.before, single.after) == (1, 0)


def test_values_of_every_kind() -> None:
    many = dict.fromkeys(range(30), 0)
    a = {"list": [600, 200], "long": list(range(50)), "many": many, "same": {1, 2}, "type": 1, "x": [{"y": 1}]}
    b = {"list": [512, 200], "long": list(range(49)), "many": dict.fromkeys(many, 1), "same": {2, 1}, "type": 1.0}
    b["x"] = [{"y": 2}]
    shown = [str(change) for change in value_changes(a, b)]
    assert shown == [
        "~ list  [600, 200] → [512, 200]",
        "~ long  list: 50 → 49 entries, 1 of them differ",
        "~ many  dict: 30 → 30 entries, 30 of them differ",
        "~ type  1 → 1.0",
        "~ x.0.y  1 → 2",
    ]


def test_foreign_objects_are_compared_by_what_is_in_them(zoo: dict[str, Path]) -> None:
    for path in zoo.values():
        assert diff(path, path).same
    a, b = inspect(zoo["hyperparameters"]), inspect(zoo["hyperparameters"])
    b.tree["hyper_parameters"]["extra"]["dataclass"].state["width"] = 5
    b.tree["hyper_parameters"]["extra"]["float32"].value = 0.75
    changes = {change.name.removeprefix("hyper_parameters.extra."): change for change in diff(a, b).values}
    assert list(changes) == ["float32", "dataclass.width"]


def test_files_that_hold_themselves_or_hostile_values() -> None:
    loop = checkpoint(pickle_of(b"]q\x00h\x00a"))
    assert diff(loop, loop).same
    for _, pickle in calls():
        with suppress(CheckpointError):
            assert diff(checkpoint(pickle), checkpoint(pickle)).same
    doubling = b"".join(b"}(K\x00h%cK\x01h%cuq%c" % (i, i, i + 1) for i in range(40))
    twice = [checkpoint(pickle_of(b"}", text("x"), end, b"sq\x00", doubling)) for end in (b"K\x01", b"K\x02")]
    with pytest.raises(CheckpointError, match="unfold"):
        diff(*twice)
    assert diff(checkpoint(pickle_of(name("a", "b"))), checkpoint(pickle_of(name("a", "c")))).values


def test_an_expanded_tensor_is_not_unfolded_without_end() -> None:
    from hostile_files import tensor

    wide = tensor(shape=b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", stride=b"K\x00K\x00\x86")
    members = [{"archive/data/0": bytes(16)}, {"archive/data/0": bytes(15) + b"x"}]
    a, b = (checkpoint(pickle_of(b"}", text("w"), wide, b"s"), content) for content in members)
    with pytest.raises(CheckpointError, match="not unfolded"):
        diff(a, b)


def test_what_cannot_be_read_is_an_error(tmp_path: Path, save: Any) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        diff(tmp_path / "missing", save(training()))


def test_it_says_that_stored_checksums_were_compared_and_no_data(save: Any) -> None:
    path = save(training())
    raw = bytearray(path.read_bytes())
    raw[inspect(path).tensor("0.weight").file_offset or 0] ^= 1
    found = diff(path, bytes(raw))
    assert found.same
    assert "by their stored checksums; the data was not read (`mvae verify` does)" in str(found)
    assert found.to_dict()["tensors"]["equal_by_stored_checksums"] == 17
    different = diff(save({"w": torch.ones(3)}), save({"w": torch.zeros(3)}))
    assert "stored checksums" not in str(different)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Key:
    name: str


def test_keys_that_are_objects_are_compared_by_what_they_say() -> None:
    def table(value: float, count: int = 2) -> bytes:
        keys = [Key("x"), Key("y"), *(Key(str(number)) for number in range(count - 2))]
        members = {Key("in the set"), Key(str(value))}
        return saved({"table": {key: value if key.name == "x" else 0.25 for key in keys}, "set": members})

    found = diff(table(0.5), table(0.75))
    in_set, in_table = found.values
    assert in_set.path == ("set",)
    assert (in_table.name, in_table.before, in_table.after) == (f"table.{__name__}.Key name x", 0.5, 0.75)
    assert diff(table(0.5), table(0.5)).same
    assert diff(table(0.5, 50), table(0.5, 50)).same
    assert len(diff(table(0.5, 50), table(0.75, 50)).values) == 2
    one, other = ({Key("x"): 1, Key("x "): value} for value in (1, 2))
    assert not diff(saved(one), saved(other)).same
