"""Grade a folder of exercises that were handed in, each called `name_exercise.ipynb`: `ada_02_train.ipynb`.

    python scripts/grade.py handed-in     points in build/grades/handed-in/grades.csv, pages in feedback/ beside it

nbgrader runs and grades them, each in processes of its own, in a folder of its own and with a time limit. What runs is
the learners' code, with your rights: TEACHING.md says what that means, and how to grade in a container.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import nbformat
import psutil
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from student import EXERCISES, without_solutions
from traitlets.config import Config

os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # nbgrader starts alembic
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several kernels share the cores
CELL_SECONDS = 20  # the slowest cell of an exercise takes two
SUBMISSION_SECONDS = 180
#: New processes are copies of one that has imported nbgrader already, where the system can do that.
PROCESSES = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
if os.name != "nt":
    PROCESSES.set_forkserver_preload(["nbgrader.apps", "nbgrader.converters", "nbgrader.preprocessors"])
#: What browsers and JupyterLab append to the name of a second copy.
COPY = re.compile(r" ?\(\d+\)$|-Copy\d+$")
STUDENT = "submission"  # nbgrader's name for whoever handed in: a folder holds one submission
PAGE = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{0}</title><h1>{0}</h1><p>{1}</p></html>\n'


@dataclass
class Graded:
    """A line of the table: what a file is worth, question by question."""

    file: Path
    name: str = ""
    exercise: str = ""
    points: dict[str, float] = field(default_factory=dict)
    of: float = 0
    remarks: list[str] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        whole = {"file": self.file.name, "name": self.name, "exercise": self.exercise}
        whole |= {"points": sum(self.points.values()), "of": self.of, "remark": " ".join(self.remarks)}
        return whole | self.points


def questions(notebook: nbformat.NotebookNode) -> dict[str, nbformat.NotebookNode]:
    """Question → the cell that grades it."""
    marks = ((cell.metadata.get("nbgrader", {}), cell) for cell in notebook.cells)
    return {mark["grade_id"].removesuffix("-test"): cell for mark, cell in marks if mark.get("grade")}


def identify(path: Path) -> Graded:
    """Whose it is and which exercise, by the file's name; without any if the name does not say."""
    stem = COPY.sub("", path.stem)
    for exercise in EXERCISES:
        if stem.endswith(f"_{exercise}"):
            of = sum(cell.metadata.nbgrader.points for cell in questions(master(exercise)).values())
            return Graded(path, stem.removesuffix(f"_{exercise}"), exercise, of=of)
    remark = "Not graded: the name of the file says no exercise. Rename it: name_02_train.ipynb, for example."
    return Graded(path, remarks=[remark])


def master(exercise: str) -> nbformat.NotebookNode:
    """An exercise as it was handed out."""
    return nbformat.reads(without_solutions(EXERCISES[exercise]), as_version=4)


def look_at(graded: Graded) -> bool:
    """Whether there is anything to run. What was changed in the notebook is remarked upon."""
    try:
        notebook = nbformat.read(graded.file, as_version=4)
        nbformat.validate(notebook)
        found = questions(notebook)
    except Exception as error:  # whatever nbformat makes of a file that is no notebook
        graded.remarks.append(f"Not graded: the file is no notebook that can be read ({type(error).__name__}).")
        return False
    wanted = questions(master(graded.exercise))
    if not found.keys() & wanted.keys():
        other = next((name for name in EXERCISES if questions(master(name)).keys() & found.keys()), None)
        graded.remarks.append(f"Not graded: the notebook is {'of exercise ' + other if other else 'not an exercise'}.")
        return False
    if missing := [name for name in wanted if name not in found]:
        graded.remarks.append(f"The cells that test {', '.join(missing)} were deleted: no points there.")
    if edited := [name for name in wanted if name in found and found[name].source != wanted[name].source]:
        graded.remarks.append(f"The cells that test {', '.join(edited)} were edited: graded with the original ones.")
    return True


def course(folder: Path, exercise: str) -> Path:
    """nbgrader's folder for one exercise: its source, and a gradebook that knows the questions."""
    (folder / "source" / exercise).mkdir(parents=True)
    shutil.copy(EXERCISES[exercise], folder / "source" / exercise)
    said = nbgrader(folder).generate_assignment(exercise)
    if not said["success"]:
        sys.exit(f"nbgrader cannot prepare {EXERCISES[exercise].name}:\n{said['log']}")
    return folder


def nbgrader(folder: Path) -> NbGraderAPI:
    """nbgrader's commands, with their settings for a course in `folder`."""
    config = Config()
    config.CourseDirectory.root = str(folder)
    config.Exchange.root = str(folder / "exchange")
    config.Execute.timeout = CELL_SECONDS
    config.Execute.interrupt_on_timeout = True
    config.LimitOutput.max_lines = 200
    return NbGraderAPI(config=config)


