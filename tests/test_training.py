"""fit(): the files it leaves, what is in them, and what it shows."""

from __future__ import annotations

import os
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mvae import DataError, FitResult, Interactions, InteractionsDataModule, MultiVAE, fit, synthetic
from mvae.callbacks import History
from mvae.checkpoint import CheckpointNotSavedError
from mvae.training import SMALL_DATA

THE_TEN_AND_OURS = [
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "state_dict",
    "loops",
    "callbacks",
    "optimizer_states",
    "lr_schedulers",
    "hparams_name",
    "hyper_parameters",
    "InteractionsDataModule",
]


@pytest.fixture(scope="session")
def checkpoint(trained: FitResult) -> dict:
    return torch.load(trained.checkpoint, weights_only=True)


# ---- the checkpoint --------------------------------------------------------------------------------------------


def test_the_file_name_says_the_best_epoch_and_its_loss(trained: FitResult) -> None:
    best = trained.epochs.loc[trained.epochs["val_loss"].idxmin()]
    assert trained.checkpoint.name == f"multi-vae-epoch={best['epoch']:02.0f}-val_loss={best['val_loss']:.4f}.ckpt"
    assert sorted(p.name for p in trained.checkpoint.parent.iterdir()) == [
        "history.csv",
        "last.ckpt",
        trained.checkpoint.name,
    ]


def test_it_has_the_documents_ten_keys_and_ours(checkpoint: dict) -> None:
    assert set(checkpoint) == set(THE_TEN_AND_OURS)
    assert len(checkpoint) == 11


def test_hyperparameters_and_vocabulary_are_in_it(checkpoint: dict, datamodule: InteractionsDataModule) -> None:
    assert checkpoint["hparams_name"] == "kwargs"
    assert checkpoint["hyper_parameters"] == {
        "num_items": 60,
        "hidden_dims": [16, 8],
        "dropout": 0.5,
        "lr": 0.05,
        "weight_decay": 0.0,
        "kl_max_weight": 0.2,
        "kl_anneal_steps": 10,
    }
    assert checkpoint["InteractionsDataModule"] == {"item_ids": datamodule.item_ids, "source": "made-up"}


