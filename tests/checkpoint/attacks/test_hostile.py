"""Files made to do harm: none runs anything, hangs, takes a gigabyte, or leaves a file behind."""

from __future__ import annotations

import builtins
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile_files import CANARY, calls, checkpoint, pickle_of, tensor, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mvae
from mvae.checkpoint import CheckpointError, Contents, inspect, read
from mvae.checkpoint.files.source import Record

HERE = Path(__file__).parent
CASES = 20_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 500
FUZZ = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


def survive(raw: bytes) -> None:
    """Everything a user may do with a file must end in a plain message or in an answer that adds up."""
    try:
        file = inspect(raw)
        assert sum(file.bytes.values()) == file.size
        file.to_dict()
        file._repr_html_()
        for entry in file.tensors[:20]:
            if entry.tensor.storage is not None and entry.tensor.numel < 10_000:
                assert entry.tensor.array().shape == entry.tensor.shape
    except CheckpointError as error:
        message = str(error)
        assert message, "an error must say something"
        assert message.isprintable()
        assert message.rstrip()[-1] in ".?"
    assert not hasattr(builtins, CANARY), "the file was run"


@pytest.mark.parametrize(("kind", "pickle"), list(calls()))
def test_nothing_in_the_file_is_run(kind: str, pickle: bytes) -> None:
    survive(pickle)
    survive(checkpoint(pickle))
    survive(checkpoint(pickle_of(b"}", text("state_dict"), pickle[2:-1], b"s")))


def test_the_canary_would_sing() -> None:
    """The corpus is worth something only if Python's own unpickler does run it."""
    try:
        pickle.loads(dict(calls())["REDUCE"])
        assert hasattr(builtins, CANARY)
    finally:
        delattr(builtins, CANARY)


def test_no_bomb_takes_a_gigabyte_or_a_minute(tmp_path: Path) -> None:
    """All in one process of their own; the operating system kills it past a gigabyte."""
    command = [sys.executable, HERE / "explode.py", "5" if CASES == 500 else "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(mvae.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert list(tmp_path.iterdir()) == []


def test_control_characters_do_not_reach_the_terminal() -> None:
    from rich.console import Console

    from mvae.checkpoint.drawing.terminal import print_tree

    escape = "\x1b]0;owned\x07\x1b[31m\r\n\u202e"
    raw = checkpoint(
        pickle_of(b"}(", text(escape), text(escape), text("state_dict"), b"}", text(escape), tensor(), b"su")
    )
    console = Console(record=True, width=200, file=open(os.devnull, "w"), color_system=None)  # noqa: SIM115
    print_tree(inspect(raw), console=console)
    shown = console.export_text()
    assert not set("\x1b\x07\r\u202e") & set(shown)
    assert r"\x1b]0;owned" in shown


def test_html_from_the_file_is_escaped() -> None:
    attack = "<script>alert(1)</script><img src=x onerror='alert(1)'>"
    raw = checkpoint(pickle_of(b"}(", text(attack), text(attack), text("b"), b"}", text(attack), tensor(), b"su"))
    page = inspect(raw)._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


@FUZZ
@given(raw=st.binary(max_size=300))
def test_random_bytes(raw: bytes) -> None:
    survive(raw)
    survive(b"\x80\x02" + raw + b".")
    survive(checkpoint(raw))


OPCODES = st.sampled_from([
    b"N", b"]", b"}", b")", b"(", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"0", b"1", b"2", b"R", b"b", b"o", b"Q",
    b"\x81", b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x91", b"\x93", b"\x94", b"K\x01", b"h\x00", b"h\x01",
    b"q\x00", b"q\x01", b"\x88", b"X\x01\x00\x00\x00a", b"X\x03\x00\x00\x00abc", b"J\xff\xff\xff\xff",
    b"cos\nsystem\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"cbuiltins\nset\n", b"cnumpy\ndtype\n", b"cnumpy._core.multiarray\n_reconstruct\n", b"ctorch\nSize\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"c_codecs\nencode\n", tensor(),
])  # fmt: skip


@FUZZ
@given(parts=st.lists(OPCODES, max_size=60))
def test_random_opcodes(parts: list[bytes]) -> None:
    survive(pickle_of(*parts, protocol=4))
    survive(checkpoint(pickle_of(*parts)))


@settings(max_examples=CASES // 10, deadline=None, suppress_health_check=list(HealthCheck))
@given(start=st.lists(OPCODES, max_size=20), again=st.lists(OPCODES, min_size=1, max_size=8))
def test_random_opcodes_again_and_again_cost_no_more_than_their_bytes(start: list[bytes], again: list[bytes]) -> None:
    """300 kB of one pattern: at the rate that is promised of 10 MB, and ten times that for a busy machine."""
    pattern = b"".join(again)
    raw = pickle_of(*start, pattern * (300_000 // len(pattern)), protocol=4)
    began = time.process_time()
    survive(raw)
    assert time.process_time() - began < 10 * 10 * len(raw) / 10_000_000, "quadratic"


REAL = st.sampled_from(["lightning", "tensors", "legacy", "omegaconf", "hyperparameters", "protocol 5"])


@FUZZ
@given(name=REAL, seed=st.integers(0, 2**32))
def test_damaged_checkpoints(zoo: dict[str, Path], name: str, seed: int) -> None:
    """Bits flipped, bytes overwritten, pieces cut out or doubled, in files that real programs wrote."""
    survive(damaged(zoo[name].read_bytes(), random.Random(seed)))


@FUZZ
@given(name=REAL, seed=st.integers(0, 2**32))
def test_damaged_pickles_in_sound_zips(zoo: dict[str, Path], name: str, seed: int) -> None:
    """The same in the pickle alone, so that the zip's own checks do not catch it."""
    contents = read(zoo[name])
    pickle = bytes(max(contents.pickles, key=lambda record: record.size).view())
    members = {f"archive/{key}": bytes(record.view()) for key, record in _storages(contents)}
    survive(checkpoint(damaged(pickle, random.Random(seed)), members))


def _storages(contents: Contents) -> list[tuple[str, Record]]:
    return [(f"data/{key}", s.record) for key, s in contents.storages.items() if s.record is not None and key != "0"]


def damaged(original: bytes, generator: random.Random) -> bytes:
    raw = bytearray(original)
    for _ in range(generator.choice([1, 1, 2, 5, 50])):
        at, length = generator.randrange(len(raw) or 1), generator.choice([1, 1, 4, 40, 400])
        match generator.randrange(5):
            case 0 | 1 if raw:
                raw[at] ^= 1 << generator.randrange(8)
            case 2:
                raw[at : at + length] = generator.randbytes(length)
            case 3:
                del raw[at : at + length]
            case 4:
                raw[at:at] = raw[at : at + length]
    return bytes(raw)
