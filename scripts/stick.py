"""Fill a folder, such as a USB stick, from which the course installs on laptops without a network.

    python scripts/stick.py FOLDER     wheels, films, notebooks and install.py: about 350 MB with a CPU torch

The wheels are those of this system, processor and Python. For a mixed room, fill the same folder once on each kind.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from student import ROOT, write_student

from mvae.data.movielens import RECBOLE, RECBOLE_WHEEL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "wheel", *constraints, "-w", str(folder / "wheels"), f"{ROOT}[teach]"], check=True)
    if not (folder / "data" / RECBOLE_WHEEL).exists():  # a public package that carries the films: data/README.md
        subprocess.run([*pip, "download", "-q", "--no-deps", "-d", str(folder / "data"), RECBOLE], check=True)
    write_student(folder / "course")
    shutil.copy(ROOT / "scripts" / "install_from_stick.py", folder / "install.py")
    print(f"{folder} is ready. On a laptop: python {folder.name}/install.py")


if __name__ == "__main__":
    main()
