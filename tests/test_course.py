"""The lessons as they are stored: run from top to bottom, with nothing in them that is dead or of one machine.

``pytest --nbval`` compares outputs, and passes a cell that was never run. So that is checked here.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LEDGER = ROOT / "notebooks/claims.ipynb"
EXERCISES = sorted((ROOT / "notebooks/exercises").glob("*.ipynb"))
MAX_LINES, MAX_LINES_OF_EXERCISES, MAX_OUTPUT = 25, 40, 400_000
SKIP_TAGS = {"nbval-skip", "nbval-ignore-output", "skip-execution"}
SKIP_COMMENTS = re.compile(r"^\s*#\s*(NBVAL_|PYTEST_VALIDATE_)", re.MULTILINE)
MACHINE_PATH = re.compile(r"(?<![\w./~-])/(?:home|root|Users|tmp|var|opt|work|mnt|private)/\w|site-packages|[A-Z]:\\\\")


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def problems(notebook: dict, max_lines: int = MAX_LINES) -> list[str]:
    """What is wrong with a stored notebook, a line for each."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = []
    if [cell["execution_count"] for cell in code] != list(range(1, len(code) + 1)):
        found.append("not run from top to bottom on a fresh kernel")
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if "widgets" in notebook["metadata"]:
        found.append("the state of widgets is stored")
    found += heading_problems(notebook)
    found += [f"cell {number}: no blank line after </details>" for number in tight_details(notebook)]
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            found += [f"cell {number}: {what}" for what in code_problems(cell, max_lines)]
    return found


def heading_problems(notebook: dict) -> list[str]:
    pages = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    prose = re.sub(r"^```.*?^```", "", pages, flags=re.MULTILINE | re.DOTALL)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]
    first = notebook["cells"][0]
    found = []
    if first["cell_type"] != "markdown" or not source(first).startswith("# "):
        found.append("the first cell does not begin with the title")
    if levels.count(1) != 1:
        found.append(f"{levels.count(1)} headings of level 1")
    if any(below > above + 1 for above, below in pairwise(levels)):
        found.append("a heading skips a level")
    return found


def tight_details(notebook: dict) -> list[int]:
    """Cells in which an answer that is unfolded would stick to the next paragraph."""
    tight = re.compile(r"</details>[ \t]*\n[ \t]*\S|</details>[ \t]*\S")
    return [
        number
        for number, cell in enumerate(notebook["cells"])
        if cell["cell_type"] == "markdown" and tight.search(source(cell))
    ]


def code_problems(cell: dict, max_lines: int) -> list[str]:
    found = []
    if not source(cell).strip():
        found.append("empty")
    if len(source(cell).splitlines()) > max_lines:
        found.append(f"{len(source(cell).splitlines())} lines of code")
    if tags(cell) & SKIP_TAGS or SKIP_COMMENTS.search(source(cell)):
        found.append("left out of the comparison")
    errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
    if bool(errors) != ("raises-exception" in tags(cell)):
        found.append("an error, and no tag raises-exception" if errors else "a tag raises-exception, and no error")
    for output in cell["outputs"]:
        if output.get("name") == "stderr":
            found.append("something on stderr")
        data = output.get("data", {})
        pictures = re.findall(r"<img[^>]*>", "".join(data.get("text/html", "")))
        texts = [re.search(r'alt="([^"]*)"', picture) for picture in pictures]
        if "image/png" in data or any(text is None or len(text[1].split()) < 8 for text in texts):
            found.append("a figure without an alternative text that says what is to be seen")
        if any("widget" in kind for kind in output.get("data", {})):
            found.append("a widget, which is dead without its kernel")
        if len(json.dumps(output)) > MAX_OUTPUT:
            found.append(f"an output of {len(json.dumps(output)):,} characters")
        text = [output.get("text", []), output.get("traceback", []), output.get("evalue", "")]
        text += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
        if any(MACHINE_PATH.search(line) for part in text for line in "".join(part).splitlines()):
            found.append("a path of one machine")
    return found


# ---- the lessons -----------------------------------------------------------------------------------------------


def test_the_lessons_are_numbered_from_the_tour_on() -> None:
    assert LESSONS[0].stem == "00_tour"
    assert [path.name[:2] for path in LESSONS] == [f"{number:02d}" for number in range(len(LESSONS))]


