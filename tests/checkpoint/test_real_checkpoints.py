"""Real checkpoints, read by us and by torch: the two must agree in every value. Every byte is accounted for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvae.checkpoint import inspect
from mvae.checkpoint.pickled.values import Global, NumpyArray, NumpyScalar, Object, Tensor

NAMES = (
    "lightning", "hyperparameters", "weights only", "two optimizers", "weight averaging", "bf16", "omegaconf",
    "state dict", "tensors", "model object", "compiled", "data parallel", "legacy", "protocol 4", "protocol 5", "amp",
    "vanished",
)  # fmt: skip


def same(ours: Any, theirs: Any, where: str = "") -> None:
    """Fail unless a value read by us is the one torch read."""
    if isinstance(theirs, torch.Tensor):
        same_tensor(ours, theirs, where)
    elif isinstance(ours, Object):
        assert str(ours.cls).endswith(type(theirs).__qualname__) or ours.cls.name in ("_make_skeleton", "getattr"), (
            where
        )
        attributes = getattr(theirs, "__dict__", {})
        for name, value in ours.attributes.items() if isinstance(attributes, dict) else ():
            if name in attributes and name != "_parent":  # OmegaConf's way back up
                same(value, attributes[name], f"{where}.{name}")
    elif isinstance(ours, Global):
        assert ours.name == str(theirs).removeprefix("torch.") or ours.name in repr(theirs), where
    elif isinstance(ours, NumpyArray):
        assert np.array_equal(ours.array(), theirs), where
        assert ours.array().dtype == theirs.dtype, where
    elif isinstance(ours, NumpyScalar):
        assert ours.value == theirs.item(), where
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for key in theirs:
            same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        for position, (left, right) in enumerate(zip(ours, theirs, strict=True)):
            same(left, right, f"{where}.{position}")
    elif isinstance(theirs, float) and math.isnan(theirs):
        assert math.isnan(ours), where
    else:
        assert ours == theirs, where
        assert type(ours) is type(theirs), where


def same_tensor(ours: Tensor, theirs: torch.Tensor, where: str) -> None:
    assert ours.shape == tuple(theirs.shape), where
    assert f"torch.{ours.dtype}" == str(theirs.dtype), where
    assert ours.requires_grad == theirs.requires_grad, where
    if theirs.layout is not torch.strided or theirs.is_meta:
        return
    assert (ours.stride, ours.offset) == (theirs.stride(), theirs.storage_offset()), where
    raw = ours.array()
    if theirs.is_quantized:
        theirs = theirs.int_repr()
    elif theirs.is_conj():
        theirs = theirs.resolve_conj()
    elif raw.dtype.kind != np.asarray(theirs.detach().float()).dtype.kind and raw.dtype.kind == "u":
        theirs = (
            theirs.detach()
            .contiguous()
            .view({1: torch.uint8, 2: torch.uint16}.get(theirs.element_size(), theirs.dtype))
        )
    assert np.array_equal(raw, theirs.detach().numpy()), where
    if ours.numel == 1 and theirs.dtype is not torch.uint16:
        assert ours.item() == theirs.item(), where


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_what_torch_reads(zoo: dict[str, Path], name: str) -> None:
    file = inspect(zoo[name])
    if name == "vanished":
        config = file.tree["config"]
        assert str(config.cls) == "gone_project.Config"
        assert config["depth"] == 3
        assert config["inner"].get("a") == 1
        return
    same(file.tree, torch.load(zoo[name], weights_only=False))


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_is_accounted_for(zoo: dict[str, Path], name: str) -> None:
    file = inspect(zoo[name])
    assert sum(file.bytes.values()) == file.size == zoo[name].stat().st_size
    assert "not accounted for" not in file.bytes
    assert all(count > 0 for count in file.bytes.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_report_is_json_and_html(zoo: dict[str, Path], name: str) -> None:
    file = inspect(zoo[name])
    report = json.loads(json.dumps(file.to_dict(), allow_nan=False))
    assert list(report) == ["path", "size", "format", "keys", "tensors", "bytes", "facts", "unsafe"]
    for tensor in report["tensors"]:
        assert list(tensor) == ["name", "dtype", "shape", "stride", "bytes", "offset", "storage", "crc32"]
    assert file._repr_html_().count("<details") == file._repr_html_().count("</details>")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vanished"])
def test_the_verdict_is_that_of_weights_only(zoo: dict[str, Path], name: str) -> None:
    try:
        torch.load(zoo[name], weights_only=True)
        loads = True
    except Exception:
        loads = False
    assert inspect(zoo[name]).safety.weights_only == loads


def test_offsets_and_checksums_are_those_of_the_file(zoo: dict[str, Path]) -> None:
    import zlib

    raw = zoo["lightning"].read_bytes()
    for entry in inspect(zoo["lightning"]).tensors:
        tensor = entry.tensor
        start = tensor.file_offset
        assert start is not None
        assert raw[start : start + tensor.nbytes] == tensor.array().tobytes()
        assert zlib.crc32(tensor.storage.view()) == tensor.storage.record.crc32
