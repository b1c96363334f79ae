"""Run the lessons, and the ledger of claims, without a screen.

    python scripts/course.py                     all of them into build/course/, as notebook and HTML, and an index
    python scripts/course.py --store 02 claims   run lesson 02, its exercises and the ledger and store their outputs

Exit status 1 when a lesson stops with an error.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
import time
from html import escape
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parents[1]
LESSONS = ROOT / "notebooks"
CELL_TIMEOUT_SECONDS = 300
#: Code, where a dollar is a dollar; then a formula on its own, and one within a line.
FORMULA = re.compile(r"(?P<code>```.*?```|`[^`]*`)|\$\$(?P<block>.+?)\$\$|\$(?P<line>[^$\n]+)\$", re.DOTALL)

#: A picture as `mvae.plots.show` leaves it, with its alternative text.
PICTURE = re.compile(r'<img alt="[^"]+" src="data:image/png;base64,[^"]+">')


def run(path: Path) -> nbformat.NotebookNode:
    """Execute a notebook as JupyterLab does, in its own folder, on a fresh kernel."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    ).execute()
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out what changes by itself from run to run, so that a diff shows what somebody changed."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        kept = ("tags", "nbgrader")
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in kept if key in cell.metadata})
        if "predict" in cell.metadata.get("tags", []):  # its output stays folded until somebody has made up their mind
            cell.metadata["jupyter"] = nbformat.from_dict({"outputs_hidden": True})
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """One output for text that a kernel sent in several pieces: where it is cut depends on the time."""
    whole: list[nbformat.NotebookNode] = []
    for output in outputs:
        if whole and output.output_type == "stream" and whole[-1].get("name") == output.name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def with_mathml(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy whose formulas are MathML, which a browser shows by itself: nbconvert's pages fetch MathJax from afar."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(_mathml, cell.source)
    return notebook


def _mathml(found: re.Match[str]) -> str:
    if found["code"]:
        return found["code"]
    return convert(found["block"] or found["line"], display="block" if found["block"] else "inline")


INDEX = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>What is inside a PyTorch Lightning checkpoint</title>
<style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}}
article{{display:grid;grid-template-columns:1fr 20rem;gap:1rem;border-top:1px solid #8886;padding:1rem 0}}
article img{{width:100%;background:#fff}} h2{{font-size:1.1rem;margin:0}}
</style>
<h1>What is inside a PyTorch Lightning checkpoint</h1>
{}
</html>
"""


def index_entry(stem: str, notebook: nbformat.NotebookNode) -> str:
    """A lesson in the index: its title, its first paragraph, and its first picture, if it has one."""
    title, paragraph = notebook.cells[0].source.split("\n\n")[:2]
    text = re.sub(r"\[([^]]*)\]\([^)]*\)|[*`]", r"\1", paragraph).replace("\n", " ")
    heading = f'<h2><a href="{stem}.html">{escape(title.removeprefix("# "))}</a></h2>'
    outputs = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    pictures = (PICTURE.search(output.get("data", {}).get("text/html", "")) for output in outputs)
    image = next((found[0] for found in pictures if found), "")
    return f"<article><div>{heading}<p>{escape(text)}</p></div>{image}</article>"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", help="numbers such as 02, or claims; all of them by default")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "course")
    parser.add_argument("--store", action="store_true", help="store the outputs in notebooks/ itself")
    options = parser.parse_args()
    # The kernel's "frozen modules" notice is about debuggers; the lessons do not use one.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")

    paths = [*sorted(LESSONS.glob("[0-9][0-9]_*.ipynb")), LESSONS / "claims.ipynb"]
    if options.store:  # what is exported shows no solutions
        paths += sorted(LESSONS.glob("exercises/*.ipynb"))
    if options.lessons:
        paths = [path for path in paths if path.stem.partition("_")[0] in options.lessons]
    if not paths:
        sys.exit(f"No lesson called {' '.join(options.lessons)} in {LESSONS}.")
    if not options.store:
        options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    entries = []
    for number, path in enumerate(paths, start=1):
        print(f"[{number}/{len(paths)}] {path.stem:<14} ", end="", flush=True)
        start = time.monotonic()
        try:
            notebook = run(path)
        except CellExecutionError as error:
            failed += 1
            print(f"stopped after {time.monotonic() - start:.0f} s\n{error}")
            continue
        print(f"ran in {time.monotonic() - start:.0f} s", flush=True)
        if options.store:
            nbformat.write(tidy(notebook), path)
        else:
            nbformat.write(notebook, options.out / path.name)
            html, _ = HTMLExporter().from_notebook_node(with_mathml(notebook))
            (options.out / f"{path.stem}.html").write_text(html, encoding="utf-8")
            entries.append(index_entry(path.stem, notebook))
    if entries:
        (options.out / "index.html").write_text(INDEX.format("\n".join(entries)), encoding="utf-8")
    if entries and not failed:
        shown = options.out.relative_to(Path.cwd()) if options.out.is_relative_to(Path.cwd()) else options.out
        print(f"Open {shown}/index.html in a browser.")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
