"""A resumed run equals one that was never interrupted: every weight, moment, rate, β, batch and random number."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader

from mvae import DataError, InteractionsDataModule, MultiVAE, fit, synthetic
from mvae.checkpoint import ExactResume
from mvae.checkpoint.with_torch.generators import plain, set_generator_states, take
from mvae.data import CSRLoader
from mvae.training import quiet

DATA = synthetic(120, 50, interactions_per_user=10)


class Net(MultiVAE):
    """Small, with everything that a resumed run could get wrong: dropout, noise, annealing, and a rate that falls."""

    monitor = "val_loss"

    def configure_optimizers(self) -> Any:
        chosen: Any = super().configure_optimizers()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(chosen["optimizer"], factor=0.5, patience=0)
        return chosen | {"lr_scheduler": {"scheduler": plateau, "monitor": self.monitor}}


class SaveAlways(Checkpoint):
    """A file after every batch, validation and epoch. Lightning runs such callbacks last."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def _save(self, trainer: L.Trainer, when: str) -> None:
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step:02d}-{when}.ckpt")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._save(trainer, "a-batch")

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._save(trainer, "b-validation")

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._save(trainer, "c-epoch")


class Trace(Callback):
    """What went into each step, and draws of its own from every generator."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: L.Trainer, model: L.LightningModule, batch: Any, batch_idx: int) -> None:
        draws = random.random(), random.gauss(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(1))
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        self.seen.append((trainer.global_step, trainer.current_epoch, batch_idx, float(batch.sum()), lr, *draws))

    def on_validation_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        self.seen.append(("validation", trainer.global_step, float(trainer.callback_metrics["val_loss"])))

    def on_train_epoch_end(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        self.seen.append(("epoch end", trainer.current_epoch))


ENDED_IN = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")


class Run:
    """One training: what it saw, and the state it ended in."""

    def __init__(
        self,
        folder: Path | None = None,
        ckpt_path: Path | None = None,
        exact: bool = True,
        patience: int = 50,
        datamodule: L.LightningDataModule | None = None,
        **options: Any,
    ) -> None:
        L.seed_everything(0 if ckpt_path is None else 1, verbose=False)
        model = Net(50, [12, 6], lr=0.01, kl_anneal_steps=15)
        model.monitor = "train_loss" if options.get("limit_val_batches") == 0 else "val_loss"
        stopper = EarlyStopping(model.monitor, patience=patience)
        trace = Trace()
        callbacks = [stopper, trace, *([ExactResume()] if exact else []), SaveAlways(folder)]
        with quiet():
            trainer = L.Trainer(
                callbacks=callbacks,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
                **{"max_epochs": 4} | options,
            )
            data = datamodule or InteractionsDataModule(DATA, batch_size=16, num_val_users=20, num_test_users=20)
            trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        self.seen, self.beta = trace.seen, model.beta
        saved = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        self.state = {key: saved[key] for key in ENDED_IN}
        self.state["stopper"] = stopper.state_dict()


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, dict):
        if one.keys() != other.keys():
            yield path
        else:
            for key in one:
                yield from differences(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            yield path
        for number, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from differences(a, b, f"{path}.{number}")
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield path
    elif one != other:
        yield path


def assert_resumes_exactly(whole: Run, file: Path, **options: Any) -> None:
    resumed = Run(ckpt_path=file, **options)
    assert list(differences(whole.state, resumed.state)) == [], file.name
    assert resumed.beta == whole.beta
    assert resumed.seen == whole.seen[len(whole.seen) - len(resumed.seen) :], file.name


KINDS: dict[str, dict[str, Any]] = {
    "a validation every epoch": {},
    "two validations an epoch": {"val_check_interval": 0.5},
    "no validation": {"limit_val_batches": 0},
    "part of the data": {"limit_train_batches": 3},
    "until early stopping": {"patience": 1, "max_epochs": 40},
    "a number of steps": {"max_steps": 18, "max_epochs": -1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_from_any_moment_it_equals_the_uninterrupted_run(tmp_path: Path, kind: str) -> None:
    options = KINDS[kind]
    whole = Run(tmp_path, **options)
    files = sorted(tmp_path.iterdir())
    steps = whole.state["global_step"]
    if kind == "until early stopping":
        assert steps < 100
    else:
        files = [file for file in files if int(file.name[:2]) < steps]  # from the others there is nothing left to do
    assert {file.stem[3:] for file in files} >= {"a-batch", "c-epoch"}
    if not options:
        assert whole.state["optimizer_states"][0]["param_groups"][0]["lr"] < 0.01, "here the rate should fall"
    # Every moment of the plainest kind, where each comes up once; of the others the last epochs.
    for file in files if not options else files[-9:]:
        assert_resumes_exactly(whole, file, **options)


def test_lightning_alone_does_not(tmp_path: Path) -> None:
    whole = Run(tmp_path, exact=False)
    for name in ("07-a-batch", "10-a-batch", "10-c-epoch"):
        resumed = Run(ckpt_path=tmp_path / f"{name}.ckpt", exact=False)
        assert ".state_dict.encoder.0.weight" in differences(whole.state, resumed.state)
    with pytest.raises(RuntimeError, match="`val_loss` which is not available"):
        Run(ckpt_path=tmp_path / "10-b-validation.ckpt", exact=False)


def test_it_can_be_resumed_again_and_again(tmp_path: Path) -> None:
    whole = Run()
    for number, step in enumerate(("03-a-batch", "05-a-batch", "05-c-epoch", "11-a-batch", "15-b-validation")):
        folder = tmp_path / str(number)
        folder.mkdir()
        before = next(iter((tmp_path / str(number - 1)).glob("*.ckpt"))) if number else None
        Run(folder, before)
        for file in folder.iterdir():
            if file.stem != step:
                file.unlink()
    assert_resumes_exactly(whole, next(iter(folder.iterdir())))


def test_training_goes_on_where_max_epochs_had_ended_it(tmp_path: Path) -> None:
    whole = Run(max_epochs=4)
    Run(tmp_path, max_epochs=2)
    assert_resumes_exactly(whole, tmp_path / "10-c-epoch.ckpt", max_epochs=4)


class PlainLoaders(L.LightningDataModule):
    """A DataLoader of torch's own, which shuffles by the global generator and does not know where it stands."""

    def train_dataloader(self) -> DataLoader[Any]:
        rows = torch.from_numpy(InteractionsDataModule(DATA, num_val_users=20, num_test_users=20).train.toarray())
        return DataLoader(rows, batch_size=16, shuffle=True)

    def val_dataloader(self) -> CSRLoader:
        return InteractionsDataModule(DATA, num_val_users=20, num_test_users=20).val_dataloader()


