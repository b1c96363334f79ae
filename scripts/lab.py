"""Open JupyterLab on lesson 1; as root, in a container, and without a browser too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
command = [
    sys.executable,
    "-m",
    "jupyterlab",
    f"--ServerApp.root_dir={ROOT}",
    "notebooks/01_build.ipynb",
    *sys.argv[1:],
]
if hasattr(os, "geteuid") and os.geteuid() == 0:
    command.append("--allow-root")  # JupyterLab refuses root unless told; the token stays on
print("Lesson 1 is notebooks/01_build.ipynb in the file list on the left, if no browser opens on it.", flush=True)
os.chdir(ROOT)
os.execv(sys.executable, command)
