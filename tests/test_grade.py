"""`make grade`, on a folder such as a class hands in: right, half, and broken in every way that costs points only."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from exercises import answered, answers, handed_out, mark, with_solutions
from student import ROOT

EXERCISE = "02_train"
RIGHT = answers(with_solutions(EXERCISE))
FIRST = next(iter(RIGHT))


def hand_in(given: dict[str, str]) -> nbformat.NotebookNode:
    return answered(handed_out(EXERCISE), given)


def first_answer(source: str) -> nbformat.NotebookNode:
    """All right, but for the first answer."""
    return hand_in(RIGHT | {FIRST: source})


def without_first_test() -> nbformat.NotebookNode:
    notebook = hand_in(RIGHT)
    notebook.cells = [cell for cell in notebook.cells if mark(cell, "grade_id") != f"{FIRST}-test"]
    return notebook


def with_tests_that_pass() -> nbformat.NotebookNode:
    notebook = hand_in({})
    for cell in notebook.cells:
        if mark(cell, "grade"):
            cell.source = "pass"
    return notebook


SUBMISSIONS = {
    f"ada lovelace_{EXERCISE}": hand_in(RIGHT),
    f"half_{EXERCISE} (1)": hand_in(dict(list(RIGHT.items())[2:])),
    f"loop_{EXERCISE}": first_answer("def beta(*numbers):\n    while True:\n        pass"),
    f"syntax_{EXERCISE}": first_answer("def beta(:"),
    f"huge_{EXERCISE}": first_answer(RIGHT[FIRST] + "\nfor _ in range(100_000):\n    print('x' * 100)"),
    f"exit_{EXERCISE}": first_answer(RIGHT[FIRST] + "\nimport os\nos._exit(1)"),
    f"deleted_{EXERCISE}": without_first_test(),
    f"edited_{EXERCISE}": with_tests_that_pass(),
    f"other_{EXERCISE}": handed_out("04_dissect"),
    f"none_{EXERCISE}": "this is no notebook",
    f"strange_{EXERCISE}": '{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "essay": hand_in(RIGHT),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder, out = tmp_path_factory.mktemp("handed in"), tmp_path_factory.mktemp("grades") / "out"
    for name, notebook in SUBMISSIONS.items():
        text = notebook if isinstance(notebook, str) else nbformat.writes(notebook)
        (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")
    command = [sys.executable, str(ROOT / "scripts" / "grade.py"), str(folder), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert sorted(path.stem for path in (out / "feedback").glob("*.html")) == sorted(SUBMISSIONS)
    with (out / "grades.csv").open(encoding="utf-8", newline="") as file:
        table = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    return {name: row | {"page": (out / "feedback" / f"{name}.html").read_text()} for name, row in table.items()}


def test_every_file_has_a_row(rows: dict[str, dict[str, str]]) -> None:
    assert sorted(rows) == sorted(SUBMISSIONS)


@pytest.mark.parametrize(
    ("who", "points", "remark"),
    [
        ("ada lovelace", 8, ""),
        ("half", 4, ""),
        ("loop", 6, "Interrupted after 20 seconds: train-beta."),
        ("syntax", 6, ""),
        ("huge", 8, ""),
        ("exit", 0, "kernel"),
        ("deleted", 6, "train-beta were deleted"),
        ("edited", 0, "train-rates were edited"),
        ("other", 0, "of exercise 04_dissect"),
        ("none", 0, "no notebook"),
        ("strange", 0, "no notebook"),
    ],
)
def test_what_goes_wrong_costs_its_points_and_is_said(
    rows: dict[str, dict[str, str]], who: str, points: float, remark: str
) -> None:
    [row] = [row for row in rows.values() if row["name"] == who]
    assert (row["name"], row["exercise"], float(row["points"]), float(row["of"])) == (who, EXERCISE, points, 8)
    assert remark in row["remark"]
    assert bool(remark) == bool(row["remark"])


def test_points_are_given_question_by_question(rows: dict[str, dict[str, str]]) -> None:
    assert [rows[f"half_{EXERCISE} (1)"][question] for question in RIGHT] == ["0.0", "0.0", "2.0", "2.0"]


def test_a_file_whose_name_says_no_exercise_is_not_graded_and_said(rows: dict[str, dict[str, str]]) -> None:
    assert "name_02_train.ipynb" in rows["essay"]["remark"]
    assert "name_02_train.ipynb" in rows["essay"]["page"]


def test_the_page_of_a_wrong_answer_shows_the_words_of_the_test(rows: dict[str, dict[str, str]]) -> None:
    assert "NotImplementedError" in rows[f"half_{EXERCISE} (1)"]["page"]
    assert (
        "CellTimeoutError" in rows[f"loop_{EXERCISE}"]["page"]
        or "KeyboardInterrupt" in rows[f"loop_{EXERCISE}"]["page"]
    )


def test_a_huge_output_makes_no_huge_page(rows: dict[str, dict[str, str]]) -> None:
    assert len(rows[f"huge_{EXERCISE}"]["page"]) < 1_000_000


@pytest.mark.parametrize("arguments", [[], ["nowhere"]])
def test_no_folder_is_an_error_that_says_what_to_type(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "grade.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "ada_02_train.ipynb" in done.stderr
    assert list(tmp_path.iterdir()) == []
