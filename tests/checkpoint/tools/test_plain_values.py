"""A checkpoint that `weights_only=True` refuses, made plain: Lightning goes on from it as if nothing had happened."""

from __future__ import annotations

import argparse
import datetime
import functools
import io
import json
import pathlib
import pickle
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from hostile_files import calls, checkpoint, pickle_of, text
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.tuner import Tuner
from omegaconf import OmegaConf
from real_files import Colour, Net, Settings, foreign_objects
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mvae.checkpoint import CheckpointError, PlainCopy, inspect, plain


class Remembers(Callback):
    """A callback whose state is what people put into one."""

    def __init__(self) -> None:
        self.seen: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": np.float64(0.25), "where": pathlib.PurePosixPath("/data"), "when": datetime.date(2026, 1, 2)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict


class ByNumpy(Net):
    """A learning rate that comes out of numpy, and goes into the optimizer's state as such."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), np.float64(0.01), weight_decay=np.float32(0.1))
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=np.float64(0.5))]


class Configured(lightning.LightningModule):
    """Takes one configuration, as Hydra's users write it."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.save_hyperparameters(cfg)
        self.body = nn.Sequential(nn.Linear(8, cfg.width), nn.Linear(cfg.width, 1))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return self.body(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams["lr"], momentum=0.9)


def trainer(folder: Path, epochs: int, *callbacks: Callback) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks), default_root_dir=folder, enable_checkpointing=False,
    )  # fmt: skip


def batches() -> DataLoader[Any]:
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(20, 8)), batch_size=8)


def trained(folder: Path, model: lightning.LightningModule, *callbacks: Callback) -> Path:
    """One epoch, and its checkpoint."""
    running = trainer(folder, 1, *callbacks)
    torch.manual_seed(2)
    running.fit(model, batches())
    path = folder / "epoch1.ckpt"
    running.save_checkpoint(path)
    return path


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def resumed(folder: Path, model: lightning.LightningModule, path: Path, weights_only: bool) -> dict[str, Any]:
    """The state after two epochs more."""
    callback = Remembers()
    running = trainer(folder, 3, callback)
    running.fit(model, batches(), ckpt_path=path, weights_only=weights_only)
    assert running.current_epoch == 3
    if weights_only and callback.seen:
        assert callback.seen == {"best": 0.25, "where": "/data", "when": "2026-01-02"}
    return {
        "weights": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in running.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in running.lr_scheduler_configs],
        "step": running.global_step,
    }


