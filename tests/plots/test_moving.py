"""The pieces that move: the tables hold what is true, and a browser moves them with the keyboard."""

from __future__ import annotations

import math
import re
from html import unescape
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from mvae import plots
from mvae.moving import Moving

LOSSES = [81.2, 75.7, 74.0, 73.7, 73.0, 72.5, 73.3, 72.6]


def table(piece: Moving) -> list[list[str]]:
    """The rows of a piece's table, the head first."""
    rows = re.findall(r"<tr>(.*?)</tr>", piece._repr_html_(), re.DOTALL)
    return [[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_each_piece_is_small_and_always_the_same() -> None:
    for make in (
        lambda: plots.bit_flip(0.006),
        lambda: plots.kept_files_timeline(LOSSES),
        lambda: plots.beta_sliders({"one": (0.2, 20_000, 245)}, 436),
    ):
        page = make()._repr_html_()
        assert page == make()._repr_html_()
        assert len(page) < 60_000
        assert len(re.findall(r'class="mvae-moving mvae-(bit-flip|kept-files|beta)"', page)) == 1


@pytest.mark.parametrize("value", [0.006, -1.5, 1e-40, 3e38])
def test_a_flipped_bit_gives_what_numpy_gives(value: float) -> None:
    head, *rows = table(plots.bit_flip(value))
    assert head[:2] == ["bit", "part"]
    assert [row[0] for row in rows] == [str(bit) for bit in range(31, -1, -1)]
    assert [row[1] for row in rows] == ["sign"] + ["exponent"] * 8 + ["fraction"] * 23
    stored = np.frombuffer(np.array([value], "<f4").tobytes(), np.uint8)
    for bit, _, change, weight, _ in rows:
        flipped = stored.copy()
        flipped[int(bit) // 8] ^= 1 << int(bit) % 8
        assert change == f"byte {int(bit) // 8}: {stored[int(bit) // 8]:#04x} → {flipped[int(bit) // 8]:#04x}"
        assert weight.split(" → ")[1] == f"{flipped.view('<f4')[0].item():.7g}"


def test_the_highest_bit_of_the_exponent_is_a_factor_of_two_to_the_128() -> None:
    rows = {row[0]: row for row in table(plots.bit_flip(0.006))}
    assert float(rows["30"][4]) == pytest.approx(2.0**128, rel=1e-6)
    assert rows["31"][4] == "-1"
    assert {row[4] for row in table(plots.bit_flip(0.0))[1:]} == {"–"}
    assert "inf" in table(plots.bit_flip(1.0))[2][3]  # all bits of the exponent set


def test_too_large_for_a_float32() -> None:
    with pytest.raises(OverflowError):
        plots.bit_flip(1e39)


def files(cell: str) -> set[int]:
    """Epochs that have a file: those just written too, those just deleted not."""
    return {int(one) for one in cell.split() if one[0] not in "−–"}


@pytest.mark.parametrize("keep", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("losses", [LOSSES, [3.0, 3.0, 2.0, 2.0, 3.0]])
def test_the_files_are_those_that_lightning_leaves(losses: list[float], keep: int, tmp_path: Path) -> None:
    class Model(BoringModel):
        def on_validation_epoch_end(self) -> None:
            self.log("val_loss", torch.tensor(losses[self.current_epoch]))

    seen: list[set[int]] = []

    class Look(Callback):
        def on_train_epoch_start(self, *_: object) -> None:
            seen.append({int(path.stem.split("=")[1]) for path in tmp_path.glob("*.ckpt")})

        on_fit_end = on_train_epoch_start

    saver = ModelCheckpoint(tmp_path, "{epoch}", "val_loss", save_top_k=keep)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    short = {"max_epochs": len(losses), "limit_train_batches": 1, "limit_val_batches": 1, "accelerator": "cpu"}
    L.Trainer(callbacks=[Look(), saver], **short, **quiet).fit(Model())
    head, *rows = table(plots.kept_files_timeline(losses, keep=(keep,)))
    assert head == ["epoch", "val_loss", f"save_top_k={keep}"]
    assert [files(row[2]) for row in rows] == seen[1:]


def test_what_was_written_and_deleted_is_marked() -> None:
    rows = table(plots.kept_files_timeline(LOSSES, keep=(2,)))[1:]
    assert [row[2] for row in rows[:3]] == ["+0", "0 +1", "1 +2 −0"]


def test_beta_is_full_where_the_formula_says() -> None:
    settings = {"specimen": (0.2, 20_000, 245), "never": (1.0, 1000, 1)}
    piece = plots.beta_sliders(settings, 436)
    assert [row[5:] for row in table(piece)[1:]] == [["81", "0.200"], ["1,000", "0.436"]]
    points = re.findall(r'points="([^"]*)"', piece._repr_html_())
    assert points[0] == points[-1]  # the line that the sliders move starts at the first settings
    _, corner, _ = (tuple(map(float, point.split(","))) for point in points[0].split())
    assert math.isclose(corner[0], 40 + 580 * 20_000 / 245 / 436, abs_tol=0.1)
    assert math.isclose(corner[1], 170 - 150 * 0.2, abs_tol=0.1)
