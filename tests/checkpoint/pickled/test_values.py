"""Every kind of tensor that torch can save, against torch, bit for bit."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvae.checkpoint import CheckpointError, inspect, read, verify
from mvae.checkpoint.formats.detect import Format

TYPES = sorted({str(found) for found in vars(torch).values() if isinstance(found, torch.dtype)})

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda t: t,
    "matrix": lambda t: t.reshape(4, 6),
    "one number": lambda t: t[3],
    "empty": lambda t: t[:0],
    "transposed": lambda t: t.reshape(4, 6).t(),
    "a slice": lambda t: t[5:17],
    "every third": lambda t: t[1::3],
    "expanded": lambda t: t[:1].expand(5),
    "channels last": lambda t: t.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    "with a gradient": lambda t: t.clone().requires_grad_(),
    "parameter": lambda t: nn.Parameter(t.clone(), requires_grad=False),
    "buffer": lambda t: nn.Buffer(t.clone()),
    "conjugated": lambda t: t.reshape(4, 6).conj(),
    "negated": lambda t: torch._neg_view(t.reshape(4, 6)),
    "both": lambda t: torch._neg_view(t.conj()),
    "the imaginary part of a conjugate": lambda t: t.conj().imag,
    "real and imaginary": torch.view_as_real,
    "one number, negated": lambda t: torch._neg_view(t[3]),
    "one number, conjugated": lambda t: t[3].conj(),
    "negated, with an attribute": lambda t: _with_attribute(torch._neg_view(t.clone())),
    "a conjugated parameter": lambda t: nn.Parameter(t.conj(), requires_grad=False),
    "sparse_coo": lambda t: t.reshape(4, 6).to_sparse(),
    "sparse_csr": lambda t: t.reshape(4, 6).to_sparse_csr(),
    "sparse_csc": lambda t: t.reshape(4, 6).to_sparse_csc(),
    "sparse_bsr": lambda t: t.reshape(4, 6).to_sparse_bsr((2, 2)),
    "sparse_bsc": lambda t: t.reshape(4, 6).to_sparse_bsc((2, 2)),
    "nested": lambda t: torch.nested.nested_tensor([t[:3], t[3:9]]),
    "meta": lambda t: t.to("meta"),
}


def _with_attribute(tensor: Tensor) -> Tensor:
    tensor.note = "mine"  # type: ignore[attr-defined]
    return tensor


def tensor_of(dtype: torch.dtype) -> Tensor:
    """24 elements, every byte of which differs from its neighbours."""
    name = str(dtype).removeprefix("torch.")
    if name.startswith("q"):
        return torch.quantize_per_tensor(torch.linspace(0, 7, 24), 0.5, 0, dtype)
    raw = (torch.arange(24 * dtype.itemsize) % 120 + 1).to(torch.uint8)
    return (raw % 2).bool() if dtype == torch.bool else raw.view(dtype)


def saved(tensor: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"t": tensor}, buffer, **options)
    return buffer.getvalue()


def raw_of(tensor: Tensor) -> bytes:
    """The bytes of the values that torch computes with."""
    if tensor.is_quantized:
        return tensor.int_repr().numpy().tobytes()
    whole = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return whole.reshape(-1).view(torch.uint8).numpy().tobytes() if whole.numel() else b""


def parts_of(tensor: Tensor) -> list[Tensor]:
    """What a sparse or nested tensor is made of, in the order of `Tensor.parts`."""
    if tensor.is_nested:
        return [tensor.values(), tensor._nested_tensor_size(), tensor._nested_tensor_strides()]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    by_row = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    first, second = (tensor.crow_indices, tensor.col_indices) if by_row else (tensor.ccol_indices, tensor.row_indices)
    return [first(), second(), tensor.values()]


def check(raw: bytes, expected: Tensor) -> str:
    """Compare; says whether values, parts or the shape alone could be."""
    found = read(raw).tree["t"]
    assert "torch." + found.dtype == str(expected.dtype)
    if expected.device.type == "meta":
        assert (found.kind, found.shape) == ("meta", tuple(expected.shape))
        return "shapes"
    if found.parts and not expected.is_quantized:
        assert expected.is_nested or found.shape == tuple(expected.shape)
        for part, value in zip(found.parts.values(), parts_of(expected), strict=False):
            assert part.array().tobytes() == raw_of(value)
        return "parts"
    assert found.shape == tuple(expected.shape)
    values = found.array()
    assert values.tobytes() == raw_of(expected)
    assert not values.flags.writeable
    if expected.numel() == 1 and not expected.is_quantized:
        item = np.asarray(found.item()).astype(values.dtype)
        assert (
            np.asarray(item).astype(values.dtype).tobytes() == values.tobytes()
            or np.dtype(values.dtype).kind not in "fc"
        )
    return "values"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "old format"])
def test_every_type_in_every_kind(options: dict[str, Any]) -> None:
    compared: Counter[str] = Counter()
    refused = []
    for dtype in TYPES:
        for kind, make in KINDS.items():
            if dtype.startswith(("torch.q", "torch.quint")) and ("negated" in kind or kind == "both"):
                continue  # saving it crashes torch
            try:
                raw = saved(make(tensor_of(getattr(torch, dtype.removeprefix("torch.")))), **options)
                expected = torch.load(io.BytesIO(raw), weights_only=False)["t"]
                raw_of(expected) if expected.layout == torch.strided and expected.device.type == "cpu" else None
            except (RuntimeError, TypeError, KeyError, NotImplementedError, ValueError, AttributeError):
                continue  # not a tensor that torch can make, save, load and compute
            try:
                compared[check(raw, expected)] += 1
            except CheckpointError as error:
                if "share bytes" in str(error) and dtype in ("torch.quint4x2", "torch.quint2x4"):
                    continue  # a view that torch cannot use either
                refused.append(f"{dtype} {kind}: {error}")
    assert refused == []
    assert compared["values"] > 250
    assert compared["parts"] >= 60
    assert compared["shapes"] > 20


@pytest.mark.parametrize("shape", [(24,), (4, 6), (3, 5), (2, 3, 7)])
def test_four_bits_a_number(shape: tuple[int, ...]) -> None:
    tensor = torch.quantize_per_tensor(torch.rand(shape) * 7, 0.5, 0, torch.quint4x2)
    raw = saved(tensor)
    found = read(raw).tree["t"]
    assert found.shape == shape
    assert found.nbytes == tensor.int_repr().nbytes
    assert found.array().tobytes() == raw_of(torch.load(io.BytesIO(raw), weights_only=True)["t"])
    assert sum(inspect(raw).bytes.values()) == len(raw)


def test_four_bits_a_number_with_a_scale_for_each_row() -> None:
    scales, zeros = torch.rand(4) + 0.5, torch.zeros(4)
    tensor = torch.quantize_per_channel(torch.rand(4, 6), scales, zeros, 0, torch.quint4x2)
    found = read(saved(tensor)).tree["t"]
    assert found.array().tobytes() == raw_of(tensor)
    assert found.parts["scales"].array().tolist() == tensor.q_per_channel_scales().tolist()


def test_the_case_of_conjugated_and_negated() -> None:
    """`conjugated_and_negated.pt`: torch gives 1−2j, 3+4j and −2, 4."""
    number, other = torch.tensor([1 + 2j, 3 - 4j]), torch.tensor([2.0, -4.0])
    tree = read(saved({"conj": number.conj(), "neg": torch._neg_view(other)})).tree["t"]
    assert tree["conj"].array().tolist() == [1 - 2j, 3 + 4j]
    assert tree["neg"].array().tolist() == [-2.0, 4.0]


def test_one_number_has_its_sign() -> None:
    number, other = torch.tensor(1 + 2j), torch.tensor(2.0)
    tree = read(
        saved({"conj": number.conj(), "neg": torch._neg_view(other), "both": torch._neg_view(number.conj())})
    ).tree
    assert {name: tensor.item() for name, tensor in tree["t"].items()} == {"conj": 1 - 2j, "neg": -2.0, "both": -1 + 2j}


def test_the_case_of_slices_of_one_storage(tmp_path: Path) -> None:
    """`slices_of_one_storage.pt`: two tensors with different bytes of one storage."""
    flat = torch.arange(24.0)
    torch.save({"w_ih": flat[:16].view(4, 4), "w_hh": flat[16:].view(2, 4)}, tmp_path / "x.pt")
    file = inspect(tmp_path / "x.pt")
    assert file.array("w_ih").ravel().tolist() == list(range(16))
    assert file.array("w_hh").ravel().tolist() == list(range(16, 24))
    first, second = file.tensor("w_ih"), file.tensor("w_hh")
    assert first.storage is second.storage
    assert (first.start, second.start) == (0, 64)
    assert second.file_offset - first.file_offset == 64


def test_the_case_of_qint8() -> None:
    tensor = torch.quantize_per_tensor(torch.randn(64, 64), 0.1, 3, torch.qint8)
    found = read(saved(tensor)).tree["t"]
    assert (found.dtype, found.attributes["scale"], found.attributes["zero_point"]) == ("qint8", 0.1, 3)
    assert found.array().tobytes() == raw_of(tensor)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize("zipped", [True, False])
def test_every_protocol_that_torch_reads_back(protocol: int, zipped: bool) -> None:
    raw = saved(torch.arange(3.0), _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert torch.load(io.BytesIO(raw), weights_only=False)["t"].tolist() == [0, 1, 2]
    contents = read(raw)
    assert contents.format is (Format.ZIP if zipped else Format.LEGACY)
    assert contents.tree["t"].array().tolist() == [0, 1, 2]


@pytest.mark.parametrize("zipped", [True, False])
def test_protocol_0_which_torch_writes_and_does_not_read_back(zipped: bool) -> None:
    raw = saved(torch.arange(3.0), _use_new_zipfile_serialization=zipped, pickle_protocol=0)
    with pytest.raises(AssertionError, match="saved_id must be a tuple"), warnings.catch_warnings(action="ignore"):
        torch.load(io.BytesIO(raw), weights_only=False)
    with pytest.raises(CheckpointError, match="not a storage"):
        read(raw)


def test_a_file_saved_without_its_weights_is_not_damaged(tmp_path: Path) -> None:
    with torch.serialization.skip_data():
        torch.save({"w": torch.arange(10.0)}, tmp_path / "x.pt")
    found = verify(tmp_path / "x.pt")
    assert found.ok
    assert found.checksums
    assert "1 piece without a checksum" in found.notes[0]


def test_a_weight_that_is_damaged_is_still_seen_beside_one_without_a_checksum(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(10.0)}, tmp_path / "x.pt")
    raw = bytearray((tmp_path / "x.pt").read_bytes())
    raw[inspect(bytes(raw)).tensor("w").file_offset] ^= 1
    (tmp_path / "x.pt").write_bytes(raw)
    assert not verify(tmp_path / "x.pt").ok
