"""`make student`: the course as it is handed out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import student

LINK = re.compile(r"\]\((?!http|#)([^)#\s]+)")
SCRIPT = re.compile(r'"(\.\./(?:scripts|docs)/\w+\.\w+)"')


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("course") / "student"
    student.write_student(out)
    return out


def test_every_lesson_and_every_exercise_is_there_without_outputs(handed_out: Path) -> None:
    names = [path.relative_to(handed_out / "notebooks") for path in sorted((handed_out / "notebooks").rglob("*.ipynb"))]
    assert names == sorted(student.sources())
    for name in names:
        notebook = nbformat.read(handed_out / "notebooks" / name, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_what_the_lessons_lead_to_is_there(handed_out: Path) -> None:
    """Links between pages, and the scripts that lessons start."""
    for path in (handed_out / "notebooks").rglob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        named = [(SCRIPT if cell.cell_type == "code" else LINK).findall(cell.source) for cell in cells]
        missing = [target for targets in named for target in targets if not (path.parent / target).exists()]
        assert missing == [], path.name


def test_the_extra_for_teaching_installs_all_that_the_notebooks_import(handed_out: Path) -> None:
    """Who gets the course from a stick has that extra only."""
    project = tomllib.loads((handed_out / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["teach"]]
    installed = {re.match(r"[\w-]+", requirement)[0] for requirement in listed} | {"mvae", "IPython"}
    for path in (handed_out / "notebooks").rglob("*.ipynb"):
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        imported = {name for source in code for name in re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE)}
        assert imported - set(sys.stdlib_module_names) <= installed, path.name


def test_it_is_a_course_of_its_own(handed_out: Path) -> None:
    """`make lab` in it finds what it needs, and the package that is handed out is this one."""
    for name in ("Makefile", "constraints.txt", "scripts/lab.py", "mvae/model.py", "data/README.md"):
        assert (handed_out / name).read_bytes() == (student.ROOT / name).read_bytes()
    assert not list(handed_out.rglob("*.pyc"))
    done = subprocess.run(
        [sys.executable, "-c", "import lab; print(lab.copy_notebooks())"],
        env=os.environ | {"PYTHONPATH": str(handed_out / "scripts")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert (handed_out / "work/exercises/02_train.ipynb").is_file()


def test_cells_that_grade_cannot_be_changed_by_accident(handed_out: Path) -> None:
    notebook = nbformat.read(handed_out / "notebooks/exercises/02_train.ipynb", as_version=4)
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("grade"):
            assert cell.metadata.editable is False
        if marks.get("solution"):
            assert cell.metadata.get("editable", True)
