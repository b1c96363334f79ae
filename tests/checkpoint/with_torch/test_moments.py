"""Saves at any moment: by an exception, Ctrl-C, SIGTERM, from any hook; and runs that are stopped and go on."""

from __future__ import annotations

import warnings
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from exact_loaders import CountsPasses, Endless, csr, loader
from exact_runs import ENDED_IN, Crash, Net, Run, SaveAt, Situation, all_differences, differences
from exact_situations import OneCycle
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint

from mvae.checkpoint import ExactResume
from mvae.errors import CheckpointError


class DiesIn(Callback):
    """Raises in a hook, so many times after it was first called."""

    def __init__(self, hook: str, number: int, error: type[BaseException] = Crash) -> None:
        self.hook, self.left, self.error = hook, number, error

        def die(trainer: L.Trainer, *_: Any, **__: Any) -> None:
            if not trainer.sanity_checking:
                self.left -= 1
                if self.left < 0:
                    raise self.error

        setattr(self, hook, die)


class KeepsOnException(OnExceptionCheckpoint):
    """Lightning's own, which removes its file when the Trainer is torn down."""

    def teardown(self, *_: Any, **__: Any) -> None: ...


def died_and_resumed(situation: Situation, folder: Path, death: Callback) -> tuple[Run, list[str], list[str]]:
    """The resumed run, what was said when it was saved, and when it was resumed."""
    said: list[list[str]] = []
    keeping = Situation(
        situation.loader, situation.net, situation.options, lambda: [*situation.callbacks(), KeepsOnException(folder)]
    )
    for resume in (None, folder / "on_exception.ckpt"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with suppress(SystemExit, KeyboardInterrupt):  # how Lightning ends after Ctrl-C
                dying = resume is None
                run = Run(keeping if dying else situation, SaveAt(None, None), resume, death if dying else None)
        said.append([str(warning.message) for warning in caught])
    return run, said[0], said[1]


EXACT = {
    "in a validation step": ("on_validation_batch_start", 3),
    "as a validation starts": ("on_validation_start", 1),
    "as a validation ends": ("on_validation_epoch_end", 1),
    "between the epochs": ("on_train_epoch_end", 1),
}
NAMED = {
    "as a batch starts": ("on_train_batch_start", 8),
    "before the backward pass": ("on_before_backward", 8),
    "before the optimizer's step": ("on_before_optimizer_step", 8),
    "as an epoch starts": ("on_train_epoch_start", 1),
}


@pytest.mark.parametrize("make", [loader, csr, lambda: loader(Endless())], ids=["DataLoader", "CSRLoader", "stream"])
@pytest.mark.parametrize("error", [Crash, KeyboardInterrupt])
@pytest.mark.parametrize("place", EXACT)
def test_what_an_exception_saves_in_a_validation_or_at_an_epochs_end_is_exact(
    tmp_path: Path, place: str, make: Any, error: type[BaseException]
) -> None:
    situation = Situation(make)
    resumed, *said = died_and_resumed(situation, tmp_path, DiesIn(*EXACT[place], error))
    assert all_differences(Run(situation, SaveAt(None, None)), resumed) == []
    assert not any("exactly" in message for messages in said for message in messages)


@pytest.mark.parametrize("place", NAMED)
def test_what_an_exception_saves_inside_a_step_is_said_to_be_inexact_twice(tmp_path: Path, place: str) -> None:
    resumed, as_saved, as_resumed = died_and_resumed(Situation(loader), tmp_path, DiesIn(*NAMED[place]))
    assert any("from which a run does not resume exactly: it is saved" in message for message in as_saved)
    assert any("The run does not resume exactly: it is saved" in message for message in as_resumed)
    assert resumed.state["global_step"] == 18, "and yet no batch and no epoch is left out"


class Terminated(Callback):
    """What Lightning does on SIGTERM: it notes it, and ends after the batch."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 8:
            trainer._signal_connector.received_sigterm = True


@pytest.mark.parametrize("make", [loader, csr, lambda: loader(Endless())], ids=["DataLoader", "CSRLoader", "stream"])
def test_what_a_sigterm_saves_is_exact(tmp_path: Path, make: Any) -> None:
    situation = Situation(make)
    resumed, _, _ = died_and_resumed(situation, tmp_path, Terminated())
    whole = Run(situation, SaveAt(None, None))
    assert all_differences(whole, resumed) == []
    assert len(resumed.seen) < len(whole.seen)


class FromHook(Callback):
    """Somebody's own callback that saves from a hook of its choice, before other callbacks' hooks have run."""

    def __init__(self, hook: str, folder: Path) -> None:
        self.folder, self.number = folder, 0

        def save(trainer: L.Trainer, *_: Any, **__: Any) -> None:
            if not trainer.sanity_checking:
                self.number += 1
                if self.number == 2:
                    trainer.save_checkpoint(self.folder / "newest.ckpt")

        if hook == "on_train_epoch_end":
            self.__class__ = type("AtEpochEnd", (FromHook,), {hook: lambda self, *a: save(*a)})
        else:
            self.__class__ = type("AtValidationEnd", (FromHook,), {hook: lambda self, *a: save(*a)})


class Ended(Net):
    """Counts in its own hooks, which Lightning runs between the callbacks that save and those that look at metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ended", torch.zeros(2))

    def on_train_epoch_end(self) -> None:
        self.ended[0] += 1

    def on_validation_end(self) -> None:
        self.ended[1] += 1


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_validation_end"])
def test_hooks_that_would_have_run_after_the_save_are_run_on_resume(tmp_path: Path, hook: str) -> None:
    def callbacks() -> list[Any]:
        return [FromHook(hook, tmp_path), EarlyStopping("val_loss", patience=40)]

    situation = Situation(loader, Ended, callbacks=callbacks)
    whole = Run(situation, SaveAt(None, None))
    resumed = Run(Situation(loader, Ended, callbacks=callbacks), SaveAt(None, None), tmp_path / "newest.ckpt")
    ended = [{key: run.state[key] for key in ENDED_IN if key in run.state} for run in (whole, resumed)]
    assert list(differences(*ended)) == []


def test_of_two_model_checkpoints_the_second_one_loses_nothing(tmp_path: Path) -> None:
    def callbacks(folder: Path) -> list[Any]:
        best = ModelCheckpoint(
            folder / "best", "{step}", monitor="val_loss", save_top_k=2, enable_version_counter=False
        )
        return [ModelCheckpoint(folder / "all", "{step}", save_top_k=-1, enable_version_counter=False), best]

    whole = Run(Situation(loader, callbacks=lambda: callbacks(tmp_path / "whole")), SaveAt(None, None))
    file = tmp_path / "whole" / "all" / "step=12.ckpt"
    resumed = Run(Situation(loader, callbacks=lambda: callbacks(tmp_path / "whole")), SaveAt(None, None), file)
    for run in (whole, resumed):
        for state in run.state["callbacks"].values():
            state.pop("last_model_path", None)
    assert all_differences(whole, resumed) == []


def test_a_file_saved_by_such_a_hook_resumes_exactly_too(tmp_path: Path) -> None:
    def callbacks(folder: Path) -> list[Any]:
        second = ModelCheckpoint(folder / "second", "{step}", monitor="train_loss", save_top_k=-1)
        return [
            ModelCheckpoint(folder / "first", "{step}", save_top_k=-1, every_n_epochs=1, monitor="val_loss"),
            second,
        ]

    situation = Situation(csr, callbacks=lambda: callbacks(tmp_path / "whole"), options={"val_check_interval": 3})
    whole = Run(situation, SaveAt(None, None))
    again = Situation(csr, callbacks=lambda: callbacks(tmp_path / "again"), options={"val_check_interval": 3})
    Run(again, SaveAt(None, None), tmp_path / "whole" / "first" / "step=9.ckpt")
    resumed = Run(again, SaveAt(None, None), tmp_path / "again" / "second" / "step=9.ckpt")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "metrics"):
        assert list(differences(whole.state[part], resumed.state[part])) == [], part
    assert resumed.seen == whole.seen[-len(resumed.seen) :]


