"""Two processes (DDP on the processor): each goes on with its own batches and random numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exact_runs import differences

SCRIPT = """
import sys, warnings
from pathlib import Path
import torch
import exact_runs
from exact_loaders import LOADERS, SLOW_LOADERS
from exact_runs import Run, SaveAt, Situation
from lightning.pytorch.strategies import DDPStrategy

folder, name, place = Path(sys.argv[1]), sys.argv[2], (sys.argv[3], int(sys.argv[4]))
def situation():
    options = {"strategy": DDPStrategy(process_group_backend="gloo"), "devices": 2, "num_sanity_val_steps": 0}
    return Situation((LOADERS | SLOW_LOADERS)[name], options=options)

resume = folder / "newest.ckpt" if sys.argv[5] == "resume" else None
run = Run(situation(), SaveAt(None if resume else place, folder), resume)
rank = run.trainer.global_rank
out = {"state": run.state, "seen": run.seen, "rows": run.rows}
torch.save(out, folder / f"{sys.argv[5]}-{rank}.pt")
"""


@pytest.mark.parametrize(
    ("name", "place"),
    [("DataLoader", ("batch", 5)), ("own loader", ("batch", 8))],
)
def test_two_processes_resume_exactly(tmp_path: Path, name: str, place: tuple[str, int]) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    for what in ("whole", "resume"):
        command = [sys.executable, str(script), str(tmp_path), name, place[0], str(place[1]), what]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert ran.returncode == 0, ran.stderr[-3000:]
    for rank in (0, 1):
        whole, resumed = (
            torch.load(tmp_path / f"{what}-{rank}.pt", weights_only=False) for what in ("whole", "resume")
        )
        assert list(differences(whole["state"], resumed["state"])) == []
        for part in ("seen", "rows"):
            assert resumed[part] == whole[part][len(whole[part]) - len(resumed[part]) :]