@pytest.mark.parametrize("options", [{}, {"max_steps": 18, "max_epochs": -1}], ids=["epochs", "steps"])
def test_a_plain_dataloader_resumes_exactly_from_an_epochs_end(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = Run(tmp_path, datamodule=PlainLoaders(), **options)
    for name in ("05-c-epoch", "10-a-batch", "10-b-validation", "10-c-epoch"):
        assert_resumes_exactly(whole, tmp_path / f"{name}.ckpt", datamodule=PlainLoaders(), **options)


# --- what is in the file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    Run(folder, max_epochs=1)
    return folder


def test_the_state_is_of_tensors_and_plain_values(folder: Path) -> None:
    checkpoint = torch.load(folder / "05-c-epoch.ckpt", weights_only=True)
    state = checkpoint["callbacks"]["ExactResume"]
    assert state.keys() >= {"moment", "inexact", "generators", "processes", "metrics", "should_stop", "run"}
    assert list(state["generators"][0]) == ["python", "numpy", "torch"]
    assert {"train_loss", "val_loss", "val_ndcg@100"} <= state["metrics"].keys()

    def kinds(value: Any) -> set[type]:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return {type(value)}.union(*map(kinds, inside))

    assert kinds(state) <= {dict, list, str, int, float, bool, type(None), torch.Tensor}


def test_it_costs_a_few_kilobytes(folder: Path, tmp_path: Path) -> None:
    Run(tmp_path, max_epochs=1, exact=False)
    name = "05-c-epoch.ckpt"
    assert 0 < (folder / name).stat().st_size - (tmp_path / name).stat().st_size < 32_000
    assert zipfile.ZipFile(folder / name).testzip() is None


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("03-a-batch", "after a batch"),
        ("05-a-batch", "after a batch"),
        ("05-b-validation", "after a validation"),
        ("05-c-epoch", "as an epoch ends"),
    ],
)
def test_it_says_at_which_moment_it_was_saved(folder: Path, name: str, moment: str) -> None:
    checkpoint = torch.load(folder / f"{name}.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["ExactResume"]["moment"] == moment


def test_the_loops_are_as_lightning_writes_them(folder: Path, tmp_path: Path) -> None:
    Run(tmp_path, max_epochs=1, exact=False)
    for file in sorted(folder.iterdir()):
        ours, plain = (torch.load(f / file.name, weights_only=True) for f in (folder, tmp_path))
        assert ours["loops"] == plain["loops"]
        assert ours.keys() == plain.keys()


def test_a_file_without_its_state_is_resumed_as_by_lightning(tmp_path: Path) -> None:
    Run(tmp_path, exact=False, max_epochs=2)
    with pytest.warns(UserWarning, match="it is resumed as Lightning does, not exactly"):
        resumed = Run(ckpt_path=tmp_path / "05-c-epoch.ckpt", max_epochs=2)
    assert resumed.state["global_step"] == 10


def test_every_generator_continues_where_it_stood() -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(), np.random.rand(), np.random.randn(), float(torch.randn(1))]

    random.gauss()  # Python and NumPy draw normal numbers in pairs: the second one is kept
    np.random.randn()
    states = plain(take(torch.device("cpu")), torch.device("cpu"))
    first = draw()
    draw()
    set_generator_states(states, torch.device("cpu"))
    assert draw() == first


