"""`make student`: the course as it is handed out."""

from __future__ import annotations

import re
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


def test_cells_that_grade_cannot_be_changed_by_accident(handed_out: Path) -> None:
    notebook = nbformat.read(handed_out / "notebooks/exercises/02_train.ipynb", as_version=4)
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("grade"):
            assert cell.metadata.editable is False
        if marks.get("solution"):
            assert cell.metadata.get("editable", True)
