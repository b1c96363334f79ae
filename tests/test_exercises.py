"""Every exercise: full marks for the solution, none for the blank, half for half, none for answers learned by heart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exercises import answers, graded, handed_out, mark, split_test, with_solutions
from student import EXERCISES, NOTEBOOKS

LESSONS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
each = pytest.mark.parametrize("exercise", EXERCISES)


def test_every_lesson_has_exercises_under_its_name() -> None:
    assert list(EXERCISES) == LESSONS


def test_no_two_exercises_share_a_question() -> None:
    """The grader knows by its questions which exercise a notebook is."""
    ids = [
        mark(cell, "grade_id") for name in EXERCISES for cell in with_solutions(name).cells if mark(cell, "grade_id")
    ]
    assert len(ids) == len(set(ids))


@each
def test_an_exercise_has_enough_questions_of_equal_weight(exercise: str) -> None:
    cells = with_solutions(exercise).cells
    questions = [mark(cell, "grade_id") for cell in cells if mark(cell, "solution")]
    tests = [cell for cell in cells if mark(cell, "grade")]
    assert [mark(cell, "grade_id") for cell in tests] == [f"{question}-test" for question in questions]
    assert len(questions) >= (2 if exercise.startswith("00") else 4)
    assert len(questions) % 2 == 0
    assert {mark(cell, "points") for cell in tests} == {2}
    assert all("### BEGIN HIDDEN TESTS" in cell.source and mark(cell, "locked") for cell in tests)


@each
def test_what_is_handed_out_shows_no_answer(exercise: str) -> None:
    text = json.dumps(handed_out(exercise))
    assert "SOLUTION" not in text
    assert "HIDDEN" not in text
    blanks = answers(handed_out(exercise)).values()
    assert all(re.search(r"^ +raise NotImplementedError\(\)$", blank, re.MULTILINE) for blank in blanks)


@each
def test_the_solution_scores_full_marks(exercise: str, tmp_path: Path) -> None:
    assert set(graded(exercise, {}, tmp_path).values()) == {None}


@each
def test_the_blank_scores_nothing_and_fails_with_not_implemented_only(exercise: str, tmp_path: Path) -> None:
    raised = graded(exercise, answers(handed_out(exercise)), tmp_path)
    assert {type(error) for error in raised.values()} == {NotImplementedError}


@each
def test_half_of_the_answers_score_half(exercise: str, tmp_path: Path) -> None:
    blanks = list(answers(handed_out(exercise)).items())
    raised = graded(exercise, dict(blanks[::2]), tmp_path)
    assert [error is None for error in raised.values()] == [False, True] * (len(blanks) // 2)


class Recorder:
    """Calls a right answer and notes what it returned; later says the same again without looking at the question."""

    def __init__(self, function: Any) -> None:
        self.function, self.said, self.again = function, [], iter(())
        self.by_heart = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.by_heart:
            return next(self.again)
        self.said.append(self.function(*args, **kwargs))
        return self.said[-1]

    def learn_by_heart(self) -> None:
        self.by_heart, self.again = True, self._forever()

    def _forever(self) -> Iterator[Any]:
        while True:
            yield from self.said


@each
def test_no_answer_learned_by_heart_passes_the_hidden_tests(exercise: str, tmp_path: Path) -> None:
    """Hard-coded: the function says what was right in the visible test, whatever it is asked."""
    learned: list[str] = []

    def run_visible_then_hidden(question: str, source: str, names: dict[str, Any]) -> str:
        visible, hidden = split_test(source)
        functions = re.findall(r"^def (\w+)", answers(with_solutions(exercise))[question], re.MULTILINE)
        recorders = {name: Recorder(names[name]) for name in functions}
        names.update(recorders)
        exec(visible, names)
        assert any(recorder.said for recorder in recorders.values())
        for recorder in recorders.values():
            recorder.learn_by_heart()
        learned.append(question)
        return hidden

    raised = graded(exercise, {}, tmp_path, run_visible_then_hidden)
    assert learned == list(raised)
    assert [question for question, error in raised.items() if error is None] == []