def test_adam_and_the_callbacks_are_in_it(checkpoint: dict, trained: FitResult) -> None:
    (adam,), (scheduler,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    assert set(adam["state"]) == set(range(12))
    assert {frozenset(state) for state in adam["state"].values()} == {frozenset({"step", "exp_avg", "exp_avg_sq"})}
    assert scheduler["factor"] == 0.5
    names = sorted(str(name).split("{")[0] for name in checkpoint["callbacks"])
    assert names == ["EarlyStopping", "ExactResume", "ModelCheckpoint"]
    (saver,) = (state for name, state in checkpoint["callbacks"].items() if name.startswith("ModelCheckpoint"))
    (stopper,) = (state for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping"))
    assert (saver["monitor"], Path(saver["best_model_path"])) == ("val_loss", trained.checkpoint)
    assert (stopper["patience"], stopper["wait_count"]) == (20, 0)
    assert stopper["best_score"].item() == saver["best_model_score"].item() == trained.epochs["val_loss"].min()


def test_the_model_that_is_returned_is_the_one_in_the_file(trained: FitResult, checkpoint: dict) -> None:
    assert not trained.model.training
    weights = trained.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in checkpoint["state_dict"].items())
    assert checkpoint["epoch"] < 7  # the best epoch was not the last one, so the model at the end is another
    assert not torch.equal(weights["mu.weight"], trained.trainer.model.state_dict()["mu.weight"])


def test_last_ckpt_is_a_copy_of_the_newest_that_was_saved(trained: FitResult, checkpoint: dict) -> None:
    last = torch.load(trained.checkpoint.parent / "last.ckpt", weights_only=True)
    assert last["epoch"] == checkpoint["epoch"]
    assert torch.equal(last["state_dict"]["mu.weight"], checkpoint["state_dict"]["mu.weight"])


def test_the_files_loss_is_the_loss_of_its_weights(trained: FitResult, datamodule: InteractionsDataModule) -> None:
    trainer = L.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = trainer.validate(trained.model, datamodule.val_dataloader(), verbose=False)
    assert found["val_loss"] == pytest.approx(trained.epochs["val_loss"].min(), rel=1e-5)


def test_without_save_last_there_is_no_last_ckpt(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    result = fit(datamodule, tiny_model(), out=tmp_path / "new" / "folder", max_epochs=1)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["history.csv", result.checkpoint.name]


def test_the_default_model_is_the_documents_network_with_the_small_sets_beta(
    datamodule: InteractionsDataModule, tmp_path: Path
) -> None:
    hyper_parameters = fit(datamodule, out=tmp_path, max_epochs=1).model.hparams
    assert {name: hyper_parameters[name] for name in SMALL_DATA} == SMALL_DATA
    assert (hyper_parameters["num_items"], hyper_parameters["hidden_dims"]) == (60, [600, 200])


# ---- the history -----------------------------------------------------------------------------------------------


def test_the_history_has_one_row_a_step(trained: FitResult) -> None:
    history = trained.history  # 83 training users in batches of 32: 3 steps an epoch
    assert history["step"].tolist() == list(range(1, 25))
    assert history["epoch"].tolist() == [epoch for epoch in range(8) for _ in range(3)]
    assert history[["train_loss", "train_nll", "train_kl"]].notna().all().all()
    assert history["train_loss"].nunique() == 24


def test_beta_in_the_history_is_the_formula(trained: FitResult) -> None:
    expected = [0.2 * min(1.0, step / 10) for step in range(24)]  # the first step is taken at β = 0
    assert trained.history["beta"].tolist() == pytest.approx(expected)
    loss = trained.history["train_nll"] + trained.history["beta"] * trained.history["train_kl"]
    assert trained.history["train_loss"].tolist() == pytest.approx(loss.tolist(), rel=1e-5)


def test_the_last_step_of_an_epoch_carries_its_validation(trained: FitResult) -> None:
    filled = trained.history["val_loss"].notna()
    assert filled.tolist() == [step % 3 == 0 for step in range(1, 25)]
    assert trained.epochs["epoch"].tolist() == list(range(8))
    metrics = trained.epochs[["val_recall@20", "val_recall@50", "val_ndcg@100"]]
    assert ((metrics > 0) & (metrics <= 1)).all().all()


def test_history_csv_is_the_history(trained: FitResult) -> None:
    pd.testing.assert_frame_equal(pd.read_csv(trained.checkpoint.parent / "history.csv"), trained.history)


class _Worse(MultiVAE):
    """val_loss is 1, 2, 3 …: the first epoch stays the best. Hyperparameters as MultiVAE."""

    def validation_step(self, batch: object, batch_idx: int) -> None:
        self.log("val_loss", float(self.current_epoch + 1), batch_size=1)


def test_training_stops_after_patience_epochs_without_a_lower_loss(
    datamodule: InteractionsDataModule, tmp_path: Path
) -> None:
    result = fit(datamodule, _Worse(60, [4, 2]), out=tmp_path, max_epochs=30, patience=3)
    assert result.epochs["val_loss"].tolist() == [1, 2, 3, 4]
    assert result.checkpoint.name == "multi-vae-epoch=00-val_loss=1.0000.ckpt"


def test_the_history_shows_the_rate_being_halved(datamodule: InteractionsDataModule, tmp_path: Path) -> None:
    result = fit(datamodule, _Worse(60, [4, 2], lr=0.008), out=tmp_path, max_epochs=30, patience=25)
    # ReduceLROnPlateau waits for more than 10 epochs without a lower loss: epochs 1 to 11, then 12 to 22.
    rates = result.epochs["lr"].tolist()
    assert rates == pytest.approx([0.008] * 12 + [0.004] * 11 + [0.002] * 3)
    (group,) = result.trainer.optimizers[0].param_groups
    assert group["lr"] == pytest.approx(0.002)


# ---- seeds -----------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_run(interactions: Interactions, tmp_path: Path) -> None:
    def run(seed: int, folder: str) -> FitResult:
        datamodule = InteractionsDataModule(interactions, batch_size=32)
        random.seed(folder), np.random.seed(len(folder)), torch.manual_seed(len(folder))
        return fit(datamodule, None, out=tmp_path / folder, max_epochs=2, seed=seed)

    one, same, other = run(3, "one"), run(3, "the same"), run(4, "another")
    pd.testing.assert_frame_equal(one.history, same.history)
    assert one.checkpoint.name == same.checkpoint.name
    weights = one.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in same.model.state_dict().items())
    assert not torch.equal(weights["mu.weight"], other.model.state_dict()["mu.weight"])


# ---- what it shows ---------------------------------------------------------------------------------------------


def test_without_a_screen_nothing_is_printed_and_nothing_warned(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(datamodule, tiny_model(), out=tmp_path, max_epochs=2)
        fit(datamodule, tiny_model(), out=tmp_path, max_epochs=2)  # the folder is not empty now
    assert capfd.readouterr() == ("", "")


def test_more_callbacks_and_trainer_options_are_passed_on(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    class Count(Callback):
        batches = 0

        def on_train_batch_end(self, *_: object) -> None:
            self.batches += 1

    count = Count()
    fit(datamodule, tiny_model(), out=tmp_path, max_epochs=2, callbacks=[count], limit_train_batches=1)
    assert count.batches == 2


# ---- resuming, and runs that fail ------------------------------------------------------------------------------


def test_a_run_is_resumed_where_it_stood(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    fit(datamodule, tiny_model(), out=tmp_path, max_epochs=2, save_last=True)
    first = pd.read_csv(tmp_path / "history.csv")
    resumed = fit(datamodule, tiny_model(), out=tmp_path, max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
    assert resumed.history["step"].tolist() == list(range(1, 13))
    assert resumed.history["beta"].tolist() == pytest.approx([0.2 * min(1, step / 10) for step in range(12)])
    pd.testing.assert_frame_equal(resumed.history.head(6), first)


@pytest.fixture
def finished(datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path) -> FitResult:
    return fit(datamodule, tiny_model(), out=tmp_path, max_epochs=2)


def test_resuming_on_other_items_is_refused_and_harms_nothing(
    finished: FitResult, interactions: Interactions, tiny_model: Callable
) -> None:
    folder = finished.checkpoint.parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = InteractionsDataModule(replace(interactions, item_ids=[f"other-{i}" for i in range(60)]), batch_size=32)
    with pytest.raises(DataError, match="60 of its items are not in this data"):
        fit(other, tiny_model(), out=folder, max_epochs=4, ckpt_path=finished.checkpoint)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_was_noted_is_kept_when_a_run_breaks_off(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    class Stop(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
            if trainer.global_step == 4:
                raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        fit(datamodule, tiny_model(), out=tmp_path, max_epochs=4, callbacks=[Stop()])
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["train_loss"].notna().sum() == 4
    assert [p.name for p in tmp_path.glob("*.part")] == []


def test_a_disk_that_fills_up_leaves_the_old_history(finished: FitResult, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = finished.checkpoint.parent / "history.csv"
    before, names = path.read_text(), sorted(path.parent.iterdir())
    history = History(path)
    history.rows = [{"step": 1, "epoch": 0}]
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointNotSavedError, match="No space left"):
        history.on_fit_end(finished.trainer, finished.model)
    assert path.read_text() == before
    assert sorted(path.parent.iterdir()) == names


def test_a_loss_that_is_never_a_number_is_said(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=re.escape("val_loss was never a finite number. Lower lr.")):
        fit(datamodule, tiny_model(lr=1e30), out=tmp_path, max_epochs=3)


# ---- bf16 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has_bf16", "precision", "warned"),
    [(False, "bf16-mixed", True), (True, "bf16-mixed", False), (False, "32-true", False)],
)
def test_bf16_is_warned_of_where_the_processor_has_no_instructions_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_bf16: bool, precision: str, warned: bool
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has_bf16, raising=False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    data = InteractionsDataModule(synthetic(60, 40, interactions_per_user=8))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(data, out=tmp_path, max_epochs=1, accelerator="cpu", precision=precision, progress=False)
    assert any("without bf16 instructions" in str(warning.message) for warning in caught) == warned
