"""Whatever a loader would run is found and named: in every pickle of a file, and up to where it breaks.

The payloads are harmless (`print`), or never loaded; each stands in the smallest file of its kind.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import struct
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hostile_files import checkpoint, name, pickle_of, text

from mvae.checkpoint import CheckpointError, inspect
from mvae.checkpoint.report.safety import Safety
from mvae.cli import main

EVIL = pickle_of(name("os", "system"), text("true"), b"\x85R")
GOOD = pickle_of(b"}", text("epoch"), b"K\x01s")
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PRINT = name("builtins", "print") + text("RAN") + b"\x85R"


def short(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def dangers(raw: bytes) -> list[str]:
    return [refusal.name for refusal in inspect(raw).safety.system]


def strict(path: Path) -> int:
    """The exit code of `mvae inspect --strict`."""
    with patch.object(sys, "argv", ["mvae", "inspect", "--strict", str(path)]), pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


def test_a_name_is_what_it_reaches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`torch.distributed.checkpoint.filesystem` + `os.system` is `os.system`, in a folder's own `.metadata` too."""
    reached = short("torch.distributed.checkpoint.filesystem") + short("os.system") + b"\x93"
    metadata = short("torch.distributed.checkpoint.metadata") + short("Metadata") + b"\x93)\x81}("
    metadata += short("state_dict_metadata") + b"}" + short("storage_data") + b"}" + short("planner_data")
    (tmp_path / ".metadata").write_bytes(b"\x80\x04" + metadata + reached + short("true") + b"\x85Rub.")
    safety = inspect(tmp_path).safety
    assert [refusal.name for refusal in safety.system] == ["torch.distributed.checkpoint.filesystem.os.system"]
    assert "leads to os.system" in safety.system[0].reason
    assert strict(tmp_path) == 1
    assert "DANGER" in capsys.readouterr().out


def test_a_frame_shorter_than_its_instruction_is_refused() -> None:
    """The C unpickler drops what is left of the frame and runs what stands behind it; we would read on."""
    body = b"B\x2a\0\0\0\0" + PRINT + b"."
    raw = b"\x80\x05\x95" + struct.pack("<Q", 2) + body.ljust(6 + 0x2A, b"N") + b"N" * 10 + b"."
    with pytest.raises(CheckpointError, match="past its frame"):
        inspect(checkpoint(raw))


@pytest.mark.parametrize(
    ("frames", "sound"),
    [
        (struct.pack("<Q", 2) + b"K\x01.", True),
        (struct.pack("<Q", 4) + b"K\x01.N", True),
        (struct.pack("<Q", 4) + b"K\x01.NN", False),  # whoever reads on would do so behind the frame
        (struct.pack("<Q", 3) + b"K\x01.", True),
        (struct.pack("<Q", 2) + b"K\x01" + b"\x95" + struct.pack("<Q", 1) + b".", True),
        (struct.pack("<Q", 0) + b"K\x01.", True),
        (struct.pack("<Q", 12) + b"\x95" + struct.pack("<Q", 3) + b"K\x01N.", False),  # a frame in a frame
        (struct.pack("<Q", 1) + b"K\x01.", False),
    ],
)
def test_frames_are_read_as_python_reads_them(frames: bytes, sound: bool) -> None:
    raw = b"\x80\x04\x95" + frames
    if sound:
        assert pickle.load(io.BytesIO(raw)) == inspect(raw).tree == 1
    else:
        with pytest.raises(CheckpointError, match="frame"):
            inspect(raw)


BREAKS = {
    "a memo that is not there": b"0h\x09.",
    "cut off": b"",
    "no such instruction": b"\xff.",
    "too deep": b"0" + b"]" * 600 + b"a" * 599 + b".",
    "no such storage": b"0(" + text("nothing") + b"tQ.",
    "a key that is a list": b"0}]Ns.",
}


@pytest.mark.parametrize("kind", list(BREAKS))
def test_what_runs_before_it_breaks_is_named(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    raw = b"\x80\x02" + PRINT + BREAKS[kind]
    path = tmp_path / "x.pt"
    old = MAGIC + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + raw
    for content in (checkpoint(raw), old, *([] if kind == "no such storage" else [raw])):
        path.write_bytes(content)
        assert strict(path) == 2
        assert "calls builtins.print before it breaks" in capsys.readouterr().err


def test_a_storage_that_is_missing_is_too_late_for_whom_torch_has_run() -> None:
    storage = b"(" + text("storage") + name("torch", "FloatStorage") + text("9") + text("cpu") + b"K\x04tQ"
    with pytest.raises(CheckpointError, match=r"no such member.*calls builtins\.print"):
        inspect(checkpoint(pickle_of(b"(", PRINT, storage, b"t")))


@pytest.mark.parametrize(
    "raw",
    [
        b"cposix\nsystem\n(S'true'\ntR.",  # protocol 0 starts with no mark of its own
        b"\nI1\n0cposix\nsystem\n(S'true'\ntR.",  # no instruction at all: only what starts like a pickle is one
        b"N0cposix\nsystem\n(S'true'\ntR.and more",  # after something harmless, and with more behind its end
        b"S'x'\n0(S'true'\niposix\nsystem\n.",  # begins as a text does
        b"\x890(cposix\nsystem\nS'true'\no.",  # begins with a byte that is no letter
    ],
)
def test_a_pickle_without_a_known_beginning_is_one(raw: bytes) -> None:
    if raw.startswith(b"\n"):
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            inspect(raw)
    else:
        assert dangers(raw) == ["posix.system"]


def test_a_broken_pickle_without_a_known_beginning_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"calls posix\.system, which runs commands"):
        inspect(b"cposix\nsystem\n(S'true'\ntRgarbage \xff")


