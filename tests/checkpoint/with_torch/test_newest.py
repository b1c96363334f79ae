"""SaveNewest in fit(): killed at any moment, or ended by a signal, and resumed, a run ends as if nothing had happened.

The runs that are killed are processes of their own, forked from the test's, and the signals are real ones.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from mvae import FitResult, InteractionsDataModule, MultiVAE, fit, get_newest_checkpoint, synthetic
from mvae.checkpoint import CheckpointError, SaveNewest, TrainingStopped
from mvae.checkpoint.with_torch.newest import interval
from mvae.errors import CheckpointNotFoundError

if os.name == "nt":
    pytest.skip("Windows cannot fork, and has no signals to send", allow_module_level=True)

EPOCHS = 6  # of 4 steps each


class Net(MultiVAE):
    """The learning rate falls within a few epochs. Hyperparameters as MultiVAE."""

    def configure_optimizers(self) -> Any:
        chosen: Any = super().configure_optimizers()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(chosen["optimizer"], factor=0.5, patience=0)
        return chosen | {"lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


def train(out: Path, **options: Any) -> FitResult:
    data = InteractionsDataModule(synthetic(120, 40, interactions_per_user=8), batch_size=17)
    torch.manual_seed(0)
    model = Net(40, [8, 4], lr=0.05, kl_anneal_steps=20)
    return fit(data, model, **{"out": out, "max_epochs": EPOCHS, "progress": False, "save_every": "epoch"} | options)


def forked(work: Callable[[], object], log: Path) -> int:
    """Do some work in a process of its own; what it exited with, negative for the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(log, "w") as sys.stderr:
                work()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def final(out: Path) -> dict[str, Any]:
    """All that a run leaves, but for the time it was started, the folder it is in, and how often it was saved."""
    (newest,) = out.glob("newest-*.ckpt")
    checkpoint = torch.load(newest, weights_only=True)
    for key in ("started", "files"):  # files: also one that was about to be removed
        checkpoint["callbacks"]["SaveNewest"].pop(key)
    saver = next(state for key, state in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
    saver["best_k_models"] = {Path(path).name: score for path, score in saver["best_k_models"].items()}
    assert saver.pop("dirpath") == str(out)
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        saver[key] = Path(saver[key]).name
    (best,) = out.glob("multi-vae-*.ckpt")
    weights = torch.load(best, weights_only=True)["state_dict"]
    files = {path.name: path.read_text() for path in out.iterdir() if path.suffix != ".ckpt"}
    return {"newest": newest.name, "best": best.name, "weights": weights, "files": files} | checkpoint


def difference(one: Any, other: Any, where: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in difference(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [
            line for i, pair in enumerate(zip(one, other, strict=True)) for line in difference(*pair, f"{where}/{i}")
        ]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [f"{where}: {one!r} and {other!r}"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uninterrupted run leaves."""
    out = tmp_path_factory.mktemp("whole")
    train(out)
    found = final(out)
    assert found["global_step"] == 4 * EPOCHS
    assert len({line.split(",")[3] for line in found["files"]["history.csv"].splitlines()[1:]}) > 1  # the rate fell
    return found


class At(Callback):
    """Sends a signal to its own process in a hook, once a step has been reached."""

    def __init__(self, hook: str, step: int, signum: int) -> None:
        self.sent = False

        def send(trainer: Any, *_: Any) -> None:
            if trainer.global_step >= step and not self.sent:
                self.sent = True
                os.kill(os.getpid(), signum)
                time.sleep(0.01)  # a bytecode or two, for Python to call the handler

        setattr(self, hook, send)


MOMENTS = [
    ("on_train_batch_start", 5),
    ("on_before_backward", 6),  # inside a step
    ("on_before_optimizer_step", 7),
    ("on_train_batch_end", 8),  # after an epoch's last step, before its validation
    ("on_validation_batch_end", 8),
    ("on_validation_end", 12),
    ("on_train_epoch_end", 12),
    ("on_train_epoch_start", 16),
    ("on_save_checkpoint", 13),
    ("on_validation_start", 24),  # the last epoch
    ("on_train_end", 24),
]


@pytest.mark.parametrize(("hook", "step"), MOMENTS, ids=[f"{hook}-{step}" for hook, step in MOMENTS])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_run_that_a_signal_ends_goes_on_to_the_same_end(
    tmp_path: Path, whole: dict[str, Any], hook: str, step: int, signum: int
) -> None:
    code = forked(lambda: train(tmp_path, callbacks=[At(hook, step, signum)]), tmp_path.parent / "log")
    if signum == signal.SIGTERM:
        assert code == 143
        said = (tmp_path.parent / "log").read_text()
        newest = get_newest_checkpoint(tmp_path)
        assert f"the state is saved in {newest}. To go on: fit(…, out={str(tmp_path)!r}, resume=True)\n" in said
        at = torch.load(newest, weights_only=True)["global_step"]
        assert at == step + (
            hook in ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step")
        ) or hook in ("on_train_epoch_start", "on_save_checkpoint")
    else:
        assert code == -signal.SIGKILL
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "seed_everything was called with 7, and with 0")  # which is on purpose
        train(tmp_path, resume=True, seed=7)
    found = difference(final(tmp_path), whole)
    assert [what for what in found if not what.startswith("/callbacks/ExactResume/run/seed")] == []


class Dies(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyError


def test_nothing_is_warned_of_when_it_is_saved_and_when_it_is_resumed(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in (3, 9, 99):  # a saver of one's own runs before SaveNewest, and at the same step
            often = ModelCheckpoint(tmp_path, "mine", every_n_train_steps=2, enable_version_counter=False)
            with pytest.raises(KeyError) if step < 4 * EPOCHS else nullcontext():
                train(tmp_path, resume=True, save_every=2, callbacks=[Dies(step), often])


def test_ctrl_c_saves_and_exits_with_130(tmp_path: Path, whole: dict[str, Any]) -> None:
    stop = At("on_before_backward", 6, signal.SIGINT)
    log = tmp_path.parent / "log"
    assert forked(lambda: train(tmp_path, callbacks=[stop]), log) == 130
    assert log.read_text().startswith("Stopped by Ctrl-C after step 7; the state is saved in ")
    train(tmp_path, resume=True)
    assert difference(final(tmp_path), whole) == []


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    class Twice(At):
        def on_before_optimizer_step(self, *_: Any) -> None:
            if self.sent:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)

    stop = Twice("on_before_backward", 6, signal.SIGINT)
    assert forked(lambda: train(tmp_path, callbacks=[stop]), tmp_path.parent / "log") == 130
    assert torch.load(get_newest_checkpoint(tmp_path), weights_only=True)["global_step"] == 4


def test_the_state_is_saved_though_nothing_but_the_best_was_asked_for(tmp_path: Path, whole: dict[str, Any]) -> None:
    stop = At("on_before_backward", 6, signal.SIGTERM)
    with pytest.raises(TrainingStopped) as stopped:  # in this process: a program can catch it
        train(tmp_path, callbacks=[stop], save_every=None)
    assert (stopped.value.code, stopped.value.checkpoint.name) == (143, "newest-epoch=01-step=7.ckpt")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(tmp_path, resume=stopped.value.checkpoint)
    assert difference(final(tmp_path), whole) == []


def test_gradients_are_never_saved_half_accumulated(tmp_path: Path) -> None:
    options = {"accumulate_grad_batches": 3, "save_every": 1}
    train(tmp_path / "whole", **options)
    stop = At("on_train_batch_start", 3, signal.SIGTERM)
    with pytest.raises(TrainingStopped):
        train(tmp_path / "again", callbacks=[stop], **options)
    train(tmp_path / "again", resume=True, **options)
    assert difference(final(tmp_path / "again"), final(tmp_path / "whole")) == []


# ---- what is saved, and when -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "steps"),
    [("epoch", [4, 8, 12, 16, 20, 24]), (5, [5, 10, 15, 20, 24]), (timedelta(hours=1), [24]), ("1 h", [24])],
)
def test_the_newest_state_is_saved_at_the_interval_and_at_the_end(tmp_path: Path, every: Any, steps: list[int]) -> None:
    train(tmp_path, callbacks=[SaveNewest(tmp_path, every, keep=99)])
    found = [torch.load(path, weights_only=True)["global_step"] for path in tmp_path.glob("newest-*.ckpt")]
    assert sorted(found) == steps
    assert sorted(path.name for path in tmp_path.glob("newest-*.ckpt"))[-1] == "newest-epoch=05-step=24.ckpt"


def test_a_time_is_measured_from_the_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class TenSeconds(Callback):
        """What every step takes, by the clock that SaveNewest looks at."""

        def on_train_batch_start(self, *_: Any) -> None:
            clock.now += 10

    clock = SimpleNamespace(now=0.0, time=time.time, monotonic=lambda: clock.now)
    monkeypatch.setattr("mvae.checkpoint.with_torch.newest.time", clock)
    train(tmp_path, max_epochs=2, callbacks=[TenSeconds(), SaveNewest(tmp_path, "25 s", keep=99)])
    assert sorted(int(path.stem.rpartition("=")[2]) for path in tmp_path.glob("newest-*")) == [3, 6, 8]


def test_only_so_many_of_the_newest_stay(tmp_path: Path) -> None:
    train(tmp_path, callbacks=[SaveNewest(tmp_path, "epoch", keep=2)])
    assert sorted(path.name for path in tmp_path.glob("newest-*")) == [
        "newest-epoch=04-step=20.ckpt",
        "newest-epoch=05-step=24.ckpt",
    ]


def test_files_that_a_killed_run_had_no_time_to_remove_go_later(tmp_path: Path) -> None:
    class Killed(SaveNewest):
        def state_dict(self) -> dict[str, Any]:
            if len(self.files) == 2:
                saved.append(self.files[0])
            return super().state_dict()

    saved: list[str] = []
    train(tmp_path, callbacks=[Killed(tmp_path, "epoch")])
    assert len(set(saved)) == EPOCHS - 1  # the old file is in the list of the new one, in case it is still there
    (newest,) = tmp_path.glob("newest-*")
    for name in set(saved):
        (tmp_path / name).write_bytes(newest.read_bytes())
    stale = torch.load(newest, weights_only=True)["callbacks"]["SaveNewest"]["files"][0]
    train(tmp_path, max_epochs=EPOCHS + 1, resume=newest)
    assert not (tmp_path / stale).exists()


def test_options_are_in_every_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, callbacks=[SaveNewest(tmp_path, "epoch", options={"data": "a.csv", "seed": 3})])
    for path in tmp_path.glob("*.ckpt"):
        state = torch.load(path, weights_only=True)["callbacks"]["SaveNewest"]
        assert state["options"] == {"data": "a.csv", "seed": 3}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("epoch", "epoch"),
        (7, 7),
        ("7", 7),
        ("10 min", timedelta(minutes=10)),
        ("90s", timedelta(seconds=90)),
        ("1.5 h", timedelta(hours=1.5)),
        (timedelta(seconds=1), timedelta(seconds=1)),
    ],
)
def test_an_interval_in_words(given: Any, meant: Any) -> None:
    assert interval(given) == meant


@pytest.mark.parametrize("given", ["", "often", 0, -1, "0", "0 min", timedelta(0), "10 parsecs", 1.5, None])
def test_what_is_no_interval_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"is no interval to save at\. Expected"):
        interval(given)


# ---- resuming --------------------------------------------------------------------------------------------------


def test_resume_true_starts_where_there_is_nothing_yet(tmp_path: Path, whole: dict[str, Any]) -> None:
    train(tmp_path, resume=True, save_every=None)  # and the newest state is saved every minute, and at the end
    assert difference(final(tmp_path), whole) == []


def test_a_finished_run_is_not_trained_again_and_goes_on_with_more_epochs(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    first = train(tmp_path, max_epochs=3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = train(tmp_path, max_epochs=3, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert again.checkpoint == first.checkpoint
    assert again.history.equals(first.history)
    train(tmp_path, resume=True)
    assert difference(final(tmp_path), whole) == []


def test_a_run_that_early_stopping_ended_is_finished(tmp_path: Path) -> None:
    options = {"patience": 2, "max_epochs": 40}
    first = train(tmp_path, **options)
    assert len(first.epochs) < 40
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.ckpt")}
    again = train(tmp_path, resume=True, **options | {"max_epochs": 50})
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.ckpt")} == before
    assert again.history.equals(first.history)


def stopped(out: Path, step: int = 13) -> Path:
    with pytest.raises(TrainingStopped) as ended:
        train(out, callbacks=[At("on_before_backward", step, signal.SIGTERM)])
    return ended.value.checkpoint


def test_a_torn_newest_file_costs_an_interval_and_is_named(tmp_path: Path, whole: dict[str, Any]) -> None:
    newest = stopped(tmp_path)
    os.truncate(newest, newest.stat().st_size // 2)
    with pytest.warns(UserWarning, match=f"{newest.name} is passed over"):
        train(tmp_path, resume=True)
    newest.unlink()
    assert difference(final(tmp_path), whole) == []


def test_a_damaged_file_that_is_asked_for_is_refused(tmp_path: Path) -> None:
    newest = stopped(tmp_path)
    values = torch.load(newest, weights_only=True)["state_dict"]["mu.weight"].numpy().tobytes()
    content = newest.read_bytes()
    newest.write_bytes(content.replace(values, values[:-1] + bytes([values[-1] ^ 1]), 1))
    with pytest.raises(CheckpointError, match="cannot be resumed from: it is damaged"):
        train(tmp_path, resume=newest)


def test_weights_alone_that_are_asked_for_are_refused(tmp_path: Path) -> None:
    checkpoint = torch.load(stopped(tmp_path), weights_only=True)
    torch.save({key: checkpoint[key] for key in ("state_dict", "global_step")}, tmp_path / "weights.ckpt")
    with pytest.raises(CheckpointError, match="cannot be resumed from: it holds weights and no state of a training"):
        train(tmp_path, resume=tmp_path / "weights.ckpt")


def test_another_folder_and_one_that_was_moved(tmp_path: Path, whole: dict[str, Any]) -> None:
    stopped(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(tmp_path / "there", resume=tmp_path / "there")
    assert result.checkpoint.parent == tmp_path / "there"
    assert difference(final(tmp_path / "there"), whole) == []


def test_the_best_file_that_is_gone_is_named(tmp_path: Path) -> None:
    newest = stopped(tmp_path)
    (best,) = tmp_path.glob("multi-vae-*")
    best.unlink()
    with pytest.warns(UserWarning, match=f"{best.name} is not in .*: the best from here on is kept"):
        result = train(tmp_path, resume=newest)
    assert result.checkpoint.exists()


def test_a_foreign_run_in_the_folder_is_passed_over_and_named(tmp_path: Path, whole: dict[str, Any]) -> None:
    newest = stopped(tmp_path)
    foreign = torch.load(newest, weights_only=True)
    foreign["global_step"] = 999
    foreign["state_dict"]["head.weight"] = torch.zeros(1)
    torch.save(foreign, tmp_path / "foreign.ckpt")
    with pytest.warns(UserWarning, match=r"foreign\.ckpt is passed over: .*only one of the two has head\.weight"):
        train(tmp_path, resume=True)
    (tmp_path / "foreign.ckpt").unlink()
    assert difference(final(tmp_path), whole) == []


def test_only_foreign_files_are_an_error(tmp_path: Path) -> None:
    torch.save({"global_step": 1, "loops": {}, "optimizer_states": []}, tmp_path / "foreign.ckpt")
    before = sorted(tmp_path.iterdir())
    with (
        pytest.warns(UserWarning, match="is passed over"),
        pytest.raises(CheckpointNotFoundError, match=r"foreign\.ckpt is passed over: it was not trained with a data"),
    ):
        train(tmp_path, resume=True)
    assert sorted(tmp_path.iterdir()) == before


def test_a_history_with_a_hole_is_said(tmp_path: Path) -> None:
    newest = stopped(tmp_path)
    lines = (tmp_path / "history.csv").read_text().splitlines(keepends=True)
    (tmp_path / "history.csv").write_text("".join([lines[0], *lines[4:]]))
    with pytest.warns(UserWarning, match=r"history\.csv has no row for 3 of the 14 steps so far"):
        train(tmp_path, resume=newest)


def test_a_history_that_is_none_is_refused(tmp_path: Path) -> None:
    newest = stopped(tmp_path)
    (tmp_path / "history.csv").write_text("step,epoch\n1,zero\n")
    with pytest.raises(ValueError, match=r"history\.csv is not the history of a run"):
        train(tmp_path, resume=newest)


def test_other_savers_are_seen_by_it(tmp_path: Path) -> None:
    """Their state is in the newest checkpoint as it is after they saved."""
    saver = ModelCheckpoint(tmp_path / "all", "{step}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True)
    train(tmp_path, max_epochs=2, callbacks=[saver])
    state = torch.load(get_newest_checkpoint(tmp_path), weights_only=True)["callbacks"][saver.state_key]
    assert Path(state["best_model_path"]).name == "step=8.ckpt"
