"""`make lab` opens copies: made once, never overwritten, and it says when an original has changed since."""

from __future__ import annotations

import shutil
from pathlib import Path

import lab
import pytest
import student


@pytest.fixture
def originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one lesson and one exercise."""
    notebooks = tmp_path / "notebooks"
    (notebooks / "exercises").mkdir(parents=True)
    for name in ("00_tour.ipynb", "exercises/00_tour.ipynb"):
        shutil.copy(student.NOTEBOOKS / name, notebooks / name)
    exercises = {"00_tour": notebooks / "exercises/00_tour.ipynb"}
    for module in (student, lab):
        monkeypatch.setattr(module, "NOTEBOOKS", notebooks)
        monkeypatch.setattr(module, "EXERCISES", exercises)
    return notebooks


@pytest.mark.usefixtures("originals")
def test_lessons_are_copied_as_they_are_and_exercises_without_solutions(originals: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert lab.copy_notebooks(work) == []
    assert (work / "00_tour.ipynb").read_bytes() == (originals / "00_tour.ipynb").read_bytes()
    exercise = (work / "exercises/00_tour.ipynb").read_text(encoding="utf-8")
    assert "raise NotImplementedError" in exercise
    assert "SOLUTION" not in exercise


def test_a_copy_is_never_overwritten_and_a_newer_original_is_said(originals: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    lab.copy_notebooks(work)
    (work / "00_tour.ipynb").write_text("mine")
    assert lab.copy_notebooks(work) == []  # edited here, not there
    with (originals / "00_tour.ipynb").open("a") as file:
        file.write("\n")
    assert lab.copy_notebooks(work) == ["00_tour.ipynb"]
    assert lab.copy_notebooks(work) == ["00_tour.ipynb"]  # as long as it is so
    assert (work / "00_tour.ipynb").read_text() == "mine"
    (work / "00_tour.ipynb").rename(work / "mine.ipynb")
    assert lab.copy_notebooks(work) == []
    assert (work / "00_tour.ipynb").read_bytes() == (originals / "00_tour.ipynb").read_bytes()


@pytest.mark.usefixtures("originals")
def test_copies_that_were_made_before_a_kill_are_known_again(tmp_path: Path) -> None:
    work = tmp_path / "work"
    lab.copy_notebooks(work)
    (work / lab.RECORD).unlink()  # it is written last
    assert lab.copy_notebooks(work) == []