INTERVALS: dict[str, dict[str, Any]] = {
    "steps": {"every_n_train_steps": 4},
    "time": {"train_time_interval": timedelta(microseconds=1)},  # so after each step
}


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}], ids=["", "accumulating"])
@pytest.mark.parametrize("make", [loader, csr, lambda: loader(Endless())], ids=["DataLoader", "CSRLoader", "stream"])
@pytest.mark.parametrize("interval", INTERVALS)
def test_every_file_that_is_saved_at_an_interval_resumes_exactly(
    tmp_path: Path, interval: str, make: Any, options: dict[str, Any]
) -> None:
    def saver() -> list[Any]:
        every = INTERVALS[interval]
        return [ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, enable_version_counter=False, **every)]

    situation = Situation(make, options=options, callbacks=saver)
    whole = Run(situation, Checkpoint())
    files = sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    assert len(files) == {"steps": 4, "time": 18}[interval] // options.get("accumulate_grad_batches", 1)
    for file in files[:: 1 if interval == "steps" else 3]:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*exact.*")
            resumed = Run(situation, Checkpoint(), file)
        assert all_differences(whole, resumed) == [], file.name


# --- stopped, and resumed to go on


@pytest.mark.parametrize("make", [loader, csr, lambda: loader(Endless()), CountsPasses])
def test_ended_by_max_steps_within_an_epoch_it_goes_on_with_the_rest_of_it(tmp_path: Path, make: Any) -> None:
    whole = Run(Situation(make, options={"max_steps": 18, "max_epochs": -1}), SaveAt(None, None))
    for place in (("batch", 9), ("epoch", 2)):
        Run(Situation(make, options={"max_steps": 9, "max_epochs": -1}), SaveAt(place, tmp_path))
        longer = Situation(make, options={"max_steps": 18, "max_epochs": -1})
        resumed = Run(longer, SaveAt(None, None), tmp_path / "newest.ckpt")
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            assert list(differences(whole.state[part], resumed.state[part])) == [], (place, part)
        assert resumed.seen == whole.seen[-len(resumed.seen) :]


