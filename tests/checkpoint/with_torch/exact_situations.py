"""Other people's ways to train, in small."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from exact_loaders import PERSISTENT, Endless, Noisy, combined, csr, loader, rows_of
from exact_runs import Net, Situation
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader


class Plateau(Net):
    """ReduceLROnPlateau, as it is told."""

    config: ClassVar[dict[str, Any]] = {}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler} | self.config}


def plateau(**told: Any) -> type[Plateau]:
    return type("Plateau", (Plateau,), {"config": told})


class OneCycle(Net):
    """Asks for the number of steps, which builds the loaders before Lightning resumes."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": OneCycleLR(optimizer, 0.1, total_steps=steps), "interval": "step"}]


class TwoOptimizers(Net):
    """Manual optimisation: one steps with every batch, one with every second, and gradients are kept in between."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        loss = super().training_step(batch, batch_idx)
        every, second = self.optimizers()  # type: ignore[misc]
        self.manual_backward(loss)
        every.step()
        every.zero_grad()
        if (batch_idx + 1) % 2 == 0:
            second.step()
            second.zero_grad()
            self.lr_schedulers().step()  # type: ignore[union-attr]

    def configure_optimizers(self) -> Any:
        every = torch.optim.Adam(self.body.parameters(), lr=0.05)
        second = torch.optim.SGD(self.head.parameters(), lr=0.05, momentum=0.9)
        return [every, second], [torch.optim.lr_scheduler.StepLR(every, 2, 0.9)]


class Target(Net):
    """A target network that follows the weights in the module's own hook, after the callbacks have saved."""

    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Linear(6, 1).requires_grad_(False)

    def on_train_batch_end(self, *_: Any) -> None:
        self.target.weight.lerp_(self.head.weight.detach(), 0.3)


class TwoParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(rows))


class Finetuned(Net):
    """A backbone that a callback unfreezes, which adds its parameters to the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = TwoParts()
        self.body = nn.Sequential(nn.Dropout(0.3))

    def loss(self, batch: Any) -> torch.Tensor:
        return (self.head(self.body(self.backbone(batch))) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(filter(lambda parameter: parameter.requires_grad, self.parameters()), lr=0.05)


class TakesBatchesItself(Net):
    """``training_step(dataloader_iter)``: an experimental way of Lightning's."""

    def training_step(self, dataloader_iter: Any) -> torch.Tensor:  # type: ignore[override]
        batch, _, _ = next(dataloader_iter)
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=4)
        return loss


class TwoValidations(Net):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)


class EMA(WeightAveraging):
    def __init__(self) -> None:
        super().__init__(avg_fn=lambda old, new, _: 0.7 * old + 0.3 * new)


def scaled() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3))


def on(metric: str, **options: Any) -> Any:
    return lambda: [EarlyStopping(metric, **{"patience": 50} | options)]


