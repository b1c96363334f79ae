"""What is said about going on is tried: Lightning resumes from the files, or does not."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mvae.checkpoint import inspect
from mvae.checkpoint.report.facts import Fact


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


class Net(L.LightningModule):
    def __init__(self, optimizer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.make = optimizer

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


class SaveAt(L.Callback):
    """Saves after one batch of an epoch, as `ModelCheckpoint(every_n_train_steps=…)` may."""

    def __init__(self, path: Path, epoch: int, batch: int) -> None:
        self.path, self.at = path, (epoch, batch)

    def on_train_batch_end(self, trainer: L.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            trainer.save_checkpoint(self.path)


def fit(model: Net, path: Path | None = None, epochs: int = 2, **options: Any) -> L.Trainer:
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **options,
    )  # fmt: skip
    data = DataLoader(TensorDataset(torch.ones(10, 2)), batch_size=2)
    trainer.fit(model, data, ckpt_path=path, weights_only=True)
    return trainer


def facts(path: Any) -> dict[str, Fact]:
    return {fact.name: fact for fact in inspect(path).facts}


def of(value: Any) -> dict[str, Fact]:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return facts(buffer.getvalue())


def test_an_optimizer_that_keeps_nothing_goes_on(tmp_path: Path) -> None:
    for name, make in {
        "SGD": lambda p: torch.optim.SGD(p, 0.01),
        "Adam": lambda p: torch.optim.Adam(p, 0.01),
    }.items():
        path = tmp_path / f"{name}.ckpt"
        trainer = fit(Net(make))
        trainer.save_checkpoint(path)
        value = torch.load(path, weights_only=True)
        value["optimizer_states"][0]["state"] = {}  # as before the first step
        torch.save(value, path)
        found = facts(path)
        assert found["optimizer"].value == [name]
        assert found["optimizer"].text == f"optimizer: {name}, by its settings; it keeps nothing for any parameter."
        assert found["resume"].value["resumable"]
        assert fit(Net(make), path, epochs=3).global_step == 15


def test_what_lightning_refuses_cannot_go_on(tmp_path: Path) -> None:
    def make(p: Any) -> Any:
        return torch.optim.SGD(p, 0.01)

    fit(Net(make)).save_checkpoint(tmp_path / "whole.ckpt")
    whole = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    for key, lacks in (("optimizer_states", "the optimizer's state"), ("lr_schedulers", "learning-rate schedulers")):
        torch.save({name: value for name, value in whole.items() if name != key}, tmp_path / "less.ckpt")
        found = facts(tmp_path / "less.ckpt")["resume"]
        assert not found.value["resumable"]
        assert lacks in found.text
        with pytest.raises(KeyError):
            fit(Net(make), tmp_path / "less.ckpt", epochs=3)


@pytest.mark.parametrize(("batch", "pending"), [(0, True), (1, False), (2, True), (4, False)])
def test_gradients_half_accumulated_are_named(tmp_path: Path, batch: int, pending: bool) -> None:
    path = tmp_path / "x.ckpt"
    saver = SaveAt(path, 1, batch)
    fit(Net(lambda p: torch.optim.SGD(p, 0.01)), callbacks=[saver], accumulate_grad_batches=2)
    text = facts(path)["resume"].text
    assert ("the gradients, of which some were accumulated" in text) == pending


def test_epochs_are_counted_whatever_the_moment(tmp_path: Path) -> None:
    """In an epoch, after its last batch, at its end, and after a run that `max_steps` ended within an epoch."""
    path = tmp_path / "x.ckpt"
    for batch, each in ((1, None), (4, 5)):
        fit(Net(lambda p: torch.optim.SGD(p, 0.01)), callbacks=[SaveAt(path, 1, batch)])
        found = facts(path)
        assert (found["steps_per_epoch"].value if "steps_per_epoch" in found else None) == each
    trainer = fit(Net(lambda p: torch.optim.SGD(p, 0.01)))
    trainer.save_checkpoint(path)
    assert facts(path)["steps_per_epoch"].text == "10 steps in 2 epochs: 5 steps an epoch."
    fit(Net(lambda p: torch.optim.SGD(p, 0.01)), max_steps=8).save_checkpoint(path)
    assert "steps_per_epoch" not in facts(path)
    fit(Net(lambda p: torch.optim.SGD(p, 0.01)), epochs=1, limit_train_batches=1).save_checkpoint(path)
    assert facts(path)["steps_per_epoch"].text == "1 step in 1 epoch: 1 step an epoch."
    assert facts(path)["training_examples"].text.startswith("1 batch an epoch: at batch size B, 1 to B training ex")


def test_without_loops_no_epoch_is_counted() -> None:
    value = {"epoch": 0, "global_step": 6, "pytorch-lightning_version": "2.6.6", "loops": {}, "optimizer_states": []}
    assert not {"steps_per_epoch", "training_examples"} & of(value).keys()


def test_nothing_is_exact_but_as_far_as_the_file_shows() -> None:
    batches = {"current": {"ready": 3}, "is_last_batch": False}
    loops: dict[str, Any] = {"fit_loop": {"epoch_loop.batch_progress": batches, "state_dict": {}}}
    states = [{"state": {}, "param_groups": [{"lr": 0.1}]}]
    value = {"loops": loops, "optimizer_states": states, "rng": torch.get_rng_state(), "callbacks": {}}
    assert "the data loader's position" in of(value)["resume"].text
    loops["fit_loop"]["state_dict"] = {"combined_loader": [{"position": 3}]}
    assert of(value)["resume"].text == "as far as the file shows, training can go on exactly where it stopped."
    batches["is_last_batch"] = True
    assert not of(value)["resume"].value["exactly"]
    assert "position was saved at an epoch's end" in of(value)["resume"].text
    loops["fit_loop"]["state_dict"] = {}
    assert "a generator of the data loader's own would not be in it" in of(value)["resume"].text


def test_every_kind_of_random_state_is_seen() -> None:
    states = {"optimizer_states": [], "loops": {}}
    for where in (
        {"rng_state": torch.ones(16, dtype=torch.uint8)},
        {"callbacks": {"X": {"generators": [(3, (1, 2))]}}},
    ):
        assert of(states | where)["random_state"].value, where
    assert not of(states | {"hyper_parameters": {"random_state": [1]}})["random_state"].value


def test_relatives_of_adam_are_not_called_adam() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    for make, before in ((torch.optim.Adam, "Adam"), (torch.optim.AdamW, "AdamW")):
        optimizer = make([weight])
        optimizer.step()
        state = optimizer.state_dict()
        assert of({"optimizer": state})["optimizer"].value == [before]
        state["param_groups"][0].pop("decoupled_weight_decay")  # as before torch 2.6
        assert of({"optimizer": state})["optimizer"].value == ["Adam or AdamW"]
    lamb = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "max_grad_norm": 1.0, "params": [0]}
    state = {"state": {0: {"exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}}, "param_groups": [lamb]}
    found = of({"optimizer": state})["optimizer"]
    assert found.value == ["optimizer"]
    assert found.text == "optimizer: none of PyTorch's own; it keeps exp_avg, exp_avg_sq for each parameter."
    more_for_some = {0: {"exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}, 1: {"exp_avg": torch.ones(2)}}
    value = {"loops": {}, "optimizer_states": [{"state": more_for_some, "param_groups": [lamb]}]}
    assert of(value)["resume"].value["resumable"], "what others keep is for them to know"


def test_an_optimizer_that_computes_its_loss_several_times_has_no_gradients_pending(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    fit(Net(lambda p: torch.optim.LBFGS(p)), callbacks=[SaveAt(path, 1, 1)])
    assert "gradients" not in facts(path)["resume"].text


def test_without_the_progress_of_the_loops_lightning_does_what_is_said(tmp_path: Path) -> None:
    def make(p: Any) -> Any:
        return torch.optim.SGD(p, 0.01)

    path = tmp_path / "x.ckpt"
    fit(Net(make)).save_checkpoint(path)
    value = torch.load(path, weights_only=True)
    torch.save(value | {"loops": {}}, path)
    assert "Lightning resumes only once `loops` is taken out" in facts(path)["resume"].text
    with pytest.raises(KeyError, match="fit_loop"):
        fit(Net(make), path, epochs=3)
    del value["loops"]
    torch.save(value, path)
    found = facts(path)["resume"]
    assert found.value["resumable"]
    assert "Lightning resumes, and counts from its first epoch" in found.text
    assert fit(Net(make), path, epochs=3).global_step == 15, "three epochs of five steps, begun anew"


def test_epochs_of_different_lengths_give_no_steps_per_epoch(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    fewer = L.pytorch.callbacks.GradientAccumulationScheduler({1: 5})
    fit(Net(lambda p: torch.optim.SGD(p, 0.01)), callbacks=[fewer]).save_checkpoint(path)
    assert torch.load(path, weights_only=True)["global_step"] == 6, "five in the first of two epochs, one in the second"
    assert "steps_per_epoch" not in facts(path)


def test_a_rate_that_differs_by_rounding_is_no_other_rate() -> None:
    group = {
        "lr": 0.1,
        "initial_lr": 0.1 + 1e-17 + 2e-16,
        "params": [0],
        "momentum": 0,
        "dampening": 0,
        "nesterov": False,
    }
    assert group["lr"] != group["initial_lr"]
    assert "learning_rate" not in of({"optimizer": {"state": {}, "param_groups": [group]}})


def test_an_optimizers_state_alone_is_named() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    for optimizer in (torch.optim.Adam([weight]), torch.optim.SGD([weight])):
        weight.grad = torch.ones(2)
        optimizer.step()
        found = of(optimizer.state_dict())
        assert found["optimizer"].value == [type(optimizer).__name__]
        assert "tensors" not in found, "what an optimizer keeps are no weights"


def test_what_lbfgs_remembers_is_one_entry_of_the_sum() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.LBFGS([weight])

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (weight * torch.tensor([1.0, 2.0])).pow(4).sum()
        value.backward()
        return value

    optimizer.step(loss)
    buffer = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict()}, buffer)
    assert {"LBFGS old_dirs", "LBFGS old_stps"} <= inspect(buffer.getvalue()).bytes.keys()
    assert not any(name.startswith("LBFGS 0") for name in inspect(buffer.getvalue()).bytes)


def test_a_score_that_was_checked_epochs_ago_has_not_just_improved(tmp_path: Path) -> None:
    class Validated(Net):
        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.layer(batch[0]).square().mean())

    saver = L.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}", monitor="val_loss", save_top_k=-1)
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        check_val_every_n_epoch=2, num_sanity_val_steps=0,
        callbacks=[L.pytorch.callbacks.EarlyStopping("val_loss"), saver],
    )  # fmt: skip
    data = DataLoader(TensorDataset(torch.ones(10, 2)), batch_size=2)
    trainer.fit(Validated(lambda p: torch.optim.SGD(p, 0.01)), data, data)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert "just improved" in facts(tmp_path / "epoch=1.ckpt")["early_stopping"].text
    assert facts(tmp_path / "end.ckpt")["early_stopping"].text.startswith("the monitored score had improved when it")


def test_the_number_of_examples_hangs_on_the_batch_size_and_the_rate_on_the_group(tmp_path: Path) -> None:
    def two_groups(parameters: Any) -> Any:
        weight, bias = parameters
        optimizer = torch.optim.SGD([{"params": [weight], "lr": 0.1}, {"params": [bias]}], 0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    path = tmp_path / "x.ckpt"
    fit(Net(two_groups)).save_checkpoint(path)
    torch.save(torch.load(path, weights_only=True) | {"hyper_parameters": {"batch_size": 64}}, path)  # it was 2
    found = facts(path)
    assert "if the loader had the batch size in hyper_parameters.batch_size" in found["training_examples"].text
    assert found["learning_rate"].text.endswith("halved twice (of the first of 2 parameter groups).")