@pytest.mark.parametrize("make", [loader, csr, CountsPasses])
def test_saved_when_the_fit_has_ended_it_goes_on(tmp_path: Path, make: Any) -> None:
    whole = Run(Situation(make), SaveAt(None, None))
    for name, value in (("max_epochs", 2), ("max_steps", 9)):
        Run(Situation(make, options={name: value}), SaveAt(None, None)).trainer.save_checkpoint(tmp_path / name)
        resumed = Run(Situation(make), SaveAt(None, None), tmp_path / name)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            assert list(differences(whole.state[part], resumed.state[part])) == [], (name, part)


def stopping(patience: int) -> Situation:
    callbacks = lambda: [EarlyStopping("train_loss_epoch", patience=patience, min_delta=0.5)]  # noqa: E731
    return Situation(loader, options={"max_epochs": 12}, callbacks=callbacks)


def test_stopped_early_and_resumed_with_more_patience_it_trains_as_if_it_had_been_so_patient(tmp_path: Path) -> None:
    stopped = Run(stopping(1), SaveAt(("epoch", 2), tmp_path))
    stopped.trainer.save_checkpoint(tmp_path / "end.ckpt")
    whole = Run(stopping(4), SaveAt(None, None))
    assert stopped.state["global_step"] < whole.state["global_step"]
    for file in ("newest.ckpt", "end.ckpt"):
        resumed = Run(stopping(4), SaveAt(None, None), tmp_path / file)
        assert list(differences(whole.state["state_dict"], resumed.state["state_dict"])) == []


