"""Run an exercise without a kernel: cell after cell, as nbgrader does, and count the points."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import nbformat
from student import EXERCISES, without_solutions

Answers = dict[str, str]


def mark(cell: nbformat.NotebookNode, name: str) -> Any:
    return cell.metadata.get("nbgrader", {}).get(name)


def with_solutions(exercise: str) -> nbformat.NotebookNode:
    return nbformat.read(EXERCISES[exercise], as_version=4)


def handed_out(exercise: str) -> nbformat.NotebookNode:
    return nbformat.reads(without_solutions(EXERCISES[exercise]), as_version=4)


def answers(notebook: nbformat.NotebookNode) -> Answers:
    """Question → the source of the cell that answers it."""
    return {mark(cell, "grade_id"): cell.source for cell in notebook.cells if mark(cell, "solution")}


def answered(notebook: nbformat.NotebookNode, given: Answers) -> nbformat.NotebookNode:
    """A copy with these answers written into it."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if mark(cell, "solution"):
            cell.source = given.get(mark(cell, "grade_id"), cell.source)
    return notebook


def graded(
    exercise: str,
    given: Answers,
    folder: Path,
    before_test: Callable[[str, str, dict[str, Any]], str] = lambda question, source, names: source,
) -> dict[str, BaseException | None]:
    """Question → what its test raised; None where it passed.

    The tests are the master's, hidden ones included. `before_test` may change a test's source or the names it sees.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    raised: dict[str, BaseException | None] = {}
    with chdir(folder), redirect_stdout(io.StringIO()):
        for cell in answered(with_solutions(exercise), given).cells:
            if cell.cell_type != "code":
                continue
            source = cell.source
            question = mark(cell, "grade_id") if mark(cell, "grade") else None
            if question:
                source = before_test(question.removesuffix("-test"), source, names)
            try:
                exec(compile(source, f"{exercise}:{cell.id}", "exec"), names)
                error = None
            except KeyboardInterrupt:
                raise
            except BaseException as caught:  # torch's CheckpointException is no Exception
                error = caught
            if question:
                raised[question.removesuffix("-test")] = error
            elif error and not mark(cell, "solution"):
                raise error
    return raised


def split_test(source: str) -> tuple[str, str]:
    """The visible and the hidden part of a test."""
    visible, _, hidden = source.partition("### BEGIN HIDDEN TESTS")
    return visible, hidden