SITUATIONS: dict[str, Situation] = {
    "max_steps": Situation(loader, options={"max_steps": 15, "max_epochs": -1}),
    "max_steps, IterableDataset": Situation(lambda: loader(Endless()), options={"max_steps": 15, "max_epochs": -1}),
    "max_steps, CSRLoader": Situation(csr, options={"max_steps": 15, "max_epochs": -1}),
    "accumulate 4": Situation(loader, options={"accumulate_grad_batches": 4}),
    "accumulate 4, CSRLoader": Situation(csr, options={"accumulate_grad_batches": 4}),
    "accumulation that changes": Situation(loader, callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 3})]),
    "limit_train_batches 4": Situation(loader, options={"limit_train_batches": 4}),
    "limit_train_batches 4, CSRLoader": Situation(csr, options={"limit_train_batches": 4}),
    "limit_train_batches 4, IterableDataset": Situation(lambda: loader(Endless()), options={"limit_train_batches": 4}),
    "limit_train_batches 0.5": Situation(loader, options={"limit_train_batches": 0.5}),
    "limit_train_batches 0.5, max_size_cycle": Situation(
        combined("max_size_cycle", lambda rows: loader(Noisy(rows))), options={"limit_train_batches": 0.5}
    ),
    "overfit_batches": Situation(loader, options={"overfit_batches": 3}),
    "val_check_interval 2": Situation(loader, options={"val_check_interval": 2}),
    "val_check_interval 0.5": Situation(csr, options={"val_check_interval": 0.5}),
    "val_check_interval 4, across epochs": Situation(
        loader, options={"val_check_interval": 4, "check_val_every_n_epoch": None}
    ),
    "val_check_interval 4, IterableDataset": Situation(
        lambda: loader(Endless()), options={"val_check_interval": 4, "check_val_every_n_epoch": None}
    ),
    "check_val_every_n_epoch": Situation(loader, options={"check_val_every_n_epoch": 2}),
    "no validation": Situation(loader, options={"limit_val_batches": 0}),
    "reload every epoch": Situation(loader, options={"reload_dataloaders_every_n_epochs": 1}),
    "reload every second epoch": Situation(csr, options={"reload_dataloaders_every_n_epochs": 2}),
    "ReduceLROnPlateau": Situation(loader, plateau(monitor="val_loss")),
    "ReduceLROnPlateau, frequency 2": Situation(loader, plateau(monitor="train_loss_epoch", frequency=2)),
    "ReduceLROnPlateau by step": Situation(loader, plateau(monitor="train_loss_step", interval="step", frequency=2)),
    "ReduceLROnPlateau by step, CSRLoader": Situation(csr, plateau(monitor="train_loss_step", interval="step")),
    "estimated_stepping_batches": Situation(loader, OneCycle),
    "estimated_stepping_batches, CSRLoader": Situation(csr, OneCycle),
    "manual, two optimizers": Situation(loader, TwoOptimizers),
    "manual, two optimizers, CSRLoader": Situation(csr, TwoOptimizers),
    "EMA by a callback": Situation(loader, callbacks=lambda: [EMA()]),
    "SWA": Situation(
        loader, callbacks=lambda: [StochasticWeightAveraging(0.01, swa_epoch_start=1, annealing_epochs=1)]
    ),
    "BackboneFinetuning": Situation(
        loader, Finetuned, callbacks=lambda: [BackboneFinetuning(1, backbone_initial_lr=0.01)]
    ),
    "GradScaler": Situation(loader, plugins=lambda: [scaled()]),
    "64-true": Situation(loader, options={"precision": "64-true"}),
    "bf16-mixed": Situation(loader, options={"precision": "bf16-mixed"}),
    "EarlyStopping on a training mean": Situation(
        loader, options={"max_epochs": 9}, callbacks=on("train_loss_epoch", patience=1, min_delta=0.3)
    ),
    "EarlyStopping on a validation": Situation(
        csr, options={"max_epochs": 9, "val_check_interval": 3}, callbacks=on("val_loss", patience=2, min_delta=0.2)
    ),
    "a target network in the module's hook": Situation(loader, Target),
    "dataloader_iter": Situation(loader, TakesBatchesItself),
    "persistent workers for validation": Situation(
        loader, validation=lambda: DataLoader(rows_of(6), batch_size=3, **PERSISTENT)
    ),
    "random persistent workers for validation": Situation(
        loader, options={"num_sanity_val_steps": 0}, validation=lambda: DataLoader(Noisy(6), batch_size=3, **PERSISTENT)
    ),
    "a generator for validation": Situation(
        loader,
        validation=lambda: loader(Noisy(6), generator=torch.Generator().manual_seed(1)),
    ),
    "two validation loaders": Situation(csr, TwoValidations, validation=lambda: [loader(Noisy(6)), loader(Noisy(4))]),
    "gradient clipping, deterministic": Situation(loader, options={"gradient_clip_val": 0.1, "deterministic": True}),
}