def test_a_magic_number_that_is_computed_hides_nothing() -> None:
    """`torch.load(weights_only=False)` takes `int("…")` for the magic number of its old format and reads on."""
    number = pickle_of(name("builtins", "int"), text(str(0x1950A86A20F9469CFC6C)), b"\x85R")
    raw = number + b"".join(pickle.dumps(part, 2) for part in (1001, {}, {"w": 1}, []))
    assert torch.load(io.BytesIO(raw), weights_only=False) == {"w": 1}
    raw = number + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + EVIL + pickle.dumps([], 2)
    assert dangers(raw) == ["os.system"]


def test_a_module_that_is_written_into_is_an_attack() -> None:
    """BUILD with a module as its target replaces what everybody else finds in it."""
    raw = pickle_of(short("torch"), short("_utils"), b"\x93}", short("x"), b"K\x01sb", protocol=4)
    assert "changed for the whole program" in inspect(raw).safety.system[0].reason


def test_a_name_that_is_computed_is_an_attack() -> None:
    raw = pickle_of(name("a", "b"), b")R", short("system"), b"\x93", short("true"), b"\x85R", protocol=4)
    assert "works out when it is loaded" in inspect(raw).safety.system[0].reason


class Own:
    """Somebody's own class."""

    def method(self) -> int:
        return 1


def test_a_bound_method_of_the_files_own_class_is_said_to_be_that() -> None:
    safety = inspect(pickle.dumps({"hook": Own().method})).safety
    assert not safety.system
    reason = next(refusal.reason for refusal in safety.refused if refusal.name == "builtins.getattr")
    assert "Own.method" in reason
    assert safety.allow_list is None


@pytest.mark.parametrize(
    "call",
    [
        name("torch", "hub") + text("load") + b"\x86R",  # a function of a module that was named for another
        name("a", "b") + text("__globals__") + b"\x86R",  # from a function to all that its module holds
        name("pathlib", "Path") + text("unlink") + b"\x86R",  # a method that deletes, of a class that does not
        name("a", "b") + name("a", "c") + b")R\x86R",  # which attribute, only a call says
        name("a", "B") + b")R" + text("method") + b"\x86R)R",  # and then it is called
    ],
)
def test_getattr_is_followed_to_where_it_leads(call: bytes) -> None:
    raw = pickle_of(name("builtins", "getattr"), call)
    assert "builtins.getattr" in dangers(raw)


def test_the_memo_is_numbered_as_python_numbers_it() -> None:
    """MEMOIZE counts what is in the memo, not the highest place in it; else a file shows one value, loads another."""
    raw = b"\x80\x04K\x01r\x07\x00\x00\x00K\x02\x94(h\x01h\x07t."
    assert inspect(raw).tree == pickle.loads(raw) == (2, 1)


def judged(tmp_path: Path, value: Any) -> tuple[Path, Safety]:
    path = tmp_path / "x.pt"
    torch.save(value, path)
    return path, inspect(path).safety


class Calls:
    def __reduce__(self) -> Any:
        return functools.partial(dict, a=1), ()


def test_a_call_of_a_calls_result_is_an_obstacle(tmp_path: Path) -> None:
    path, safety = judged(tmp_path, {"x": Calls(), "w": torch.ones(2)})
    assert safety.allow_list is None
    assert any("called in turn" in obstacle for obstacle in safety.obstacles)
    with torch.serialization.safe_globals([functools.partial, dict]), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_the_verdict_names_what_is_refused_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line "refuses it:" never stands empty."""
    path = tmp_path / "x.pt"
    for raw in (EVIL, pickle_of(b"\x8c\x01a", protocol=4), pickle_of(name("a", "B"), b")R"), GOOD):
        path.write_bytes(checkpoint(raw) if raw is not GOOD else GOOD)
        main_out = strict(path)
        lines = capsys.readouterr().out.splitlines()
        at = next(i for i, line in enumerate(lines) if "refuses it" in line)
        assert "├──" in lines[at + 1] or "└──" in lines[at + 1], lines
        assert main_out == 1


def test_json_says_the_same() -> None:
    unsafe = json.loads(json.dumps(inspect(checkpoint(GOOD, {"archive/evil.pkl": EVIL})).to_dict()))["unsafe"]
    assert unsafe["beside"][0]["system"] is True
    assert unsafe["unseen"] == []