def grade(graded: Graded, folder: Path) -> None:
    """Run one submission in a process of its own, in a copy of its exercise's course, and read the points."""
    handed_in = folder / "submitted" / STUDENT / graded.exercise
    handed_in.mkdir(parents=True)
    shutil.copy(graded.file, handed_in / f"{graded.exercise}.ipynb")
    process = PROCESSES.Process(target=autograde, args=(folder, graded.exercise))
    process.start()
    process.join(SUBMISSION_SECONDS)
    if process.is_alive():
        graded.remarks.append(f"Stopped: it ran for more than {SUBMISSION_SECONDS} seconds.")
        kill_tree(process.pid)
        process.join()
    elif process.exitcode:
        log = f"courses/{folder.name}/log.txt"
        graded.remarks.append(f"Not run to its end: its kernel died, or nbgrader gave up. See {log}.")
    elif stopped := interrupted(folder / "autograded" / STUDENT / graded.exercise / f"{graded.exercise}.ipynb"):
        graded.remarks.append(f"Interrupted after {CELL_SECONDS} seconds: {', '.join(stopped)}.")
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as book:
        for submission in book.assignment_submissions(graded.exercise):
            [notebook] = submission.notebooks
            graded.points = {one.name.removesuffix("-test"): one.score for one in notebook.grades}


def interrupted(path: Path) -> list[str]:
    """The cells of a graded notebook that did not end by themselves."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    ends = ("KeyboardInterrupt", "CellTimeoutError")
    return [
        cell.metadata.get("nbgrader", {}).get("grade_id", "a cell without a name").removesuffix("-test")
        for cell in cells
        if any(output.get("ename") in ends for output in cell.outputs)
    ]


def autograde(folder: Path, exercise: str) -> None:
    """What the process of one submission does: nbgrader's autograde and generate_feedback."""
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    api = nbgrader(folder)
    for step in (api.autograde, api.generate_feedback):
        said = step(exercise, STUDENT)
        print(said.get("log", ""), said.get("error", ""), flush=True)
        if not said["success"]:
            sys.exit(1)


def kill_tree(pid: int) -> None:
    """A process and the kernels that it started."""
    process = psutil.Process(pid)
    for one in [*process.children(recursive=True), process]:
        one.kill()


def grade_all(files: list[Path], out: Path) -> list[Graded]:
    """In the order of the files, several at once."""
    all_graded = [identify(path) for path in files]
    to_run = [graded for graded in all_graded if graded.exercise and look_at(graded)]
    exercises = sorted({graded.exercise for graded in to_run})
    courses = {exercise: course(out / "courses" / exercise, exercise) for exercise in exercises}

    def run(graded: Graded) -> Graded:
        folder = shutil.copytree(courses[graded.exercise], out / "courses" / graded.file.stem)
        grade(graded, folder)
        page = folder / "feedback" / STUDENT / graded.exercise / f"{graded.exercise}.html"
        if page.exists():
            shutil.copy(page, out / "feedback" / f"{graded.file.stem}.html")
        return graded

    at_once = (os.cpu_count() or 1) + 1  # one of them waits for a kernel to start or to end
    print(f"Grading {len(to_run)} of {len(files)} files, {at_once} at a time …", flush=True)
    with ThreadPoolExecutor(at_once) as pool:
        for number, graded in enumerate(pool.map(run, to_run), start=1):
            points = sum(graded.points.values())
            print(f"[{number}/{len(to_run)}] {graded.file.name}: {points:g} of {graded.of:g}", flush=True)
    return all_graded


def write(all_graded: list[Graded], out: Path) -> None:
    """The table, and a page for whatever nbgrader made none for."""
    names = dict.fromkeys(name for graded in all_graded for name in graded.points)
    with (out / "grades.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["file", "name", "exercise", "points", "of", "remark", *names])
        table.writeheader()
        table.writerows(graded.row() for graded in all_graded)
    for graded in all_graded:
        page = out / "feedback" / f"{graded.file.stem}.html"
        if not page.exists():
            page.write_text(PAGE.format(escape(graded.file.name), escape(" ".join(graded.remarks))), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="holds the files that were handed in")
    parser.add_argument("--out", type=Path, help="build/grades/ and the name of the folder by default")
    options = parser.parse_args()
    if options.folder is None:
        sys.exit("Say which folder: make grade SUBMISSIONS=folder, with files such as ada_02_train.ipynb in it.")
    files = sorted(path for path in options.folder.glob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        sys.exit(f"There are no files in {options.folder}. Expected: notebooks such as ada_02_train.ipynb.")
    if below := [path.name for path in options.folder.glob("*") if path.is_dir()]:
        print(f"Folders in {options.folder} are not looked into: {', '.join(below)}.")
    out = options.out or Path("build/grades", options.folder.resolve().name)
    for made in ("courses", "feedback"):
        shutil.rmtree(out / made, ignore_errors=True)
        (out / made).mkdir(parents=True)
    all_graded = grade_all(files, out.resolve())
    write(all_graded, out)
    for graded in all_graded:
        if graded.remarks:
            print(f"{graded.file.name}: {' '.join(graded.remarks)}")
    print(f"The points are in {out}/grades.csv, a page for each submission in {out}/feedback/.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