def test_the_generators_of_every_process_are_saved(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        whole = Run(tmp_path, max_epochs=2)
        assert_resumes_exactly(whole, tmp_path / "05-c-epoch.ckpt", max_epochs=2)
    finally:
        torch.distributed.destroy_process_group()
    checkpoint = torch.load(tmp_path / "05-c-epoch.ckpt", weights_only=True)
    assert len(checkpoint["callbacks"]["ExactResume"]["generators"]) == 1


def test_other_processes_are_warned_of(tmp_path: Path) -> None:
    Run(tmp_path, max_epochs=2)
    file = tmp_path / "05-c-epoch.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["callbacks"]["ExactResume"]["generators"] *= 2
    torch.save(checkpoint, file)
    with pytest.warns(UserWarning, match="Saved by 2 processes and resumed by 1"):
        Run(ckpt_path=file, max_epochs=2)


# --- the loader's part


def loader(rows: int = 20, **options: Any) -> CSRLoader:
    import scipy.sparse as sp

    return CSRLoader(sp.eye_array(rows, format="csr", dtype=np.float32), **{"batch_size": 3, "shuffle": True} | options)


def one_pass(loader: CSRLoader, batches: int | None = None) -> list[Any]:
    return [batch.tolist() for batch in islice(loader, batches)]


@pytest.mark.parametrize("batches", range(1, 8))
def test_a_loader_goes_on_where_another_stood(batches: int) -> None:
    whole, one, other = loader(), loader(), loader()
    passes = [one_pass(whole) for _ in range(4)]
    one_pass(one)
    one_pass(one, batches)
    other.load_state_dict(one.state_dict())
    left = [passes[1][batches:]] if batches < len(one) else []
    assert [one_pass(other), one_pass(other)] == [*left, *passes[2:]][:2]


def test_a_pass_that_was_resumed_and_not_taken_up_is_forgotten() -> None:
    one = loader()
    one.load_state_dict({"epoch": 1, "batch": 2, "rows": 20, "batch_size": 3, "seed": 0})
    iter(one)
    assert len(list(one)) == len(one)


@pytest.mark.parametrize("change", [{"rows": 21}, {"batch_size": 4}, {"seed": 1}])
def test_the_middle_of_an_epoch_of_other_batches_is_refused(change: dict[str, int]) -> None:
    one, other = loader(), loader(**change)
    next(iter(one))
    with pytest.raises(DataError, match="middle of an epoch"):
        other.load_state_dict(one.state_dict())


def test_the_end_of_an_epoch_of_other_batches_is_taken() -> None:
    one, other = loader(), loader(batch_size=3, rows=21)
    list(one)
    other.load_state_dict(one.state_dict())
    assert len(list(other)) == 7
    assert other.epoch == 2


# --- through fit()

KILLED = """
import os, signal, sys
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from mvae import InteractionsDataModule, fit, synthetic

class Kill(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 13:
            os.kill(os.getpid(), signal.SIGKILL)

data = InteractionsDataModule(synthetic(120, 50, interactions_per_user=10), batch_size=16)
often = ModelCheckpoint(dirpath=sys.argv[1], filename="newest", every_n_train_steps=4, enable_version_counter=False)
fit(data, out=sys.argv[1], max_epochs=5, progress=False, callbacks=[often, Kill()])
"""


def test_a_killed_fit_resumes_to_the_same_model_best_epoch_and_history(tmp_path: Path) -> None:
    def often(folder: Path) -> ModelCheckpoint:
        return ModelCheckpoint(folder, "newest", every_n_train_steps=4, enable_version_counter=False)

    data = InteractionsDataModule(synthetic(120, 50, interactions_per_user=10), batch_size=16)
    whole = fit(data, out=tmp_path / "whole", max_epochs=5, progress=False, callbacks=[often(tmp_path / "whole")])

    out = tmp_path / "killed"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out)], capture_output=True, timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    newest = out / "newest.ckpt"
    assert torch.load(newest, weights_only=True)["global_step"] == 12
    resumed = fit(data, out=out, max_epochs=5, progress=False, callbacks=[often(out)], ckpt_path=newest, seed=7)

    pd.testing.assert_frame_equal(resumed.history, whole.history, check_exact=True, check_dtype=False)
    assert resumed.checkpoint.name == whole.checkpoint.name
    ours, theirs = (torch.load(result.checkpoint, weights_only=True) for result in (resumed, whole))
    assert [path for path in differences(ours, theirs) if not path.startswith(".callbacks.ModelCheckpoint")] == []