def test_stopped_by_max_time_and_resumed_with_more_it_trains_on(tmp_path: Path) -> None:
    class Late(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 8:
                next(callback for callback in trainer.callbacks if type(callback).__name__ == "Timer")._offset = 1e6

    short = Situation(loader, callbacks=lambda: [Late()], options={"max_time": {"hours": 1}})
    Run(short, SaveAt(None, None)).trainer.save_checkpoint(tmp_path / "end.ckpt")
    longer = Situation(loader, options={"max_time": {"days": 1000}})
    resumed = Run(longer, SaveAt(None, None), tmp_path / "end.ckpt")
    assert resumed.state["global_step"] == 18


def test_a_file_without_a_generator_is_resumed_and_it_is_said(tmp_path: Path) -> None:
    Run(Situation(loader), SaveAt(("epoch", 1), tmp_path))
    file = tmp_path / "newest.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    del checkpoint["callbacks"]["ExactResume"]["generators"][0]["torch"]
    torch.save(checkpoint, file)
    with pytest.warns(UserWarning, match=r"no state of the generators \['torch'\]"):
        resumed = Run(Situation(loader), SaveAt(None, None), file)
    assert resumed.state["global_step"] == 18


def test_the_validation_loop_counts_as_in_the_uninterrupted_run(tmp_path: Path) -> None:
    situation = Situation(csr, options={"val_check_interval": 3})
    whole = Run(situation, SaveAt(("batch", 9), tmp_path))
    resumed = Run(situation, SaveAt(None, None), tmp_path / "newest.ckpt")
    loops = [run.trainer.fit_loop.state_dict() for run in (whole, resumed)]
    name = "epoch_loop.val_loop.batch_progress"
    assert loops[0][name] == loops[1][name]


def test_asking_for_the_number_of_steps_begins_one_pass_and_no_more(tmp_path: Path) -> None:
    begun: list[int] = []

    class Counted(CountsPasses):
        def __iter__(self) -> Any:
            begun.append(self.next)
            return super().__iter__()

    situation = Situation(Counted, OneCycle)
    Run(situation, SaveAt(("batch", 9), tmp_path))
    begun.clear()
    Run(situation, SaveAt(None, None), tmp_path / "newest.ckpt")
    # Lightning looks whether it can be iterated; then one pass is taken up after its third batch, and one begun.
    assert begun == [0, 3, 6]


# --- what differs is named before the first step


@pytest.mark.parametrize("make", [loader, csr])
def test_other_batches_within_an_epoch_are_refused(tmp_path: Path, make: Any) -> None:
    Run(Situation(make), SaveAt(("batch", 8), tmp_path))

    def larger() -> Any:
        made = make()
        return loader(batch_size=8) if make is loader else type(made)(*made.matrices, batch_size=8, shuffle=True)

    with pytest.raises(CheckpointError, match=r"batch_size': 8.* and was .*batch_size': 4"):
        Run(Situation(larger), SaveAt(None, None), tmp_path / "newest.ckpt")


def test_other_batches_at_an_epochs_end_are_named(tmp_path: Path) -> None:
    Run(Situation(loader), SaveAt(("epoch", 2), tmp_path))
    with pytest.warns(UserWarning, match=r"batch_size': 8.* and was .*batch_size': 4"):
        Run(Situation(lambda: loader(batch_size=8)), SaveAt(None, None), tmp_path / "newest.ckpt")


def test_replaying_can_be_refused_or_left_out(tmp_path: Path) -> None:
    situation = Situation(lambda: loader(Endless()))
    Run(situation, SaveAt(("batch", 8), tmp_path))
    with pytest.raises(CheckpointError, match=r"draw its batches again, and mid_epoch is 'refuse'"):
        Run(situation, SaveAt(None, None), tmp_path / "newest.ckpt", exact=ExactResume("refuse"))
    with pytest.warns(UserWarning, match="resumed within an epoch, approximately"):
        Run(situation, SaveAt(None, None), tmp_path / "newest.ckpt", exact=ExactResume("approximate"))
    plain = Situation(loader)
    Run(plain, SaveAt(("batch", 8), tmp_path))
    resumed = Run(plain, SaveAt(None, None), tmp_path / "newest.ckpt", exact=ExactResume("refuse"))
    assert all_differences(Run(plain, SaveAt(None, None)), resumed) == [], (
        "a DataLoader without workers needs no replay"
    )
    with pytest.raises(ValueError, match="expected 'refuse', 'replay' or 'approximate'"):
        ExactResume("later")  # type: ignore[arg-type]


def test_how_long_a_replay_took_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("mvae.checkpoint.with_torch.loader_position.rank_zero_info", said.append)
    situation = Situation(lambda: loader(Endless()))
    Run(situation, SaveAt(("batch", 8), tmp_path))
    Run(situation, SaveAt(None, None), tmp_path / "newest.ckpt")
    assert [message.partition(" in ")[0] for message in said] == ["ExactResume drew 2 batches again"]
