"""Open JupyterLab on the tour; as root, in a container, and without a browser too.

What is opened are copies in work/, which git ignores: an update of the repository never meets a learner's edits.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from student import EXERCISES, NOTEBOOKS, ROOT, sources, without_solutions

from mvae.durable import durable_file

WORK = ROOT / "work"
#: Notebook → SHA-256 of the original from which it was copied.
RECORD = ".copies.json"


def copy_notebooks(work: Path = WORK) -> list[str]:
    """Put into `work` each notebook that is not there: lessons as they are, exercises without solutions.

    Never overwrites a notebook.

    Returns:
        The notebooks that are there and whose originals have changed since, as paths below `work`.
    """
    record = work / RECORD
    copied = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    changed = []
    for path in sources():
        original, target, name = NOTEBOOKS / path, work / path, path.as_posix()
        newest = hashlib.sha256(original.read_bytes()).hexdigest()
        copy = without_solutions(original).encode() if original in EXERCISES.values() else original.read_bytes()
        if not target.exists():
            with durable_file(target) as file:
                file.write(copy)
        elif copied.get(name) != newest and target.read_bytes() != copy:
            changed.append(name)
            continue
        copied[name] = newest
    with durable_file(record) as file:
        file.write(json.dumps(copied, indent=1).encode())
    return changed


def main() -> None:
    changed = copy_notebooks()
    for name in changed:
        print(f"notebooks/{name} has changed since work/{name} was copied from it.")
    if changed:
        print("Your copies were left as they are. To get a new one, rename yours and start again.")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}"]
    # The address that is opened, or printed where there is no browser: the tour itself.
    command += [f"--LabApp.default_url=/lab/tree/{WORK.name}/00_tour.ipynb", *sys.argv[1:]]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # JupyterLab refuses root unless told; the token stays on
    os.chdir(ROOT)
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
