"""Checkpoints that real programs write: Lightning with everything people put into it, PyTorch in all its formats."""

from __future__ import annotations

import argparse
import enum
import functools
import importlib
import logging
import pathlib
import sys
import warnings
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Colour(enum.Enum):
    RED = 1


@dataclass
class Settings:
    width: int = 4
    names: list[str] = field(default_factory=lambda: ["a", "b"])


Point = namedtuple("Point", "x y")


class Net(lightning.LightningModule):
    """A small network with a buffer, tied to nothing."""

    def __init__(self, lr: float = 0.01, extra: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss = self.body(batch[0]).square().mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.hparams.lr)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1e9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss"}}


class TwoOptimizers(Net):
    """Steps two optimizers by hand, as a GAN does."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, _: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.body(batch[0]).square().mean().backward()
            optimizer.step()

    def configure_optimizers(self) -> Any:
        first, last = self.body[0].parameters(), self.body[2].parameters()
        return [torch.optim.Adam(first, 0.01), torch.optim.SGD(last, 0.01, momentum=0.9)]


def run(folder: Path, name: str, model: lightning.LightningModule, **options: Any) -> Path:
    """Two epochs of training; the path of the checkpoint ModelCheckpoint left."""
    monitor = None if isinstance(model, TwoOptimizers) else "loss"
    saver = ModelCheckpoint(
        folder, name + "-{epoch:02d}", monitor, save_weights_only=options.pop("weights_only", False)
    )
    callbacks = [saver, *options.pop("callbacks", [])]
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=callbacks, **options,
    )  # fmt: skip
    torch.manual_seed(1)
    trainer.fit(model, DataLoader(TensorDataset(torch.randn(20, 8)), batch_size=8))
    return Path(saver.best_model_path)


def vanished(folder: Path) -> Path:
    """A checkpoint with objects of a module that cannot be imported any more."""
    (folder / "gone_project.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Config:\n    depth: int = 3\n    inner: object = None\n"
        "class Slots:\n    __slots__ = ('a',)\n"
    )
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("gone_project")
        slots = module.Slots()
        slots.a = 1
        path = folder / "vanished.ckpt"
        torch.save({"state_dict": {"w": torch.ones(2)}, "config": module.Config(inner=slots)}, path)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("gone_project", None)
        (folder / "gone_project.py").unlink()
    return path


def foreign_objects() -> dict[str, Any]:
    """What people save as hyperparameters."""
    return {
        "path": pathlib.PurePosixPath("/data/x"),
        "enum": Colour.RED,
        "float32": np.float32(0.5),
        "int64": np.int64(3),
        "array": np.arange(6.0).reshape(2, 3),
        "dataclass": Settings(),
        "namespace": argparse.Namespace(a=1, b=[1, 2]),
        "attributes": AttributeDict(a=1, b="x"),
        "partial": functools.partial(print, 1, end=""),
        "module": nn.Linear(2, 2),
        "named": Point(1, 2),
        "counter": Counter("aab"),
        "default": defaultdict(list, {"a": [1]}),
        "ordered": OrderedDict(a=1),
        "set": {1, "b"},
        "frozen": frozenset({1, 2}),
        "complex": 1 + 2j,
        "bytes": b"\x00\xff",
        "bytearray": bytearray(b"ab"),
        "big": 2**100,
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
        "tuple_key": {(1, "a"): 2, None: 3, 1.5: 4},
    }


def special_tensors() -> dict[str, Any]:
    """Every kind of tensor that `torch.save` knows."""
    base = torch.arange(24.0)
    tagged = torch.ones(2)
    tagged.note = "kept"  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
        channels = torch.quantize_per_channel(torch.randn(2, 3), torch.ones(2) / 8, torch.zeros(2), 0, torch.qint8)
        compressed = torch.eye(3).to_sparse_csr()
    plain = {
        str(dtype).removeprefix("torch."): torch.tensor([0, 1, 3]).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
                      torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16,
                      torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)
    }  # fmt: skip
    return plain | {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "transposed": base.reshape(4, 6).t(),
        "view": base[4:10:2],
        "same": base,
        "expanded": torch.ones(1).expand(5),
        "parameter": nn.Parameter(torch.ones(2)),
        "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        "sparse": torch.eye(3).to_sparse(),
        "csr": compressed,
        "quantised": quantised,
        "channels": channels,
        "meta": torch.empty(3, 4, device="meta"),
        "tagged": tagged,
        "conjugate": torch.tensor([1 + 2j]).conj(),
    }


def make_zoo(folder: Path) -> dict[str, Path]:
    """Name → path of a real checkpoint."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    linear = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    made: dict[str, Path] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made["lightning"] = run(folder, "adamw", Net(), callbacks=[EarlyStopping("loss")])
        made["hyperparameters"] = run(folder, "hp", Net(extra=foreign_objects()))
        made["weights only"] = run(folder, "wo", Net(), weights_only=True)
        made["two optimizers"] = run(folder, "two", TwoOptimizers())
        averaging = StochasticWeightAveraging(0.01, swa_epoch_start=1)
        made["weight averaging"] = run(folder, "swa", Net(), callbacks=[averaging])
        made["bf16"] = run(folder, "bf16", Net(), precision="bf16-true")
        made["omegaconf"] = _omegaconf(folder)

    def save(name: str, value: Any, **options: Any) -> None:
        made[name] = folder / f"{name}.pt"
        torch.save(value, made[name], **options)

    save("state dict", linear.state_dict())
    save("tensors", special_tensors())
    save("model object", linear)
    save("compiled", {"state_dict": torch.compile(linear).state_dict()})
    save("data parallel", nn.DataParallel(linear).state_dict())
    save("legacy", {"m": linear, "t": special_tensors()["transposed"]}, _use_new_zipfile_serialization=False)
    save("protocol 4", {"a": torch.ones(2), "b": {1, 2}}, pickle_protocol=4)
    save("protocol 5", {"a": torch.ones(2), "n": np.ones(3)}, pickle_protocol=5)
    save("amp", {"state_dict": linear.state_dict(), "MixedPrecision": {"scale": 65536.0, "growth_factor": 2.0}})
    made["vanished"] = vanished(folder)
    return made


def _omegaconf(folder: Path) -> Path:
    from omegaconf import OmegaConf

    return run(folder, "omega", Net(extra=OmegaConf.create({"hidden": [600, 200], "optim": {"lr": 0.1}})))
