"""Writing a checkpoint without torch: torch reads it, and the zip is the one torch would have written, to the byte."""

from __future__ import annotations

import io
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import checkpoint, name, pickle_of, text
from hypothesis import given, settings
from hypothesis import strategies as st
from real_files import foreign_objects, special_tensors

from mvae.checkpoint import CheckpointError, read
from mvae.checkpoint.files import zip_structures as zs
from mvae.checkpoint.files.archive import Archive
from mvae.checkpoint.files.source import Source
from mvae.checkpoint.formats.stream import Stream
from mvae.checkpoint.formats.zip_writer import ZipWriter, output, write_checkpoint
from mvae.checkpoint.pickled.values import Global, Object, Storage, Tensor
from mvae.checkpoint.pickled.writer import Pickler

CASES = 2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 200


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def written(tree: Any, pickler: Pickler | None = None) -> bytes:
    buffer = io.BytesIO()
    with Stream() as stream:
        size = write_checkpoint(
            buffer, tree, lambda stored: stream.storage(stored.storage, stored.dtype), pickler or Pickler()
        )
    assert size == len(buffer.getvalue())
    return buffer.getvalue()


def loaded(raw: bytes) -> Any:
    return torch.load(io.BytesIO(raw), weights_only=True)


def raw_bytes(tensor: torch.Tensor) -> torch.Tensor:
    whole = tensor.detach().resolve_conj().contiguous().reshape(-1)
    return whole.view(torch.uint8) if len(whole) else whole


