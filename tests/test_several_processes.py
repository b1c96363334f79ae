"""`fit` on two real processes (DDP, gloo, CPU): the same steps as on one, each user once, and every file written once.

Chance is taken out (no dropout, z = μ, the newest item masked), so that what is left to differ is floating point.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from mvae.data.generated import synthetic
from mvae.data.loader import CSRLoader
from mvae.errors import DataError

ROOT = Path(__file__).parents[1]
SCRIPT = """
import json, sys, warnings
from pathlib import Path
import numpy as np, pandas as pd, torch
from lightning.pytorch.callbacks import Callback
from mvae import BERT4Rec, InteractionsDataModule, MultiVAE, fit
from mvae.checkpoint.with_torch.newest import SaveNewest
from mvae.data import SequencesDataModule, synthetic

folder, devices, resume = Path(sys.argv[1]), int(sys.argv[2]), [Path(path) for path in sys.argv[3:]]
MultiVAE.sample = lambda self, mu, logvar: mu

def newest_only(self, sequences):
    masked = torch.zeros_like(sequences, dtype=torch.bool)
    masked[:, -1] = True
    return masked

BERT4Rec.choose_masked = newest_only

class Users(Callback):
    "Notes how many interactions each process sees in an epoch: a fingerprint of the users it was given."
    def __init__(self):
        self.seen = []
    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        self.seen.append(float(batch.sum()) if isinstance(model, MultiVAE) else float((batch < model.padding).sum()))

# 41 users to train on in batches of 8: the last one has a single user, which leaves a second process with none.
people = synthetic(49, 60, interactions_per_user=9)
data = InteractionsDataModule(people, batch_size=8, num_val_users=5, num_test_users=3)
assert data.train.shape[0] == 41
times = people.matrix.tocoo()
ratings = pd.DataFrame({"user_id": times.row, "item_id": times.col, "timestamp": np.arange(times.nnz)})
sequences = SequencesDataModule(people, ratings, batch_size=48, max_len=8)

torch.manual_seed(1)
models = {
    "multi-vae": (data, MultiVAE(60, [8, 4], dropout=0.0, kl_anneal_steps=10)),
    "bert4rec": (sequences, BERT4Rec(60, 8, num_layers=1, max_len=8, dropout=0.0)),
}
for number, (name, (datamodule, model)) in enumerate(models.items()):
    if resume and name != "multi-vae":
        continue
    users = Users()
    out = folder / name
    every = SaveNewest(out, 4, 99)
    result = fit(datamodule, model, out=out, max_epochs=2, devices=devices, strategy="ddp" if devices > 1 else "auto",
                 accelerator="cpu", progress=False, callbacks=[users, every], resume=resume[0] if resume else False)
    rank = result.trainer.global_rank
    weights = {key: value.double().sum().item() for key, value in result.trainer.lightning_module.state_dict().items()}
    # By now nobody trains: the data is whole again, in every process.
    whole = sum(len(batch[0]) for batch in datamodule.val_dataloader())
    said = {"seen": users.seen, "weights": weights, "validation users": whole}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(said))
"""


def run(folder: Path, devices: int, *resume: Path) -> None:
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder), str(devices), *map(str, resume)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes") / "one"
    run(folder, 1)
    return folder


@pytest.fixture(scope="module")
def two(one: Path) -> Path:
    folder = one.parent / "two"
    run(folder, 2)
    return folder


def said(folder: Path, name: str, process: int = 0) -> dict:
    return json.loads((folder / f"{name}-{process}.json").read_text())


def assert_same_run(folder: Path, expected: Path, name: str) -> None:
    ours, theirs = (pd.read_csv(where / name / "history.csv") for where in (folder, expected))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=False, rtol=1e-4, atol=1e-6)
    assert said(folder, name)["weights"] == pytest.approx(said(expected, name)["weights"], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", ["multi-vae", "bert4rec"])
def test_two_processes_take_the_steps_that_one_takes(one: Path, two: Path, name: str) -> None:
    assert_same_run(two, one, name)


@pytest.mark.parametrize("name", ["multi-vae", "bert4rec"])
def test_each_batch_is_shared_and_no_user_is_seen_twice(one: Path, two: Path, name: str) -> None:
    shares = [said(two, name, process)["seen"] for process in (0, 1)]
    assert [first + second for first, second in zip(*shares, strict=True)] == said(one, name)["seen"]
    assert 0.0 in shares[1] or name == "bert4rec"  # the step in which the second process has nobody


@pytest.mark.parametrize("name", ["multi-vae", "bert4rec"])
def test_every_file_is_written_once(one: Path, two: Path, name: str) -> None:
    files = [sorted(path.name.partition("-val_loss")[0] for path in (where / name).iterdir()) for where in (one, two)]
    assert files[0] == files[1]
    assert not any("-v1" in path.name for path in (two / name).iterdir())


def test_after_the_run_each_process_has_all_the_data(two: Path) -> None:
    assert [said(two, "multi-vae", process)["validation users"] for process in (0, 1)] == [5, 5]


@pytest.mark.parametrize(("before", "after"), [("one", 2), ("two", 1)])
@pytest.mark.parametrize("step", [4, 8], ids=["mid-epoch", "in the second epoch"])
def test_a_run_goes_on_with_another_number_of_processes(
    request: pytest.FixtureRequest, one: Path, before: str, after: int, step: int
) -> None:
    start = next((request.getfixturevalue(before) / "multi-vae").glob(f"newest-*-step={step}.ckpt"))
    folder = one.parent / f"{before}-then-{after}-from-{step}"
    run(folder, after, start)
    table = pd.read_csv(one / "multi-vae" / "history.csv")
    resumed = pd.read_csv(folder / "multi-vae" / "history.csv")
    expected = table[table["step"] > step].reset_index(drop=True)
    pd.testing.assert_frame_equal(resumed, expected, check_exact=False, rtol=1e-4, atol=1e-6)


# ---- the loader, without processes -----------------------------------------------------------------------------


def test_a_loader_refuses_fewer_rows_than_processes() -> None:
    with pytest.raises(DataError, match="2 rows cannot be shared by 3 processes"):
        CSRLoader(synthetic(50, 20, interactions_per_user=5).matrix[:2], batch_size=4, share=(0, 3))


@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_csr])
def test_a_process_without_users_gets_an_empty_batch(layout: torch.layout) -> None:
    matrix = synthetic(50, 20, interactions_per_user=5).matrix[:5]
    batches = list(CSRLoader(matrix, batch_size=4, shuffle=True, layout=layout, share=(1, 2)))
    assert [tuple(batch.shape) for batch in batches] == [(2, 20), (0, 20)]
