"""The house stays a house: one-way doors, rooms of a size to look round in, functions that fit on a screen."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_MODULES = 14
MAX_LINES = 50

WRONG_DOORS = {
    "files/source.py": "from mvae.checkpoint.pickled import dtypes",
    "pickled/machine.py": "from mvae.checkpoint.formats import contents",
    "formats/reading.py": "from mvae.checkpoint.report import report",
    "report/facts/__init__.py": "from mvae.checkpoint.drawing import outline",
    "drawing/outline.py": "from mvae.checkpoint import inspection",
    "tools/latest.py": "from mvae.checkpoint.with_torch import loading",
    "tools/verifying.py": "import torch",
}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env={"PYTHONPATH": str(root)}, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its rules in another folder."""
    shutil.copytree(ROOT / "mvae", tmp_path / "mvae", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_doors_are_one_way(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("room", "line"), WRONG_DOORS.items())
def test_an_import_in_the_wrong_room_is_refused(copy: Path, room: str, line: str) -> None:
    module = copy / "mvae/checkpoint" / room
    module.write_text(module.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout


def test_a_module_outside_the_rooms_is_refused(copy: Path) -> None:
    (copy / "mvae/checkpoint/misc.py").write_text("", encoding="utf-8")
    assert lint_imports(copy).returncode == 1


def test_no_room_is_too_large_to_look_round_in() -> None:
    for folder in {path.parent for path in (ROOT / "mvae").rglob("*.py")}:
        assert len(list(folder.glob("*.py"))) <= MAX_MODULES, folder


def test_a_function_fits_on_a_screen() -> None:
    spec = importlib.util.spec_from_file_location("code_size", ROOT / "scripts/code_size.py")
    code_size = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code_size)
    for path in (ROOT / "mvae").rglob("*.py"):
        lines, name = code_size.longest_function(path.read_text(encoding="utf-8"))
        assert lines <= MAX_LINES, f"{path}: {name} has {lines} lines"


def test_no_module_has_the_name_of_something_its_package_offers() -> None:
    """`import mvae.checkpoint.diff` would give a function or a module, depending on what came before it."""
    for stub in (ROOT / "mvae").rglob("__init__.pyi"):
        names = set(re.findall(r" as (\w+)$", stub.read_text(encoding="utf-8"), re.MULTILINE))
        modules = {path.stem for path in stub.parent.iterdir()}
        assert not names & modules


def test_what_the_map_names_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:mvae|tests|notebooks|scripts|benchmarks|docs|data)/[\w/.]*)`", text)
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), path


NO_MODULE_OF_ITS_OWN = {
    "checkpoint/attacks/hostile": "whatever the module: nothing runs, nothing explodes, nothing reaches the terminal",
    "checkpoint/attacks/names": "the names with which a file can do harm, each with its reason",
    "checkpoint/attacks/same_as_python": "the pickle machine held against Python's own",
    "checkpoint/attacks/verdict": "files that would slip past a verdict, each with its reason",
    "checkpoint/files/same_as_torch": "the zip reader held against torch's own",
    "checkpoint/real_checkpoints": "the whole way of every kind of real file, held against torch",
    "checkpoint/report/facts": "the course's specimen: all facts of one file together",
    "checkpoint/with_torch/exactness_matrix": "loader × moment × callbacks: each resumed run equals the whole one",
    "checkpoint/with_torch/resume_two_processes": "resume, where two processes train",
    "cli/inspect": "a command, of cli/checkpoints.py",
    "cli/train": "a command, of cli/recommender.py",
    "architecture": "the rooms themselves",
    "course": "the lessons",
    "exercises": "the exercises of notebooks/",
    "grade": "`make grade`, scripts/grade.py",
    "jupyterlab": "the lessons in a browser",
    "lab": "`make lab`, scripts/lab.py",
    "predictions": "the predictions of the lessons",
    "project": "what is around the package: dependencies, links, pages",
    "student": "`make student`, scripts/student.py",
    "several_processes": "`fit` where two processes train: loaders, models, callbacks together",
}
"""Test files that stand for no single module, each with the reason."""


def test_every_module_has_its_test_file_and_every_test_file_its_module() -> None:
    """`mvae/checkpoint/files/source.py` has `tests/checkpoint/files/test_source.py`; `_lazy.py` has `test_lazy.py`."""
    package = (path.relative_to(ROOT / "mvae").with_suffix("") for path in (ROOT / "mvae").rglob("*.py"))
    files = (path.relative_to(ROOT / "tests").with_suffix("") for path in (ROOT / "tests").rglob("test_*.py"))
    modules = {(path.parent / path.name.lstrip("_")).as_posix() for path in package if not path.name.endswith("__")}
    tests = {(path.parent / path.name.removeprefix("test_")).as_posix() for path in files}
    assert modules <= tests, f"without a test file of its own: {modules - tests}"
    assert tests - modules == set(NO_MODULE_OF_ITS_OWN), "a test file has its module, or its reason above"
