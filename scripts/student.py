"""The course as a learner gets it: lessons without outputs, exercises without solutions.

    python scripts/student.py     build/student/, and build/student.zip to hand out

The notebooks of `notebooks/` are the one source. What nbgrader calls generating an assignment is done with its own
preprocessors, one notebook at a time; `make lab` and `make grade` use the same function.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
from nbgrader.preprocessors import (
    ClearHiddenTests,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
EXERCISES = {path.stem: path for path in sorted((NOTEBOOKS / "exercises").glob("*.ipynb"))}
#: All else that is handed out. With it `make lab` works in the unpacked folder, and lessons find what they start.
BESIDE = [
    ROOT / name for name in ("Makefile", "README.md", "LICENSE", "pyproject.toml", "constraints.txt", "environment.yml")
]
BESIDE += [
    ROOT / "data" / "README.md",
    *(path for part in ("docs", "mvae", "scripts") for path in (ROOT / part).rglob("*")),
]


def sources() -> list[Path]:
    """Every lesson, the ledger and every exercise, as paths below notebooks/."""
    return [path.relative_to(NOTEBOOKS) for path in [*sorted(NOTEBOOKS.glob("*.ipynb")), *EXERCISES.values()]]


def without_solutions(path: Path) -> str:
    """The text of a notebook without outputs, solutions and hidden tests.

    Raises:
        RuntimeError: a marked region begins and does not end, or stands in a cell that is not marked for nbgrader.
    """
    notebook, resources = nbformat.read(path, as_version=4), {}
    for step in (LockCells, ClearSolutions, ClearOutput, ClearHiddenTests, ComputeChecksums):
        notebook, resources = step().preprocess(notebook, resources)
    return nbformat.writes(notebook) + "\n"


def write_student(out: Path) -> None:
    """The course to hand out, in a new folder `out`."""
    shutil.rmtree(out, ignore_errors=True)
    for path in sources():
        target = out / "notebooks" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(without_solutions(NOTEBOOKS / path), encoding="utf-8")
    for path in BESIDE:
        if path.is_file() and path.suffix != ".pyc":
            (out / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, out / path.relative_to(ROOT))


def main() -> None:
    out = ROOT / "build" / "student"
    write_student(out)
    shutil.make_archive(str(out), "zip", out.parent, out.name)
    print(f"{len(sources())} notebooks in build/student/, and build/student.zip to hand out.")


if __name__ == "__main__":
    main()
