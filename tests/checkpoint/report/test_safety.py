"""The verdict on what a file would import must be that of the real `torch.load(weights_only=True)`."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import functools
import importlib
import io
import operator
import pathlib
import pickle
import re
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_files import calls, checkpoint, name, pickle_of, text
from real_files import foreign_objects

from mvae.checkpoint import inspect
from mvae.checkpoint.pickled.values import Global
from mvae.checkpoint.report.safety import ALLOWED, Safety


def resolve(entry: str) -> Any:
    """What a line of the allow-list is in Python, once the modules it names are imported."""
    modules = {}
    for dotted in re.findall(r"(?<![\w\".])[A-Za-z_][\w.]*", entry):
        importlib.import_module(dotted.rpartition(".")[0])
        top = dotted.partition(".")[0]
        modules[top] = importlib.import_module(top)
    return eval(entry, modules)


def loads(path: Path, allowed: list[str]) -> bool:
    """Whether torch takes the file when these are on its list, written as they are printed."""
    with ExitStack() as stack:
        stack.enter_context(torch.serialization.safe_globals([resolve(entry) for entry in allowed]))
        try:
            torch.load(path, weights_only=True)
        except Exception:
            return False
        return True


def judged(tmp_path: Path, value: Any) -> tuple[Path, Safety]:
    path = tmp_path / "x.pt"
    torch.save(value, path)
    return path, inspect(path).safety


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="the list is that of PyTorch 2.13")
def test_the_list_of_names_taken_is_that_of_the_torch_installed() -> None:
    from torch._weights_only_unpickler import _get_allowed_globals

    assert set(_get_allowed_globals()) == ALLOWED


@pytest.mark.parametrize("kind", list(foreign_objects()))
def test_verdict_and_allow_list_for_what_people_save(tmp_path: Path, kind: str) -> None:
    path, safety = judged(tmp_path, {"hyper_parameters": foreign_objects()[kind]})
    assert safety.weights_only == loads(path, [])
    if kind == "partial":
        assert safety.allow_list is None, "on a list it would let any file call anything"
        assert not safety.system, "an optimizer's factory in the hyperparameters is no attack"
        return
    if safety.allow_list is None:
        assert not loads(path, [refusal.name for refusal in safety.refused])
        assert safety.obstacles
        return
    assert loads(path, safety.allow_list)
    for left_out in safety.allow_list:
        assert not loads(path, [one for one in safety.allow_list if one != left_out]), left_out


def test_a_numpy_number_needs_the_type_that_the_pickle_does_not_name(tmp_path: Path) -> None:
    _, safety = judged(tmp_path, {"lr": np.float32(0.1)})
    assert safety.allow_list is not None
    assert "numpy.dtypes.Float32DType" in safety.allow_list
    assert "numpy" in safety.refused[0].reason


def test_omegaconf_can_be_loaded_with_the_list(zoo: dict[str, Path]) -> None:
    safety = inspect(zoo["omegaconf"]).safety
    assert not safety.weights_only
    assert safety.allow_list is not None
    assert loads(zoo["omegaconf"], safety.allow_list)


def test_a_class_filled_item_by_item_cannot_be_allowed(zoo: dict[str, Path]) -> None:
    safety = inspect(zoo["hyperparameters"]).safety
    assert safety.allow_list is None
    assert any("AttributeDict" in obstacle for obstacle in safety.obstacles)


def test_a_class_that_is_not_installed_is_named(zoo: dict[str, Path]) -> None:
    safety = inspect(zoo["vanished"]).safety
    assert safety.refused[0].name == "gone_project.Config"
    assert not safety.system


@pytest.mark.parametrize(("kind", "pickle"), list(calls()))
def test_a_call_into_the_system_is_named(kind: str, pickle: bytes) -> None:
    from mvae.checkpoint import CheckpointError

    try:
        safety = inspect(checkpoint(pickle)).safety
    except CheckpointError:
        return
    assert not safety.weights_only
    harmless = ("EXT1", "EXT2", "EXT4", "APPEND to an object")
    assert bool(safety.system) == (kind not in harmless), safety


@pytest.mark.parametrize("module", ["os", "posix", "nt", "sys"])
def test_blocked_modules_cannot_be_allowed(module: str) -> None:
    safety = inspect(checkpoint(pickle_of(name(module, "anything"), text("x"), b"\x85R"))).safety
    assert safety.allow_list is None
    assert safety.system


def test_a_module_in_the_old_format_cannot_be_allowed(zoo: dict[str, Path]) -> None:
    safety = inspect(zoo["legacy"]).safety
    assert safety.allow_list is None
    assert not loads(zoo["legacy"], [refusal.name for refusal in safety.refused])


def test_every_pickle_of_the_old_format_is_judged() -> None:
    """The magic number, version and system information are pickles too, and are run like the rest."""
    import pickle

    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    evil = pickle_of(name("posix", "system"), text("true"), b"\x85R")
    raw = magic + pickle.dumps(1001, 2) + evil + pickle.dumps({}, 2) + pickle.dumps([], 2)
    assert [refusal.name for refusal in inspect(raw).safety.system] == ["posix.system"]


def test_protocol_4_is_an_obstacle(zoo: dict[str, Path]) -> None:
    safety = inspect(zoo["protocol 4"]).safety
    assert not safety.weights_only
    assert safety.allow_list is None
    assert "protocol 4" in safety.obstacles[0]


def test_a_path_is_refused_and_harmless(tmp_path: Path) -> None:
    _, safety = judged(tmp_path, {"dir": pathlib.PurePosixPath("/x")})
    assert not safety.system
    assert safety.allow_list == [str(Global(pathlib.PurePosixPath.__module__, "PurePosixPath"))]


def test_safetensors_have_nothing_to_run(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    assert inspect(tmp_path / "x.safetensors").safety == Safety(True, allow_list=[])


class Made:
    """A class that a function makes, so that no file says its name."""


def make_it() -> Made:
    return Made()


class MadeByAFunction:
    def __reduce__(self) -> Any:
        return make_it, (), {"x": 1}


class Outer:
    class Inner:
        """A class with a dot in its name."""


def kinds_of_refusal() -> dict[str, Any]:
    """A value for each way in which PyTorch refuses one."""
    return {
        "a class": argparse.Namespace(a=1),
        "a state for what a function made": MadeByAFunction(),
        "a call of a call's result": CalledResult(),
        "filled item by item": collections.deque([1]),
        "a dotted name": Outer.Inner(),
        "an exception": KeyError("x"),
        "an exception with Python 2's name": [ValueError("x"), StopIteration()],
        "a renamed module": collections.UserDict(a=1),
        "text of numpy": np.array(["a", "bc"]),
        "bytes of numpy": np.array([b"a", b"bc"]),
        "long numbers of numpy": np.array([1, 2], np.longdouble),
        "long complex numbers of numpy": np.array([1j], np.clongdouble),
        "records of numpy": np.zeros(2, [("a", "i4"), ("b", "f8")]),
        "raw memory of numpy": np.zeros(2, "V4"),
        "dates of numpy": np.array(["2020-01-01"], "M8[D]"),
        "a span of numpy": np.timedelta64(3, "s"),
        "a text scalar of numpy": np.str_("x"),
        "a generator of numpy": np.random.RandomState(0),
        "objects of numpy": np.array([{1}, None], object),
        "a slice": slice(1, 2),
        "a range": range(3),
        "NoneType": type(None),
        "a class itself": Made,
        "a date": datetime.datetime(2020, 1, 1),
        "a fraction": fractions.Fraction(1, 3),
        "a decimal": decimal.Decimal("1.5"),
        "a uuid": uuid.UUID(int=3),
        "a pattern": re.compile("a"),
        "a defaultdict": collections.defaultdict(list, a=[1]),
        "a bound method": Made().__init__,
        "a method of one's own": OwnMethod().method,
        "a module": torch.nn.Linear(2, 2),
        "an activation": torch.nn.functional.gelu,
        "an operator": operator.add,
    }


NO_LIST_HELPS = {
    "a state for what a function made",
    "a call of a call's result",
    "filled item by item",
    "a bound method",
    "a method of one's own",
    "a generator of numpy",
    "a defaultdict",
    "a dotted name",
}


class CalledResult:
    def __reduce__(self) -> Any:
        return functools.partial(dict, a=1), ()


class OwnMethod:
    def method(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("kind", list(kinds_of_refusal()))
def test_an_allow_list_is_given_only_if_it_suffices(tmp_path: Path, kind: str) -> None:
    path, safety = judged(tmp_path, {"x": kinds_of_refusal()[kind], "w": torch.ones(2)})
    assert bool(safety.system) == (kind in ("a call of a call's result", "a bound method"))
    assert not safety.weights_only
    assert not loads(path, [])
    assert (safety.allow_list is None) == (kind in NO_LIST_HELPS), safety
    if safety.allow_list is not None:
        assert loads(path, safety.allow_list), safety.allow_list
    elif safety.obstacles and not safety.system:
        assert not loads(path, [refusal.name for refusal in safety.refused])


def test_a_file_of_numpy_1_asks_for_its_old_names() -> None:
    """With numpy 2 the function calls itself by another name, so the pair of both is given."""
    raw = checkpoint(pickle.dumps(np.arange(3.0), 2).replace(b"numpy._core", b"numpy.core"))
    allow_list = inspect(raw).safety.allow_list
    assert allow_list is not None
    assert '(numpy._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct")' in allow_list
    with torch.serialization.safe_globals([resolve(entry) for entry in allow_list]):
        assert torch.load(io.BytesIO(raw), weights_only=True).tolist() == [0.0, 1.0, 2.0]