def same(a: Any, b: Any) -> bool:
    """Equal, and of equal types; nan is nan."""
    if isinstance(a, torch.Tensor):
        return bool(isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("sizes", [[3], [0], [0, 5, 64, 1], [100] * 300])
def test_the_zip_is_torchs_to_the_byte(sizes: list[int]) -> None:
    raw = saved({str(number): torch.arange(size) for number, size in enumerate(sizes)})
    again = io.BytesIO()
    writer = ZipWriter(again)
    for member in sorted(Archive(Source.open(raw)).members.values(), key=lambda member: member.header):
        writer.add(member.name.partition("/")[2], member.size, [member.view()])
    writer.close()
    assert again.getvalue() == raw


def test_data_is_aligned_the_pickle_first_and_every_checksum_right() -> None:
    raw = written(read(saved({"a": torch.ones(3), "b": torch.ones(5, dtype=torch.bool)})).tree)
    members = Archive(Source.open(raw)).members
    assert all(member.offset % zs.ALIGNMENT == 0 for member in members.values())
    assert next(iter(members)) == "archive/data.pkl"
    assert zipfile.ZipFile(io.BytesIO(raw)).testzip() is None


def test_every_kind_of_tensor_comes_back() -> None:
    tensors = special_tensors()
    pickler = Pickler()
    back = loaded(written(read(saved(tensors)).tree, pickler))
    assert list(back) == list(tensors)
    assert pickler.replaced == []
    assert back["tagged"].note == "kept"
    for key, tensor in tensors.items():
        found = back[key]
        assert (type(found), found.dtype, found.shape) == (type(tensor), tensor.dtype, tensor.shape), key
        assert found.requires_grad == tensor.requires_grad, key
        if tensor.is_quantized:
            assert found.qscheme() == tensor.qscheme()
            assert torch.equal(found.int_repr(), tensor.int_repr())
        elif tensor.layout != torch.strided:
            assert torch.equal(found.to_dense(), tensor.to_dense()), key
        elif not tensor.is_meta:
            assert (found.stride(), found.is_conj()) == (tensor.stride(), tensor.is_conj()), key
            assert torch.equal(raw_bytes(found), raw_bytes(tensor)), key


def test_what_is_shared_stays_shared() -> None:
    tied = torch.ones(4)
    settings = {"a": 1}
    value = {"x": tied, "y": tied, "view": tied[1:], "s": settings, "t": settings, "tuple": (settings, b"\xff")}
    back = loaded(written(read(saved(value)).tree))
    assert back["x"].untyped_storage().data_ptr() == back["view"].untyped_storage().data_ptr()
    assert back["x"] is back["y"]
    assert back["s"] is back["t"] is back["tuple"][0]


def test_values_that_hold_themselves() -> None:
    loop: list[Any] = [1]
    loop += [loop, (loop, {"loop": loop})]
    back = loaded(written(loop))
    assert back[1] is back
    assert back[2][1]["loop"] is back
    through: list[Any] = []
    through.append((through,))
    value = (through,)
    through.append(value)  # a tuple that can only be made once it is made
    pickler = Pickler()
    assert loaded(written(value, pickler))[0][1] is None
    assert pickler.replaced


def test_foreign_objects_become_plain_and_are_listed() -> None:
    pickler = Pickler()
    back = loaded(written(read(saved({"hp": foreign_objects(), "class": torch.nn.Linear})).tree, pickler))
    hp = back["hp"]
    assert (hp["path"], hp["enum"], hp["float32"], hp["named"]) == ("/data/x", 1, 0.5, [1, 2]) or hp["named"] == (1, 2)
    assert hp["dataclass"] == {"width": 4, "names": ["a", "b"]}
    assert hp["namespace"] == {"a": 1, "b": [1, 2]}
    assert hp["attributes"] == {"a": 1, "b": "x"}
    assert torch.equal(hp["array"], torch.arange(6.0, dtype=torch.float64).reshape(2, 3))
    assert hp["module"]["_parameters"]["weight"].shape == (2, 2)
    assert back["class"] == "torch.nn.modules.linear.Linear"
    names = {replaced.path[-1]: replaced.was for replaced in pickler.replaced}
    assert names["path"] == "pathlib.PurePosixPath"
    assert "counter" not in names, "torch takes it as it is"
    assert hp["counter"] == {"a": 2, "b": 1}
    assert hp["tuple_key"] == {(1, "a"): 2, None: 3, 1.5: 4}
    assert all(str(replaced).isprintable() and replaced.to_dict() for replaced in pickler.replaced)


def test_omegaconf_becomes_dicts_and_lists(zoo: dict[str, Path]) -> None:
    pickler = Pickler()
    back = loaded(written(read(zoo["omegaconf"]).tree, pickler))
    assert back["hyper_parameters"]["extra"] == {"hidden": [600, 200], "optim": {"lr": 0.1}}
    assert [str(replaced.path[-1]) for replaced in pickler.replaced] == ["extra"], "not every node inside it"


def test_objects_that_stand_for_themselves_end() -> None:
    mirror = Object(Global("omegaconf.nodes", "AnyNode"))
    mirror.state = {"_val": mirror}
    twins: Any = 1
    for _ in range(40):
        twins = Object(Global("a", "b"), (twins, twins))
    back = loaded(written({"mirror": mirror, "twins": twins}))
    assert back["mirror"] == {"_val": back["mirror"]["_val"]}
    assert back["twins"][0] is back["twins"][1]


@pytest.mark.parametrize("dtype", ["float32", "int64", "bfloat16", "complex64", "uint16", "int8"])
def test_a_file_from_a_big_endian_machine_is_turned_round(dtype: str) -> None:
    tensor = torch.tensor([[1, 2, 300], [4, 5, 6]], dtype=torch.float64).to(getattr(torch, dtype))
    unit = tensor.element_size() // (2 if tensor.is_complex() else 1)
    swapped = tensor.view(torch.uint8).reshape(-1, unit).flip(1).reshape(2, -1).view(tensor.dtype)
    raw = io.BytesIO()
    writer = ZipWriter(raw)
    for member in Archive(Source.open(saved({"t": swapped, "view": swapped[:, 1:]}))).members.values():
        inner = member.name.partition("/")[2]
        content = b"big" if inner == "byteorder" else bytes(member.view())
        writer.add(inner, len(content), [content])
    writer.close()
    back = loaded(written(read(raw.getvalue()).tree))
    assert same(back["t"], tensor)
    assert same(back["view"], tensor[:, 1:])


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8", "bool", "<c8", "<u2"])
def test_numpy_arrays_become_tensors(dtype: str) -> None:
    import numpy

    array = numpy.asfortranarray(numpy.arange(6).reshape(2, 3).astype(dtype))
    back = loaded(written(read(saved({"array": array, "text": numpy.array(["a", "bc"])})).tree))
    assert back["array"].tolist() == array.tolist()
    assert back["text"] == ["a", "bc"]


def test_a_value_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(CheckpointError, match="should be 4 bytes and came to 3"):
        ZipWriter(io.BytesIO()).add("x", 4, [b"abc"])
    with pytest.raises(CheckpointError, match="not in the file"):
        written({"t": Tensor("float32", (2,), (1,), 0, Storage("0", "float32", 2, "cpu"))})


def test_writing_replaces_a_file_only_when_all_is_well(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"old")

    def fail() -> None:
        with output(path) as file:
            file.write(b"new")
            raise CheckpointError("no")

    with pytest.raises(CheckpointError, match="no"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with output("/dev/null") as file:
        file.write(b"x")
    assert not Path("/dev/null").is_file(), "a device is written to, not replaced"


def test_an_integer_too_long_for_torch_becomes_text() -> None:
    pickler = Pickler()
    assert loaded(written([1, 2**3000, (2**3000, 5), {2**3000: 6}], pickler))[:3] == [
        1,
        hex(2**3000),
        (hex(2**3000), 5),
    ]
    assert [replaced.path for replaced in pickler.replaced] == [(1,), (2, 0), (3, hex(2**3000))]


def test_a_shared_text_is_written_once() -> None:
    long = pickle_of(b"(", text("x" * 100_000), b"q\x00", b"h\x00" * 1000, b"t")
    assert len(written(read(checkpoint(long)).tree)) < 400_000
    many = pickle_of(b"(", b"".join(name("a", "b") + b")R" for _ in range(3000)), b"t")
    pickler = Pickler()
    assert loaded(written(read(checkpoint(many)).tree, pickler)) == ("a.b",) * 3000
    assert len(pickler.replaced) == 1000, "no more are remembered"


_keys = st.one_of(
    st.text(max_size=8),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False),
    st.tuples(st.integers(), st.text(max_size=3)),
)
_leaves = st.one_of(
    _keys,
    st.floats(),
    st.complex_numbers(allow_nan=False),
    st.binary(max_size=40),
    st.integers(-(2**2000), 2**2000),
    st.sets(st.one_of(st.integers(), st.text(max_size=4)), max_size=4),
    st.builds(bytearray, st.binary(max_size=8)),
    st.sampled_from([torch.float16, torch.device("cpu"), torch.device("cuda", 1)]),
    st.builds(
        lambda shape, dtype: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
        st.lists(st.integers(0, 4), max_size=3),
        st.sampled_from([torch.float32, torch.int64, torch.bool, torch.bfloat16, torch.float8_e5m2, torch.uint32]),
    ),
)
_trees = st.recursive(
    _leaves,
    lambda inside: st.one_of(
        st.lists(inside, max_size=5), st.dictionaries(_keys, inside, max_size=5), st.tuples(inside, inside)
    ),
    max_leaves=20,
)


@given(_trees)
@settings(max_examples=CASES, deadline=None)
def test_whatever_torch_saves_and_we_read_we_write_and_torch_loads(tree: Any) -> None:
    raw = saved(tree)
    pickler = Pickler()
    again = written(read(raw).tree, pickler)
    assert pickler.replaced == []
    assert same(loaded(again), torch.load(io.BytesIO(raw), weights_only=False))
    assert same(loaded(written(read(again).tree)), loaded(again))
