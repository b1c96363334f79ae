"""The figures of the lessons: one function, one figure. Each docstring says what to see.

Every figure can be read in grey: what differs in colour differs in line style or marker too. Numbers come from
`History`, as `fit` returns them: `result.history` has one row a step,
`result.epochs` one row an epoch. matplotlib is needed for this module only (`pip install mvae[teach]`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

INK, ACCENT, PALE = "#1f3b57", "#c4561d", "#9fb3c5"
BEST: dict[str, Any] = {"color": ACCENT, "linestyle": ":", "linewidth": 1.5}
_STYLES: list[dict[str, Any]] = [
    {"color": color, "linestyle": line}
    for color, line in ((INK, "-"), (ACCENT, "--"), ("#4d7c59", "-."), ("#7a5c8e", ":"))
]


def rating_counts(ratings: pd.Series, threshold: float = 4.0) -> Figure:
    """How often each number of stars was given; the bars that the threshold keeps are dark, the others hatched."""
    counts = ratings.value_counts().sort_index()
    figure, ax = _figure(f"Ratings of {threshold:g} stars or more are kept", "stars", "ratings", height=2.8)
    for stars, count in counts.items():
        kept = stars >= threshold
        ax.bar(stars, count, width=0.8, color=INK if kept else "white", edgecolor=INK, hatch="" if kept else "///")
        ax.annotate(f"{count:,}", (stars, count), ha="center", va="bottom")
    ax.set_xticks(counts.index)
    ax.margins(y=0.15)
    return figure


def long_tail(likes: np.ndarray) -> Figure:
    """How many people like each film, the most liked first: a short steep head, then a long tail near zero.

    Args:
        likes: [items], how many people like each.
    """
    ranked = np.sort(np.asarray(likes))[::-1]
    head = math.ceil(len(ranked) / 10)
    figure, ax = _figure(
        f"A tenth of the films gets {ranked[:head].sum() / ranked.sum():.0%} of the likes",
        "film, by rank (1 = liked by most people)",
        "people who like it",
    )
    rank = np.arange(1, len(ranked) + 1)
    ax.fill_between(rank[:head], ranked[:head], color=PALE, label=f"the first {head:,} films")
    ax.plot(rank, ranked, color=INK)
    ax.set_ylim(bottom=0)
    return _with_legend(figure)


def normal_samples(samples: np.ndarray, mean: float, std: float) -> Figure:
    """A histogram of samples under the bell curve that they should follow."""
    figure, ax = _figure("The samples follow the bell that μ and σ ask for", "z", "density", height=2.8)
    ax.hist(samples, bins=60, density=True, color=PALE, label=f"{len(samples):,} samples")
    z = np.linspace(mean - 4 * std, mean + 4 * std, 200)
    density = np.exp(-0.5 * ((z - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    ax.plot(z, density, color=INK, label=f"N({mean:g}, {std:g}²)")
    return _with_legend(figure)


def gaussian_kl() -> Figure:
    """The KL term of one latent number: zero at μ = 0, σ = 1, and growing with every step away from there."""
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8), sharey=True, layout="constrained")
    mu, sigma = np.linspace(-3, 3, 121), np.linspace(0.05, 3, 119)
    _label(axes[0], "Moving the mean costs …", "μ, with σ = 1", "KL (nats)")
    axes[0].plot(mu, 0.5 * mu**2, color=INK)
    axes[0].plot(0, 0, "o", color=ACCENT)
    _label(axes[1], "… and so does another width", "σ, with μ = 0", "")
    axes[1].plot(sigma, 0.5 * (sigma**2 - 1 - np.log(sigma**2)), color=INK)
    axes[1].plot(1, 0, "o", color=ACCENT)
    return figure


def tensor_sizes(state_dict: Mapping[str, Tensor]) -> Figure:
    """How many numbers each tensor of a state dict holds: the first and the last matrix dwarf the others."""
    names, sizes = list(state_dict), [tensor.numel() for tensor in state_dict.values()]
    largest = sorted(sizes, reverse=True)[:2]
    figure, ax = _figure(
        f"Two of {len(sizes)} tensors hold {sum(largest) / sum(sizes):.0%} of the numbers",
        "numbers in the tensor (millions)",
        "",
        height=3.6,
    )
    bars = ax.barh(names, [size / 1e6 for size in sizes], color=[INK if s in largest else PALE for s in sizes])
    ax.bar_label(bars, [f" {size:,}" for size in sizes])
    ax.invert_yaxis()
    ax.margins(x=0.18)
    return figure


def kl_annealing(history: pd.DataFrame, best_step: int | None = None) -> Figure:
    """β at every optimizer step: a straight line up, then flat once it is full (if the run lasts that long)."""
    beta = history["beta"].to_numpy()
    then = ", then stays" if len(beta) > 1 and beta[-1] == beta[-2] else ""
    figure, ax = _figure(f"β grows by the same amount every step{then}", "optimizer step", "β", height=2.8)
    ax.plot(history["step"], history["beta"], color=INK)
    ax.set_ylim(bottom=0)
    if best_step is None:
        return figure
    ax.axvline(best_step, **BEST, label=f"best epoch ends (step {best_step})")
    return _with_legend(figure, "upper left")


def beta_by_epoch(schedules: Mapping[str, tuple[float, int, int]], epochs: int) -> Figure:
    """β against the epoch for several runs: the same number of steps is many epochs where an epoch has few steps.

    Args:
        schedules: label → (`kl_max_weight`, `kl_anneal_steps`, steps in an epoch).
        epochs: how far to draw.
    """
    figure, ax = _figure("The same steps, but how many epochs?", "epoch", "β")
    epoch = np.arange(epochs)
    for (label, (most, anneal, steps)), style in zip(schedules.items(), _STYLES, strict=False):
        ax.plot(epoch, most * np.minimum(1, epoch * steps / anneal), label=label, **style)
    ax.set_ylim(bottom=0)
    return _with_legend(figure)


def lr_decay(epochs: pd.DataFrame) -> Figure:
    """The learning rate of every epoch, each halving marked: level, then down by half, and level again."""
    lr, epoch = epochs["lr"].to_numpy(), epochs["epoch"].to_numpy()
    drops = np.flatnonzero(np.diff(lr) < 0) + 1
    times = {0: "is never", 1: "is halved once", 2: "is halved twice"}.get(len(drops), f"is halved {len(drops)} times")
    title = f"The learning rate {times}" + (" halved" if not len(drops) else "")
    figure, ax = _figure(title, "epoch", "learning rate (log scale)")
    ax.step(epoch, lr, where="post", color=INK)
    for drop in drops:
        ax.axvline(epoch[drop], color=PALE, linewidth=1, zorder=0)
        ax.plot(epoch[drop], lr[drop], "v", color=ACCENT, markersize=8)
        text = f"epoch {epoch[drop]}"
        ax.annotate(text, (epoch[drop], lr[drop]), (-6, -2), textcoords="offset points", ha="right", va="top")
    _halvings(ax, sorted(set(lr), reverse=True))
    ax.margins(y=0.15)
    return figure


def losses(history: pd.DataFrame) -> Figure:
    """Training loss and validation loss, each on its own scale, against the epoch.

    Left: the training loss, the mean over an epoch's steps, and the NLL inside it; the gap between them is β·KL.
    Right: the validation loss of the films held out, with the best epoch marked; it stops falling while the NLL of
    training goes on.
    """
    per_epoch = history.groupby("epoch")[["train_loss", "train_nll"]].mean()
    validation = history.dropna(subset=["val_loss"]).set_index("epoch")["val_loss"]
    best = int(validation.idxmin())
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    _label(left, "Training: NLL, and β·KL on top", "epoch", "nats per user, all films")
    left.plot(per_epoch["train_loss"], color=INK, label="loss = NLL + β·KL")
    left.plot(per_epoch["train_nll"], color=ACCENT, linestyle="--", label="NLL alone")
    _label(right, "Validation: falls, then stays", "epoch", "nats per user, held-out films")
    right.plot(validation, color=INK, label="validation loss")
    right.axvline(best, **BEST)
    right.plot(best, validation[best], "o", color=ACCENT, label=f"best: epoch {best}")
    return _with_legend(figure)


def kl_price(history: pd.DataFrame) -> Figure:
    """KL and β·KL against the epoch: KL is large while β is near zero, and shrinks once it has a price."""
    kl = history["train_kl"].groupby(history["epoch"]).mean()
    cost = (history["beta"] * history["train_kl"]).groupby(history["epoch"]).mean()
    figure, ax = _figure("KL shrinks when β gives it a price", "epoch", "nats per user")
    ax.plot(kl, color=INK, label="KL")
    ax.plot(cost, color=ACCENT, linestyle="--", label="β·KL, what it adds to the loss")
    ax.set_ylim(bottom=0)
    return _with_legend(figure)


def ranking(epochs: pd.DataFrame) -> Figure:
    """NDCG@100 in validation against the epoch, with the epoch whose checkpoint is kept (lowest `val_loss`) marked."""
    best = epochs.loc[epochs["val_loss"].idxmin()]
    kept = f"lowest validation loss: epoch {best['epoch']:.0f}"
    figure, ax = _figure("NDCG@100 climbs fast, then levels off", "epoch", "NDCG@100 (0 to 1)")
    ax.plot(epochs["epoch"], epochs["val_ndcg@100"], color=INK)
    ax.axvline(best["epoch"], **BEST)
    ax.plot(best["epoch"], best["val_ndcg@100"], "o", color=ACCENT, label=kept)
    return _with_legend(figure, "lower right")


def next_item(epochs: pd.DataFrame, baseline: float) -> Figure:
    """NDCG@10 of the next item against the epoch, and Popularity's as a level line: below it at first, then above.

    Args:
        epochs: `result.epochs` of BERT4Rec.
        baseline: Popularity's value.
    """
    figure, ax = _figure("NDCG@10 of the film that came next", "epoch", "NDCG@10, validation (0 to 1)")
    ax.plot(epochs["epoch"], epochs["val_ndcg@10"], "o-", color=INK, label="BERT4Rec")
    ax.axhline(baseline, color=ACCENT, linestyle="--", label="Popularity")
    ax.set_ylim(bottom=0)
    return _with_legend(figure, "lower right")


def tensors_side_by_side(models: Mapping[str, tuple[Mapping[str, Tensor], Collection[str]]]) -> Figure:
    """The share of a model's numbers that each tensor holds, one panel a model; tensors of the items are orange.

    Tensors of less than 1 % share the last bar.

    Args:
        models: name → (state dict, the names of the tensors that have something for each item).
    """
    figure, axes = plt.subplots(1, len(models), figsize=(10, 3.4), sharex=True, layout="constrained")
    for ax, (name, (state_dict, of_items)) in zip(axes, models.items(), strict=True):
        sizes = {key: tensor.numel() for key, tensor in state_dict.items()}
        total = sum(sizes.values())
        bars = {key: size / total for key, size in sizes.items() if size >= 0.01 * total}
        small = {key for key in sizes if key not in bars}
        if small:
            bars[f"{len(small)} others"] = sum(sizes[key] for key in small) / total
        share = sum(sizes[key] for key in of_items) / total
        _label(ax, f"{name}: {share:.0%} belongs to items", "share of the numbers", "")
        drawn = ax.barh(list(bars), list(bars.values()))
        for bar, key in zip(drawn, bars, strict=True):
            of_item = key in of_items
            bar.set(facecolor=ACCENT if of_item else PALE, edgecolor=INK, hatch="///" if of_item else "")
        ax.bar_label(drawn, [f" {share:.1%}" for share in bars.values()])
        ax.invert_yaxis()
        ax.xaxis.set_major_formatter("{x:.0%}")
        ax.margins(x=0.2)
    return figure


def spans_in_a_file(spans: Sequence[tuple[int, str]], title: str) -> Figure:
    """Two bars: a file from its first byte to its last, and whose the bytes are, added up. Small parts are left out.

    Args:
        spans: (bytes, whose they are), in the order of the file. The three largest owners are drawn.
        title: what the bars show.
    """
    added = Counter[str]()
    for length, whose in spans:
        added[whose] += length
    total = added.total()
    looks = zip(added.most_common(3), ((INK, ""), (PALE, "//"), ("white", "..")), strict=False)
    styles: dict[str, dict[str, Any]] = {
        whose: {"facecolor": color, "hatch": hatch} for (whose, _), (color, hatch) in looks
    }
    figure, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
    _label(ax, title, "position in the file (MB)", "")
    for row, parts in enumerate((spans, [(length, whose) for whose, length in added.most_common()])):
        at = 0
        for length, whose in parts:
            if whose in styles and length > total / 1000:  # what is smaller cannot be seen
                ax.barh(row, length / 1e6, 0.6, at / 1e6, edgecolor="black", linewidth=0.5, **styles[whose])
            at += length
    handles = [Rectangle((0, 0), 1, 1, edgecolor="black", **style) for style in styles.values()]
    figure.legend(handles, list(styles), loc="outside lower center", ncols=3, frameon=False)
    ax.set(yticks=[0, 1], yticklabels=["in the file's order", "added up"], xlim=(0, 1.01 * total / 1e6))
    ax.invert_yaxis()
    return figure


def show(figure: Figure, alt: str) -> None:
    """Show a figure with an alternative text, and be done with it.

    It is shown as HTML: of a picture, JupyterLab passes on no alternative text.
    """
    from IPython.core.pylabtools import print_figure
    from IPython.display import display

    picture = print_figure(figure, fmt="png", base64=True)
    image = f'<img alt="{escape(alt)}" src="data:image/png;base64,{picture.strip()}">'
    display({"text/html": image, "text/plain": f"[figure: {alt}]"}, raw=True)
    plt.close(figure)


def users_by_batch_size(sizes: np.ndarray, most: np.ndarray, guess: int) -> Figure:
    """Users against batch size at a fixed number of batches: a straight line on log scales, one guess marked.

    Args:
        sizes: [n], users in a batch.
        most: [n], users in an epoch if every batch is full.
        guess: the batch size to mark.
    """
    figure, ax = _figure("Every batch size tells another number of users", "users in a batch", "training users")
    ax.plot(sizes, most, "o-", color=INK)
    at = int(np.flatnonzero(sizes == guess)[0])
    ax.plot(guess, most[at], "o", color=ACCENT, markersize=11, fillstyle="none", markeredgewidth=2)
    ax.annotate(f"{guess}: up to {most[at]:,}", (guess, most[at]), (12, -4), textcoords="offset points", va="top")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    return figure


def cuts(stories: Mapping[str, tuple[float, int]], start: float) -> Figure:
    """The learning rate after each cut, for several stories that end at the same rate.

    Args:
        stories: label → (factor, how often).
        start: the rate before the first cut.
    """
    figure, ax = _figure("Two stories, one end", "cut number", "learning rate (log scale)", height=2.8)
    for (label, (factor, times)), style in zip(stories.items(), _STYLES, strict=False):
        rates = start * factor ** np.arange(times + 1)
        ax.step(np.arange(times + 1), rates, where="post", label=label, marker="o", **style)
    _halvings(ax, start * 0.5 ** np.arange(0, 7, 2))
    return _with_legend(figure)


def grades(counted: pd.DataFrame) -> Figure:
    """How many conclusions of each grade were right: dark, of all of that grade: pale.

    Args:
        counted: index: the grades; columns `sum` (right) and `size` (all).
    """
    figure, ax = _figure("What was called certain was right", "conclusions", "", height=2.0)
    ax.barh(counted.index, counted["size"], color="white", edgecolor=INK, hatch="///", label="asked")
    ax.barh(counted.index, counted["sum"], color=INK, label="right")
    ax.set_xticks(range(int(counted["size"].max()) + 1))
    ax.invert_yaxis()
    return _with_legend(figure, "lower right")


def times_seen(counts: Mapping[str, Sequence[int]]) -> Figure:
    """How many people were trained on never, once and twice in one epoch, a group of bars for each run.

    Args:
        counts: label → people who came 0, 1 and 2 times.
    """
    figure, ax = _figure("Stopped in the middle: some twice, some never", "times in the epoch", "people", height=2.8)
    width = 0.8 / len(counts)
    for number, (label, people) in enumerate(counts.items()):
        at = np.arange(len(people)) + (number - (len(counts) - 1) / 2) * width
        colour, hatch = (INK, "") if number == 0 else ("white", "///")
        bars = ax.bar(at, people, width * 0.9, label=label, color=colour, edgecolor=INK, hatch=hatch)
        ax.bar_label(bars)
    ax.set_xticks(range(3), ["never", "once", "twice"])
    ax.margins(y=0.15)
    return _with_legend(figure)


def shares(users: Sequence[Sequence[int]]) -> Figure:
    """Stacked bars: how many users each process was given in each step.

    Args:
        users: [processes][steps], how many.
    """
    figure, ax = _figure("Every step's users, shared by the processes", "step of the epoch", "users", height=2.8)
    steps = np.arange(1, len(users[0]) + 1)
    below = np.zeros(len(steps))
    looks = ((INK, ""), (PALE, "//"), ("white", ".."), (ACCENT, ""))
    for number, (counts, (color, hatch)) in enumerate(zip(users, looks, strict=False)):
        bars = ax.bar(steps, counts, 0.7, below, facecolor=color, hatch=hatch, edgecolor=INK, label=f"process {number}")
        labels = [f"{count}" if count > max(users[0]) / 10 else "" for count in counts]  # where there is room for one
        plate = {"boxstyle": "round,pad=0.15", "ec": "none", "fc": color}
        for text in ax.bar_label(bars, labels, label_type="center", color="white" if color == INK else INK):
            text.set_bbox(plate if text.get_text() else None)
        below += counts
    ax.set_xticks(steps)
    figure.legend(loc="outside lower center", ncols=len(users), frameon=False)
    return figure


def runs(curves: Mapping[str, Sequence[float]], y: str, title: str) -> Figure:
    """One line a run, over its epochs; each with a marker and a line style of its own."""
    figure, ax = _figure(title, "epoch", y, height=2.8)
    looks = (("o-", INK), ("s--", ACCENT), ("^:", "black"))
    for (label, values), (style, color) in zip(curves.items(), looks, strict=False):
        ax.plot(values, style, color=color, label=label, fillstyle="none")
    ax.set_xticks(range(max(map(len, curves.values()))))
    return _with_legend(figure)


def _figure(title: str, x: str, y: str, height: float = 3.2) -> tuple[Figure, Axes]:
    figure, ax = plt.subplots(figsize=(7.5, height), layout="constrained")
    _label(ax, title, x, y)
    return figure, ax


def _with_legend(figure: Figure, where: Any = "best") -> Figure:
    for ax in figure.axes:
        ax.legend(frameon=False, loc=where)
    return figure


def _halvings(ax: Axes, ticks: Sequence[float] | np.ndarray) -> None:
    """A logarithmic scale on which every halving takes the same room."""
    ax.set_yscale("log", base=2)
    ax.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    ax.minorticks_off()


def _label(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
