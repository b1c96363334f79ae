"""Every figure says what it shows (title, axes, units) and draws the numbers it was given, no others."""

from __future__ import annotations

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from mvae import plots

STEPS, EPOCHS = 5, 12


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def history() -> pd.DataFrame:
    """Twelve epochs of five steps: lowest val_loss in epoch 7, lr halved in epochs 4 and 9, β full at step 40."""
    step = np.arange(1, STEPS * EPOCHS + 1)
    epoch = (step - 1) // STEPS
    ends = step % STEPS == 0
    table = pd.DataFrame({"step": step, "epoch": epoch})
    table["beta"] = 0.2 * np.minimum(1, (step - 1) / 40)
    table["lr"] = 1e-3 / 2.0 ** ((epoch >= 4).astype(int) + (epoch >= 9))
    table["train_nll"] = 400 / np.sqrt(step)
    table["train_kl"] = 30 + 10 * np.sin(step)
    table["train_loss"] = table["train_nll"] + table["beta"] * table["train_kl"]
    table["val_loss"] = np.where(ends, 60 + np.abs(epoch - 7), np.nan)
    table["val_ndcg@100"] = np.where(ends, 0.4 + 0.01 * epoch, np.nan)
    return table


@pytest.fixture
def epochs(history) -> pd.DataFrame:
    return history.dropna(subset=["val_loss"]).reset_index(drop=True)


def line(figure: Figure, label: str = "", axes: int = 0):
    """The line with this label, or else the first one: what was drawn, as (x, y)."""
    lines = figure.axes[axes].get_lines()
    found = next((one for one in lines if one.get_label() == label), lines[0])
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def texts(figure: Figure) -> str:
    """Everything that can be read in the figure."""
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def test_all_figures_have_a_title_and_labelled_axes(history, epochs):
    figures = [
        plots.rating_counts(pd.Series([1.0, 4.0, 5.0])),
        plots.long_tail(np.arange(30)),
        plots.normal_samples(np.zeros(10), 0.0, 1.0),
        plots.kl_annealing(history),
        plots.beta_by_epoch({"one": (0.2, 100, 5)}, 10),
        plots.lr_decay(epochs),
        plots.losses(history),
        plots.kl_price(history),
        plots.ranking(epochs),
    ]
    for figure in figures:
        for ax in figure.axes:
            assert ax.get_title(loc="left")
            assert ax.get_xlabel()
            assert ax.get_ylabel()


def test_rating_counts():
    figure = plots.rating_counts(pd.Series([5.0, 4.0, 4.0, 2.0]), threshold=4)
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == [1, 2, 1]
    assert [bool(bar.get_hatch()) for bar in bars] == [True, False, False]  # readable without colour


def test_long_tail_ranks_the_films_and_says_what_a_tenth_of_them_gets():
    figure = plots.long_tail(np.array([1, 70] + [0] * 3 + [5] * 5))
    rank, likes = line(figure)
    assert rank.tolist() == list(range(1, 11))
    assert likes.tolist() == [70, 5, 5, 5, 5, 5, 1, 0, 0, 0]
    assert f"{70 / 96:.0%}" in figure.axes[0].get_title(loc="left")


def test_normal_samples_draws_the_density():
    figure = plots.normal_samples(np.random.default_rng(0).normal(2, 3, 1000), 2.0, 3.0)
    z, density = line(figure)
    assert density.sum() * (z[1] - z[0]) == pytest.approx(1, abs=1e-3)
    assert density.max() == pytest.approx(1 / (3 * math.sqrt(2 * math.pi)), rel=1e-3)


def test_gaussian_kl_is_what_torch_says():
    figure = plots.gaussian_kl()
    assert all(ax.get_title(loc="left") and ax.get_xlabel() for ax in figure.axes)
    standard = torch.distributions.Normal(0.0, 1.0)
    mu, by_mu = line(figure, axes=0)
    sigma, by_sigma = line(figure, axes=1)
    moved = torch.distributions.Normal(torch.tensor(mu), torch.ones(len(mu), dtype=torch.float64))
    widened = torch.distributions.Normal(torch.zeros(len(sigma), dtype=torch.float64), torch.tensor(sigma))
    kl = torch.distributions.kl_divergence
    np.testing.assert_allclose(by_mu, kl(moved, standard), atol=1e-12)
    np.testing.assert_allclose(by_sigma, kl(widened, standard), atol=1e-12)


def test_tensor_sizes():
    figure = plots.tensor_sizes({"a": torch.zeros(30, 10), "b": torch.zeros(20), "c": torch.zeros(600)})
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([300e-6, 20e-6, 600e-6])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert figure.axes[0].get_title(loc="left") == f"Two of 3 tensors hold {900 / 920:.0%} of the numbers"
    assert "600" in texts(figure)


