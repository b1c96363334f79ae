"""History and Progress: what happened, as a table, and how far it is, on the screen."""

from __future__ import annotations

import io
import logging
import re
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pandas as pd
import pytest
from lightning.pytorch.callbacks import Callback

from mvae import InteractionsDataModule, fit
from mvae.callbacks import History


class Break(Callback):
    def on_train_epoch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("broken off")


# ---- History ---------------------------------------------------------------------------------------------------


def test_batches_that_share_a_step_share_a_row(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    result = fit(datamodule, tiny_model(), out=tmp_path, max_epochs=3, accumulate_grad_batches=3)
    assert result.history["step"].tolist() == [1, 2, 3]
    assert result.history["epoch"].tolist() == [0, 1, 2]
    assert result.history[["train_loss", "val_loss"]].notna().all().all()


def test_a_history_without_a_path_writes_nothing(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    history = History()
    fit(datamodule, tiny_model(), out=tmp_path, max_epochs=1, callbacks=[history])
    assert len(history.table) == 3
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".ckpt", ".csv"]


def test_a_sanity_check_before_training_is_no_epoch(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    history = History(tmp_path / "history.csv")
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_epochs=1, logger=False, callbacks=[history], num_sanity_val_steps=1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(tiny_model(), datamodule=datamodule)
    assert history.table["val_loss"].notna().tolist() == [False, False, True]


def test_an_empty_history_is_an_empty_table() -> None:
    pd.testing.assert_frame_equal(History().table, pd.DataFrame())


# ---- Progress --------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], io.StringIO]:
    """To be called in the test itself, because pytest sets ``sys.stderr`` anew between fixture and test."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    def open_screen() -> io.StringIO:
        screen = Screen()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "160")
        return screen

    return open_screen


def test_a_terminal_shows_the_epochs_loss_and_ndcg(
    datamodule: InteractionsDataModule,
    tiny_model: Callable,
    tmp_path: Path,
    terminal: Callable[[], io.StringIO],
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = terminal()
    result = fit(datamodule, tiny_model(), out=tmp_path, max_epochs=2)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    last = result.epochs.iloc[-1]
    assert "epoch 2/2" in shown
    assert f"loss {last['val_loss']:.4g} · NDCG@100 {last['val_ndcg@100']:.4g} · β 0.120 · lr 5.0e-02" in shown
    assert screen.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_its_cursor_back_when_a_run_breaks_off(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path, terminal: Callable[[], io.StringIO]
) -> None:
    screen = terminal()
    with pytest.raises(RuntimeError, match="broken off"):
        fit(datamodule, tiny_model(), out=tmp_path, max_epochs=3, callbacks=[Break()])
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1


def test_the_bar_can_be_turned_off(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path, terminal: Callable[[], io.StringIO]
) -> None:
    screen = terminal()
    fit(datamodule, tiny_model(), out=tmp_path, max_epochs=1, progress=False)
    assert screen.getvalue() == ""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Pretends to run in a notebook's kernel; gives what its one output has held, the newest last."""
    outputs: list[dict[str, str]] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            assert raw
            outputs.append(data)

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        outputs.append(data)
        return Handle()

    ipython, of_display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    of_display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    return outputs


def test_in_a_notebook_a_bar_moves_in_one_output_that_is_empty_in_the_end(
    datamodule: InteractionsDataModule,
    tiny_model: Callable,
    tmp_path: Path,
    notebook: list[dict[str, str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    fit(datamodule, tiny_model(), out=tmp_path, max_epochs=3)
    empty = {"text/plain": ""}
    assert notebook[0] == notebook[-1] == empty
    moving = notebook[1:-1]
    assert [re.search(r'value="(\d+)" max="(\d+)"', data["text/html"]).groups() for data in moving] == [
        ("1", "3"),
        ("2", "3"),
        ("3", "3"),
    ]
    assert all(data["text/plain"].startswith(f"epoch {i}/3 · loss ") for i, data in enumerate(moving, 1))
    assert capfd.readouterr() == ("", "")


def test_in_a_notebook_the_output_is_empty_after_an_error_too(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path, notebook: list[dict[str, str]]
) -> None:
    with pytest.raises(RuntimeError, match="broken off"):
        fit(datamodule, tiny_model(), out=tmp_path, max_epochs=3, callbacks=[Break()])
    assert len(notebook) == 3
    assert notebook[-1] == {"text/plain": ""}


def test_lightnings_logger_is_as_loud_as_before_afterwards(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    fit(datamodule, tiny_model(), out=tmp_path, max_epochs=1)
    assert logger.level == before != logging.WARNING
