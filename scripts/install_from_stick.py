"""Install the course from this folder, without a network.

python install.py [FOLDER]     into FOLDER, ./mvae-course by default
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

STICK = Path(__file__).resolve().parent


def install(course: Path) -> Path:
    """Notebooks, films and an environment of their own; returns the environment's Python."""
    shutil.copytree(STICK / "course", course)
    shutil.copytree(STICK / "data", course / "data")
    venv.create(course / ".venv", with_pip=True)
    python = course / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "install", "--no-compile", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, "--find-links", STICK / "wheels", "mvae[teach]"], check=True)
    # Tells the notebooks where the films are.
    kernel = ["--sys-prefix", "--name", "python3", "--display-name", "Python 3", "--env", "MVAE_DATA", course / "data"]
    subprocess.run([python, "-m", "ipykernel", "install", *kernel], check=True, stdout=subprocess.DEVNULL)
    return python


def main() -> None:
    course = Path(sys.argv[1] if len(sys.argv) > 1 else "mvae-course").resolve()
    if sys.version_info < (3, 11):  # noqa: UP036 – whatever Python is there runs this file
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
    if course.exists():
        sys.exit(f"{course} exists. Remove it, or name another folder: python install.py FOLDER")
    try:
        python = install(course)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(course, ignore_errors=True)
        sys.exit(f"Not installed, and nothing was left behind: {error}\nDo the wheels fit this system and this Python?")
    print(f"Installed. To begin:\n  cd {course}\n  {python.relative_to(course)} -m jupyterlab notebooks/00_tour.ipynb")


if __name__ == "__main__":
    main()