def test_kl_annealing(history):
    figure = plots.kl_annealing(history, best_step=40)
    x, y = line(figure)
    assert x.tolist() == history["step"].tolist()
    assert y.tolist() == history["beta"].tolist()
    assert "then stays" in figure.axes[0].get_title(loc="left")
    assert "step 40" in texts(figure)


def test_kl_annealing_does_not_say_that_beta_is_full_when_it_is_not(history):
    assert "stays" not in plots.kl_annealing(history.head(20)).axes[0].get_title(loc="left")


def test_beta_by_epoch():
    figure = plots.beta_by_epoch({"few steps": (0.2, 20_000, 5), "many": (0.2, 20_000, 245)}, epochs=436)
    x, few = line(figure, "few steps")
    _, many = line(figure, "many")
    assert x.tolist() == list(range(436))
    assert few[-1] == pytest.approx(0.2 * 435 * 5 / 20_000)
    assert np.argmax(many == 0.2) == 82  # epoch 81 is the one in which it becomes full
    assert len({one.get_linestyle() for one in figure.axes[0].get_lines()}) == 2


def test_lr_decay_marks_each_halving(epochs):
    figure = plots.lr_decay(epochs)
    x, y = line(figure)
    assert x.tolist() == epochs["epoch"].tolist()
    assert y.tolist() == epochs["lr"].tolist()
    marks = [one for one in figure.axes[0].get_lines() if one.get_marker() == "v"]
    assert [float(one.get_xdata()[0]) for one in marks] == [4, 9]
    assert "halved twice" in figure.axes[0].get_title(loc="left")
    assert "epoch 4" in texts(figure)


@pytest.mark.parametrize(
    ("first", "title"),
    [(4, "never halved"), (5, "halved once"), (12, "halved twice")],
)
def test_lr_decay_counts_the_halvings(epochs, first, title):
    assert title in plots.lr_decay(epochs.head(first)).axes[0].get_title(loc="left")


def test_losses(history, epochs):
    figure = plots.losses(history)
    by_epoch = history.groupby("epoch").mean()
    np.testing.assert_allclose(line(figure, "loss = NLL + β·KL")[1], by_epoch["train_loss"])
    np.testing.assert_allclose(line(figure, "NLL alone")[1], by_epoch["train_nll"])
    x, y = line(figure, "validation loss", axes=1)
    assert x.tolist() == epochs["epoch"].tolist()
    assert y.tolist() == epochs["val_loss"].tolist()
    assert "best: epoch 7" in texts(figure)


def test_kl_price(history):
    figure = plots.kl_price(history)
    cost = (history["train_loss"] - history["train_nll"]).groupby(history["epoch"]).mean()
    np.testing.assert_allclose(line(figure, "KL")[1], history.groupby("epoch")["train_kl"].mean())
    np.testing.assert_allclose(line(figure, "β·KL, what it adds to the loss")[1], cost)


def test_ranking_marks_the_epoch_that_is_kept(epochs):
    figure = plots.ranking(epochs)
    x, y = line(figure)
    assert x.tolist() == epochs["epoch"].tolist()
    assert y.tolist() == epochs["val_ndcg@100"].tolist()
    assert "epoch 7" in texts(figure)
    assert figure.axes[0].get_ylabel() == "NDCG@100 (0 to 1)"


def test_next_item_draws_the_metric_and_the_level_of_popularity(epochs) -> None:
    epochs["val_ndcg@10"] = 0.01 * epochs["epoch"]
    figure = plots.next_item(epochs, baseline=0.04)
    assert line(figure, "BERT4Rec")[1].tolist() == epochs["val_ndcg@10"].tolist()
    assert set(line(figure, "Popularity")[1]) == {0.04}
    assert "NDCG@10" in figure.axes[0].get_ylabel()


def test_tensors_side_by_side_marks_those_of_the_items_and_folds_the_small_ones() -> None:
    one = {"items": torch.zeros(80, 1), "net": torch.zeros(19), "a": torch.zeros(1), "b": torch.zeros(0)}
    two = {"only": torch.zeros(50), "bias": torch.zeros(50)}
    figure = plots.tensors_side_by_side({"One": (one, {"items"}), "Two": (two, [])})
    left, right = figure.axes
    assert [round(bar.get_width(), 4) for bar in left.patches] == [0.8, 0.19, 0.01, 0.0]
    assert [bool(bar.get_hatch()) for bar in left.patches] == [True, False, False, False]
    assert [bar.get_width() for bar in right.patches] == [0.5, 0.5]
    assert len(right.patches) == 2
    assert "One: 80% belongs to items" in texts(figure)
    assert "Two: 0% belongs to items" in texts(figure)


def test_a_figure_is_shown_with_its_alternative_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    figure = plots.gaussian_kl()
    plots.show(figure, 'two "steep" curves')
    [data] = shown
    assert data["text/html"].startswith('<img alt="two &quot;steep&quot; curves" src="data:image/png;base64,iVBOR')
    assert data["text/plain"] == '[figure: two "steep" curves]'
    assert not plt.fignum_exists(figure.number)
