"""Open JupyterLab on the tour; as root, in a container, and without a browser too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}"]
# The address that is opened, or printed where there is no browser: the tour itself.
command += ["--LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb", *sys.argv[1:]]
if hasattr(os, "geteuid") and os.geteuid() == 0:
    command.append("--allow-root")  # JupyterLab refuses root unless told; the token stays on
os.chdir(ROOT)
os.execv(sys.executable, command)
