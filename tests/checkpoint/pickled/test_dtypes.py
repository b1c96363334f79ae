"""The table of element types says what the torch installed says."""

from __future__ import annotations

import pytest
import torch

from mvae.checkpoint.pickled import dtypes

KNOWN = [name for name in dtypes.ITEMSIZE if isinstance(getattr(torch, name, None), torch.dtype)]


@pytest.mark.parametrize("name", KNOWN)
def test_an_element_takes_as_many_bytes_as_in_torch(name: str) -> None:
    assert dtypes.ITEMSIZE[name] == getattr(torch, name).itemsize


def test_no_type_of_torch_is_missing() -> None:
    of_torch = {str(value).removeprefix("torch.") for value in vars(torch).values() if isinstance(value, torch.dtype)}
    assert of_torch <= set(dtypes.ITEMSIZE)


def test_every_storage_class_stands_for_a_type_of_its_own() -> None:
    typed = {name: dtype for name, dtype in dtypes.STORAGE.items() if name != "UntypedStorage"}
    assert len(set(typed.values())) == len(typed) > 10
    for storage, dtype in typed.items():
        assert getattr(torch, storage).dtype == getattr(torch, dtype)
    assert dtypes.STORAGE["UntypedStorage"] == "uint8"


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("name", [*dtypes.NUMPY, "bfloat16", "complex32"])
def test_one_element_is_the_number_that_torch_reads(name: str, order: str) -> None:
    dtype = getattr(torch, name)
    raw = torch.tensor([3]).to(dtype) if not name.startswith("q") else torch.tensor([3], dtype=torch.int32)
    if name in ("qint8", "quint8"):
        raw = raw.to(torch.int8)
    content = raw.reshape(1).view(torch.uint8).numpy().tobytes()
    parts = 2 if raw.dtype.is_complex else 1  # the real part stands first, whatever the order of the bytes
    width = len(content) // parts
    turned = b"".join(content[at : at + width][::-1] for at in range(0, len(content), width))
    assert dtypes.scalar(name, content if order == "little" else turned, order) == raw.item()


def test_a_type_that_python_lacks_comes_as_its_bits() -> None:
    assert dtypes.scalar("float8_e4m3fn", b"\x7e", "little") == 0x7E
    assert dtypes.numpy_dtype("float8_e4m3fn", "little") == "<u1"
    assert dtypes.numpy_dtype("bfloat16", "big") == ">u2"
    assert dtypes.numpy_dtype("float32", "big") == ">f4"