def test_fit_resumes_exactly_and_adds_one_key(tmp_path: Path) -> None:
    data = InteractionsDataModule(DATA, batch_size=16)
    own = ExactResume()
    result = fit(data, out=tmp_path, max_epochs=1, progress=False, callbacks=[own])
    assert [callback for callback in result.trainer.callbacks if isinstance(callback, ExactResume)] == [own]
    result = fit(data, out=tmp_path / "default", max_epochs=1, progress=False)
    callbacks = torch.load(result.checkpoint, weights_only=True)["callbacks"]
    assert [key.partition("{")[0] for key in callbacks] == ["EarlyStopping", "ModelCheckpoint", "ExactResume"]


def test_a_run_with_nothing_left_to_train_says_so(tmp_path: Path) -> None:
    data = InteractionsDataModule(DATA, batch_size=16)
    ended = fit(data, out=tmp_path / "a", max_epochs=1, progress=False).checkpoint
    assert fit(data, out=tmp_path / "a", max_epochs=1, progress=False, ckpt_path=ended).checkpoint == ended
    nothing = pytest.raises(RuntimeError, match="max_epochs=1 leaves nothing to train")
    with pytest.warns(UserWarning, match="dirpath has changed"), nothing:
        fit(data, out=tmp_path / "b", max_epochs=1, progress=False, ckpt_path=ended)