CONFIG = OmegaConf.create({"width": 4, "lr": 0.01, "layers": [600, 200], "again": "${lr}", "home": "${oc.env:HOME}"})
HYPERPARAMETERS: dict[str, Any] = {
    "omegaconf dict": CONFIG,
    "omegaconf list": CONFIG.layers,
    "enum": Colour.RED,
    "path": pathlib.Path("a/b"),
    "numpy number": np.float32(0.5),
    "numpy array": np.arange(6.0).reshape(2, 3),
    "dataclass": Settings(),
    "namespace": argparse.Namespace(a=1, b=[Colour.RED]),
    "attribute dict": AttributeDict(a=1),
    "frozenset": frozenset({1, "b"}),
    "datetime": datetime.datetime(2026, 1, 2, 3, 4),
}
WITH_LOSS: dict[str, Any] = {
    "partial": functools.partial(torch.optim.SGD, lr=0.1),
    "module": nn.Linear(2, 2),
    "class": nn.ReLU,
    "everything": foreign_objects(),
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "plain.ckpt"


@pytest.mark.parametrize("name", [*HYPERPARAMETERS, *WITH_LOSS])
def test_lightning_goes_on_as_from_the_file_itself(name: str, tmp_path: Path, out: Path) -> None:
    value = (HYPERPARAMETERS | WITH_LOSS)[name]
    path = trained(tmp_path, Net(extra=value), Remembers())
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        resumed(tmp_path, Net(extra=value), path, weights_only=True)
    if name in WITH_LOSS:
        with pytest.raises(CheckpointError, match=r"hyper_parameters\.extra.* \(.*: "):
            plain(path, out)
        assert not out.exists()
    found = plain(path, out, allow_loss=name in WITH_LOSS)
    assert found.complete == (name in HYPERPARAMETERS)
    assert inspect(out).safety.weights_only
    after = resumed(tmp_path, Net(extra=value), out, weights_only=True)
    assert same(after, resumed(tmp_path, Net(extra=value), path, weights_only=False))
    model = Net.load_from_checkpoint(out, weights_only=True)
    whole = torch.load(path, weights_only=False)
    assert same(model.state_dict(), whole["state_dict"])
    assert whole.keys() == torch.load(out, weights_only=True).keys()
    assert any(entry.path[:2] == ("hyper_parameters", "extra") for entry in found.replaced)


def test_numpy_in_the_optimizer_and_the_scheduler(tmp_path: Path, out: Path) -> None:
    path = trained(tmp_path, ByNumpy())
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = plain(path, out)
    assert {entry.path[0] for entry in found.replaced} == {"optimizer_states", "lr_schedulers"}
    assert same(
        resumed(tmp_path, ByNumpy(), out, weights_only=True), resumed(tmp_path, ByNumpy(), path, weights_only=False)
    )


def test_a_configuration_that_is_all_the_hyperparameters(tmp_path: Path, out: Path) -> None:
    path = trained(tmp_path, Configured(CONFIG))
    assert "hparams_type" in torch.load(path, weights_only=False)
    found = plain(path, out)
    lines = str(found).splitlines()
    assert any("hparams_type was a class, now omegaconf.dictconfig.DictConfig; Light" in line for line in lines)
    assert any("hyper_parameters.home was" in line and "not in the file" in line for line in lines)
    assert any("load_from_checkpoint gives your class these plain dicts" in line for line in lines)
    loaded = torch.load(out, weights_only=True)["hyper_parameters"]
    assert loaded == OmegaConf.to_container(CONFIG) | {"again": 0.01}
    assert loaded["layers"] == [600, 200]
    assert same(
        resumed(tmp_path, Configured(CONFIG), out, weights_only=True),
        resumed(tmp_path, Configured(CONFIG), path, weights_only=False),
    )
    for options in ({}, {"cfg": OmegaConf.create(loaded)}):
        model = Configured.load_from_checkpoint(out, weights_only=True, **options)
        assert model.hparams["layers"] == [600, 200]


class Data(lightning.LightningDataModule):
    """A data module that keeps a configuration of its own."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.save_hyperparameters(cfg)

    def train_dataloader(self) -> DataLoader[Any]:
        return batches()

    def state_dict(self) -> dict[str, Any]:
        return {"read": pathlib.PurePosixPath("/data"), "rows": np.int64(20)}


def test_a_data_module_with_a_configuration(tmp_path: Path, out: Path) -> None:
    running = trainer(tmp_path, 1)
    running.fit(Net(), datamodule=Data(CONFIG))
    running.save_checkpoint(tmp_path / "a.ckpt")
    assert "datamodule_hparams_type" in torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert plain(tmp_path / "a.ckpt", out).complete
    running = trainer(tmp_path, 2)
    running.fit(Net(), datamodule=Data(CONFIG), ckpt_path=out, weights_only=True)
    assert running.current_epoch == 2
    assert Data.load_from_checkpoint(out, weights_only=True).hparams["layers"] == [600, 200]


def test_the_file_that_the_learning_rate_finder_leaves_behind(tmp_path: Path, out: Path) -> None:
    """Lightning saves a file, tries rates, and cannot load its own file: the model stays where the search ended."""
    model = Net(extra=CONFIG.layers)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    running = trainer(tmp_path, 1)
    with pytest.raises(pickle.UnpicklingError, match="omegaconf"):
        Tuner(running).lr_find(model, batches(), num_training=5)
    (left,) = tmp_path.glob(".lr_find_*.ckpt")
    assert not same(model.state_dict(), before)
    assert "now [600, 200]" in str(plain(left, out))
    restored = Net.load_from_checkpoint(out, weights_only=True)
    assert same(restored.state_dict(), before)
    trainer(tmp_path, 1).fit(model, batches(), ckpt_path=out, weights_only=True)
    again = Net(extra=CONFIG.layers)
    trainer(tmp_path, 1).fit(again, batches(), ckpt_path=left, weights_only=False)
    assert same(model.state_dict(), again.state_dict())


def test_every_real_checkpoint_is_taken_afterwards_and_nothing_else_changed(zoo: dict[str, Path], out: Path) -> None:
    for name, path in zoo.items():
        found = plain(path, out, allow_loss=True)
        json.dumps(found.to_dict(), allow_nan=False)
        assert found.size == out.stat().st_size
        assert inspect(out).safety.weights_only, name
        torch.load(out, weights_only=True)
        before = {entry.name: entry.tensor for entry in inspect(path).tensors if name != "tensors"}
        after = {entry.name: entry.tensor for entry in inspect(out).tensors}
        assert before.keys() <= after.keys() or name in ("model object", "legacy"), name
        for key in before.keys() & after.keys():
            assert before[key].array().tobytes() == after[key].array().tobytes(), (name, key)


def test_a_file_that_is_plain_already(tmp_path: Path, out: Path) -> None:
    torch.save({"a": torch.ones(2), "b": [1, "x"]}, tmp_path / "a.pt")
    found = plain(tmp_path / "a.pt", out)
    assert found.replaced == []
    assert "plain already" in str(found)
    assert same(torch.load(out), torch.load(tmp_path / "a.pt"))


def test_what_cannot_be_made_plain_writes_nothing(tmp_path: Path, out: Path) -> None:
    from safetensors.torch import save_file

    torch.save({f"act{i}": nn.ReLU for i in range(30)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"30 values without a plain form.*--allow-loss") as raised:
        plain(tmp_path / "a.pt", out)
    assert "act0 (torch.nn.modules.activation.ReLU: of a class" in str(raised.value)
    assert "and 10 more" in str(raised.value)
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    torch.jit.script(nn.Linear(1, 1)).save(tmp_path / "script.pt")
    for path, why in (
        (tmp_path / "a.safetensors", "no pickle"),
        (tmp_path / "script.pt", "TorchScript"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(CheckpointError, match=why):
            plain(path, out)
    with pytest.raises(CheckpointError, match="not overwritten"):
        plain(tmp_path / "a.pt", tmp_path / "a.pt", allow_loss=True)
    assert not out.exists()


def test_a_damaged_file_is_refused(tmp_path: Path, out: Path) -> None:
    torch.save({"a": torch.ones(200)}, tmp_path / "a.pt")
    raw = bytearray((tmp_path / "a.pt").read_bytes())
    raw[raw.index(torch.ones(4).numpy().tobytes())] ^= 1
    with pytest.raises(CheckpointError, match="checksum"):
        plain(bytes(raw), out)
    assert not out.exists()


def test_hostile_files_come_out_harmless_or_not_at_all(out: Path) -> None:
    for _, body in calls():
        try:
            found = plain(checkpoint(body), out, allow_loss=True)
        except CheckpointError:
            continue
        assert isinstance(found, PlainCopy)
        assert inspect(out).safety.weights_only
        torch.load(out, weights_only=True)
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        plain(checkpoint(pickle_of(b"cposix\nsystem\n(", text("echo"), b"tR")), out)
    stream = io.BytesIO()
    with pytest.raises(CheckpointError):
        plain(checkpoint(pickle_of(b"cposix\nsystem\n")), stream)
    assert stream.getvalue() == b"", "not half a file on a stream either"