@pytest.mark.parametrize("path", [*LESSONS, LEDGER, *EXERCISES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_page_is_stored_as_it_ran(path: Path) -> None:
    max_lines = MAX_LINES_OF_EXERCISES if path in EXERCISES else MAX_LINES
    assert problems(json.loads(path.read_text(encoding="utf-8")), max_lines) == []


def lines_of_code(cell: dict) -> int:
    """Without blank lines and comments."""
    lines = [line.strip() for line in source(cell).splitlines()]
    return sum(1 for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("path", LESSONS[1:], ids=lambda path: path.stem)
def test_a_lesson_has_few_cells_and_short_ones(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [lines_of_code(cell) for cell in cells if cell["cell_type"] == "code"]
    assert 25 <= len(cells) <= 60
    assert statistics.median(lines) <= 8
    assert sum(count >= 15 for count in lines) <= 3


@pytest.mark.parametrize(("path", "following"), list(pairwise(LESSONS)), ids=lambda path: path.stem)
def test_a_lesson_ends_with_the_lesson_that_follows(path: Path, following: Path) -> None:
    last = source(json.loads(path.read_text(encoding="utf-8"))["cells"][-1])
    assert f"lesson {following.name[:2]}" in last[-500:].casefold()


def lessons_named(text: str) -> set[str]:
    """The numbers in "lesson 07" and "Lessons 03, 04 and 07", wherever the line breaks."""
    named = re.findall(
        r"\blessons?\s+(\d\d(?:(?:,\s*|\s+and\s+|\s+or\s+|\s+to\s+|\s*[–-]\s*)\d\d)*)", text, re.IGNORECASE
    )
    return {number for numbers in named for number in re.findall(r"\d\d", numbers)}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_names_only_lessons_that_are_there(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert lessons_named("\n".join(map(source, cells))) <= {lesson.name[:2] for lesson in LESSONS}


# ---- the ledger of claims ----------------------------------------------------------------------------------------

VERDICTS = dict.fromkeys(range(1, 25), "true") | dict.fromkeys((1, 8, 17, 19, 20), "partly") | {3: "false", 23: "false"}
"""What was found when the ledger was written. One that flips is news: about PyTorch, about Lightning, or about us."""


def ledger() -> dict[int, tuple[str, str]]:
    """Claim → (verdict, address of the heading that shows it), as the ledger's last table was stored."""
    cells = json.loads(LEDGER.read_text(encoding="utf-8"))["cells"]
    tables = [
        output["data"]["text/markdown"] for cell in cells for output in cell.get("outputs", []) if "data" in output
    ]
    rows = re.findall(r"^\| (\d+) \| .* \| \*\*(\w+)\*\* \| \[.*\]\((.*)\) \|$", "".join(tables[-1]), re.MULTILINE)
    return {int(number): (verdict, where) for number, verdict, where in rows}


def test_every_claim_has_the_verdict_that_was_found() -> None:
    assert {number: verdict for number, (verdict, _) in ledger().items()} == VERDICTS


def test_every_claim_leads_to_a_heading_that_is_there() -> None:
    for _, where in ledger().values():
        page, _, anchor = where.partition("#")
        cells = json.loads((ROOT / "notebooks" / page).read_text(encoding="utf-8"))["cells"]
        text = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
        assert anchor in {heading.replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}, where


# ---- the check itself ------------------------------------------------------------------------------------------


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(text: str, count: int, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    metadata = {"tags": list(tags)} if tags else {}
    kind = {"cell_type": "code", "metadata": metadata, "source": text, "execution_count": count}
    return kind | {"outputs": list(outputs)}


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": [text]}


def figure(alt: str) -> dict:
    image = f'<img alt="{alt}" src="data:image/png;base64,iVBORw0KGgo=">'
    return {"output_type": "display_data", "data": {"text/html": image}, "metadata": {}}


ERROR = {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": ["…"]}
GOOD = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "cells": [
        markdown("# A title\n\nSome words."),
        markdown("## A part\n```\n# no heading\n```\n### A smaller part"),
        code("print(6 * 7)", 1, stream("42\n")),
        code("1 / 0", 2, ERROR, tags=("raises-exception",)),
    ],
}


def test_a_good_notebook_has_no_problems() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda nb: nb["cells"][2].update(execution_count=None), "not run from top to bottom"),
        (lambda nb: nb["cells"][2].update(execution_count=7), "not run from top to bottom"),
        (lambda nb: nb["cells"].reverse(), "not run from top to bottom"),
        (lambda nb: nb["metadata"]["kernelspec"].update(name="mine"), "kernel is not python3"),
        (lambda nb: nb["metadata"].update(widgets={}), "state of widgets"),
        (lambda nb: nb["cells"].pop(0), "does not begin with the title"),
        (lambda nb: nb["cells"].append(markdown("# Another title")), "2 headings of level 1"),
        (lambda nb: nb["cells"].append(markdown("##### Deep")), "skips a level"),
        (lambda nb: nb["cells"][2].update(source="x = 1\n" * 26), "26 lines of code"),
        (lambda nb: nb["cells"][2].update(source=" "), "cell 2: empty"),
        (
            lambda nb: nb["cells"].append(markdown("<details>Yes.</details>\nAnd so on.")),
            "no blank line after </details>",
        ),
        (lambda nb: nb["cells"][2]["outputs"].append(figure("")), "a figure without an alternative text"),
        (lambda nb: nb["cells"][2]["outputs"].append(figure("a plot")), "a figure without an alternative text"),
        (
            lambda nb: nb["cells"][2]["outputs"].append({"output_type": "display_data", "data": {"image/png": "iVBO"}}),
            "a figure without an alternative text",
        ),
        (lambda nb: nb["cells"][2]["metadata"].update(tags=["nbval-skip"]), "left out of the comparison"),
        (lambda nb: nb["cells"][2].update(source="# NBVAL_IGNORE_OUTPUT\n1"), "left out of the comparison"),
        (lambda nb: nb["cells"][3]["metadata"].clear(), "an error, and no tag"),
        (lambda nb: nb["cells"][3]["outputs"].clear(), "a tag raises-exception, and no error"),
        (lambda nb: nb["cells"][2]["outputs"].append(stream("warning", "stderr")), "on stderr"),
        (
            lambda nb: nb["cells"][2]["outputs"].append(
                {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}}
            ),
            "a widget",
        ),
        (lambda nb: nb["cells"][2]["outputs"].append(stream("x" * 500_000)), "an output of 500,0"),
        (lambda nb: nb["cells"][2]["outputs"].append(stream("saved in /tmp/x/y.ckpt")), "a path of one machine"),
        (lambda nb: nb["cells"][3]["outputs"][0].update(traceback=["File /opt/x.py:3"]), "a path of one machine"),
        (
            lambda nb: nb["cells"][2]["outputs"].append(
                {"output_type": "execute_result", "data": {"text/plain": ["PosixPath('/mnt/x')"]}}
            ),
            "a path of one machine",
        ),
    ],
)
def test_each_thing_that_can_be_wrong_is_found(change: Callable[[dict], None], said: str) -> None:
    notebook = copy.deepcopy(GOOD)
    change(notebook)
    assert any(said in problem for problem in problems(notebook)), problems(notebook)


def test_an_address_on_the_web_is_no_path_of_a_machine() -> None:
    notebook = copy.deepcopy(GOOD)
    notebook["cells"][2]["outputs"].append(stream("see https://example.org/home/page and out/tmp/x and data/ml"))
    assert problems(notebook) == []


def test_the_lessons_that_a_text_names() -> None:
    text = "Lesson\n07 shows it; lessons 03 and 08, lessons 01–05, lesson 04. Twelve lessons, 10 of them short."
    assert lessons_named(text) == {"01", "03", "04", "05", "07", "08"}


# ---- the exported page -----------------------------------------------------------------------------------------


def test_a_picture_in_the_exported_index_has_its_alternative_text() -> None:
    nbformat = pytest.importorskip("nbformat")
    spec = importlib.util.spec_from_file_location("course", ROOT / "scripts" / "course.py")
    course = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(course)
    notebook = copy.deepcopy(GOOD)
    notebook["cells"][2]["outputs"] = [figure("a &quot;steep&quot; line")]
    entry = course.index_entry("01_build", nbformat.from_dict(notebook))
    assert '<img alt="a &quot;steep&quot; line" src="data:image/png' in entry
    assert '<a href="01_build.html">A title</a>' in entry


# ---- nbval -----------------------------------------------------------------------------------------------------


def test_a_figure_is_compared_by_its_alternative_text_and_not_by_its_pixels(tmp_path: Path) -> None:
    """Which depend on the fonts of a machine. The options are those of pyproject.toml, for whoever runs nbval."""
    shown = 'from IPython.display import HTML\nHTML(\'<img alt="a line" src="data:image/png;base64,AAAA">\')'
    for name, stored in {"other-pixels": ("a line", "BBBB"), "other-text": ("a curve", "AAAA")}.items():
        page = copy.deepcopy(GOOD)
        data = {
            "text/html": '<img alt="{}" src="data:image/png;base64,{}">'.format(*stored),
            "text/plain": "<IPython.core.display.HTML object>",
        }
        result = {"output_type": "execute_result", "execution_count": 1, "data": data, "metadata": {}}
        page["cells"] = [{"id": "c0", **page["cells"][0]}, {"id": "c1", **code(shown, 1, result)}]
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(page), encoding="utf-8")
    options = [
        "--nbval",
        "--nbval-current-env",
        "-c",
        str(ROOT / "pyproject.toml"),
        "-p",
        "no:cacheprovider",
        "--tb=no",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
    )
    assert re.findall(r"^FAILED \S*?([\w-]+)\.ipynb::Cell 0", done.stdout, re.MULTILINE) == ["other-text"], done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_make_lessons_fails_when_one_stored_number_changes(tmp_path: Path) -> None:
    recipe = re.search(
        r"^lessons:.*\n\t.*?-m pytest (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    options = [option for option in recipe[1].split() if option != "notebooks"]
    assert "--nbval" in options
    changed = copy.deepcopy(GOOD)
    changed["cells"][2]["outputs"] = [stream("43\n")]
    for name, notebook in (("good", GOOD), ("changed", changed)):
        notebook = {**notebook, "cells": [{"id": f"c{i}", **cell} for i, cell in enumerate(notebook["cells"])]}
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", "-rA", "--tb=no", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    outcomes = re.findall(r"^(PASSED|FAILED) (\S+)\.ipynb::Cell (\d)", done.stdout, re.MULTILINE)
    assert sorted(outcomes) == [
        ("FAILED", "changed", "0"),
        ("PASSED", "changed", "1"),
        ("PASSED", "good", "0"),
        ("PASSED", "good", "1"),
    ]
