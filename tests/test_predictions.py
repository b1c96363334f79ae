"""A question that asks for a prediction is followed by a cell whose stored answer is folded, and not given away.

The output stays in the file, where nbval compares it; ``outputs_hidden`` only folds it until somebody opens it.
"""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")), ROOT / "notebooks/claims.ipynb"]
QUESTION = "Predict before you run"
#: What is printed first. JupyterLab shows the first line of a folded output, so it must not be the answer.
FIRST = "Compare with your prediction:"
#: In an alternative text of a cell that answers: a number, or a word that compares.
GIVES_AWAY = re.compile(r"\d|\b(same|equal|more|less|higher|lower|larger|smaller|better|worse|best|worst)\b")


def problems(notebook: dict) -> list[str]:
    """What is wrong with the predictions of a notebook, a line for each."""
    found = []
    asked = False  # a question stands above, and no code since
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            if asked and "<summary>Answer</summary>" in source:
                found.append(f"cell {number}: the answer stands before the cell that finds it")
            asked = asked or QUESTION in source
        elif cell["cell_type"] == "code":
            tagged = "predict" in cell["metadata"].get("tags", [])
            if tagged and not asked:
                found.append(f"cell {number}: a tag predict, and no question above")
            if asked:
                found += [f"cell {number}: {what}" for what in answer_problems(cell, source, tagged)]
            asked = False
    if asked:
        found.append("a question, and no cell that answers it")
    return found


def answer_problems(cell: dict, source: str, tagged: bool) -> list[str]:
    found = []
    if not tagged:
        found.append("no tag predict")
    if cell["metadata"].get("jupyter", {}).get("outputs_hidden") is not True:
        found.append("the stored output stands open")
    shown = cell["outputs"][0].get("text", [""]) if cell["outputs"] else [""]
    if not "".join(shown).startswith(FIRST + "\n"):
        found.append("the first line of its output is shown though it is folded")
    if re.search(r"\bassert\b", source):
        found.append("an assert gives the answer away")
    found += [f"an alternative text gives the answer away: {text}" for text in texts(source) if GIVES_AWAY.search(text)]
    return found


def texts(source: str) -> list[str]:
    """The alternative texts of the figures in a cell: what `show` is handed, and what is called `alt`."""
    plain = "\n".join("" if line.startswith(("%", "!")) else line for line in source.splitlines())
    given: list[ast.expr] = []
    for node in ast.walk(ast.parse(plain)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("show"):
            given += node.args[1:]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "alt":
            given.append(node.value)
    return [part.value for part in given if isinstance(part, ast.Constant) and isinstance(part.value, str)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_nothing_gives_a_prediction_away(path: Path) -> None:
    assert problems(json.loads(path.read_text(encoding="utf-8"))) == []


def test_there_are_predictions() -> None:
    asked = sum(path.read_text(encoding="utf-8").count(QUESTION) for path in PAGES)
    assert asked >= 60


# ---- the check itself ------------------------------------------------------------------------------------------


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": [text]}


def code(text: str, metadata: dict, *printed: str) -> dict:
    outputs = [{"output_type": "stream", "name": "stdout", "text": list(printed)}] if printed else []
    return {"cell_type": "code", "metadata": metadata, "source": [text], "outputs": outputs}


GOOD = {
    "cells": [
        markdown("# A title"),
        code("x = 6\nassert x == 6", {}),
        markdown("**Predict before you run.** What is six times seven?"),
        code("print(x * 7)", {"tags": ["predict"], "jupyter": {"outputs_hidden": True}}, f"{FIRST}\n", "42\n"),
        markdown("<details><summary>Answer</summary>\n\n42.\n\n</details>"),
        code("assert x * 7 == 42", {}),
    ]
}


def test_a_made_up_good_notebook_has_no_problems() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda cells: cells[3]["metadata"].update(tags=[]), "cell 3: no tag predict"),
        (lambda cells: cells[3]["metadata"].pop("jupyter"), "cell 3: the stored output stands open"),
        (lambda cells: cells[3]["metadata"].update(jupyter={"outputs_hidden": False}), "stands open"),
        (lambda cells: cells[3]["outputs"][0].update(text=["42\n"]), "cell 3: the first line of its output"),
        (lambda cells: cells[3].update(outputs=[]), "cell 3: the first line of its output"),
        (lambda cells: cells[3].update(source=["assert x * 7 == 42"]), "cell 3: an assert"),
        (lambda cells: cells[3].update(source=["%time x\n", "alt = 'a bar of 42'"]), "an alternative text"),
        (lambda cells: cells[3].update(source=["plots.show(fig, 'a bar that is higher')"]), "an alternative text"),
        (lambda cells: cells[5]["metadata"].update(tags=["predict"]), "cell 5: a tag predict, and no question"),
        (lambda cells: cells.insert(3, cells.pop(4)), "cell 3: the answer stands before"),
        (lambda cells: cells.insert(3, code("y = 1", {})), "cell 3: no tag predict"),
        (lambda cells: cells.append(markdown("**Predict before you run.** And now?")), "no cell that answers it"),
    ],
)
def test_each_way_to_give_an_answer_away_is_found_in_a_made_up_notebook(
    change: Callable[[list[dict]], None], said: str
) -> None:
    notebook = copy.deepcopy(GOOD)
    change(notebook["cells"])
    assert any(said in problem for problem in problems(notebook)), problems(notebook)
