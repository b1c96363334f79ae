"""The byte budget of a checkpoint as a figure. Needs matplotlib, which the rest of this package does not."""

from __future__ import annotations

from typing import Any

from mvae.checkpoint.report.report import Report
from mvae.text import printable, size


def byte_budget_figure(file: Report, limit: int = 10) -> Any:
    """Where the bytes of a checkpoint are: one bar for each heading, longest first.

    Args:
        file: the checkpoint.
        limit: headings that get a bar of their own; the small ones share the last.

    Returns:
        The axes.
    """
    from matplotlib import pyplot

    items = list(file.bytes.items())
    if len(items) > limit:
        rest = items[limit - 1 :]
        items = [*items[: limit - 1], (f"{len(rest)} others", sum(count for _, count in rest))]
    _, ax = pyplot.subplots(figsize=(8, 0.4 * len(items) + 1.2), layout="constrained")
    names = [printable(name, 40).replace("$", r"\$") for name, _ in items]
    bars = ax.barh(names, [count / 1e6 for _, count in items], color="0.45")
    ax.bar_label(bars, [f"{size(count)}  {count / file.size:.1%}" for _, count in items], padding=4)
    ax.invert_yaxis()
    ax.margins(x=0.25)
    ax.set_xlabel("megabytes in the file")
    largest, count = items[0]
    ax.set_title(f"{printable(largest, 40)}: {count / file.size:.0%} of {size(file.size)}".replace("$", r"\$"))
    return ax
