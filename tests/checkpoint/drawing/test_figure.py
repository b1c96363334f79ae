"""The byte budget as a figure."""

from __future__ import annotations

import torch
from screen import saved

from mvae.checkpoint import byte_budget_figure, inspect


def test_the_figure_shows_the_largest_headings() -> None:
    import matplotlib

    matplotlib.use("Agg")
    file = inspect(saved({"state_dict": {"w": torch.ones(1000)}, "cost in $": torch.ones(10)}))
    axes = byte_budget_figure(file, limit=3)
    assert axes.get_yticklabels()[0].get_text() == "weights"
    assert "weights" in axes.get_title()
    assert axes.get_xlabel()
    axes.figure.canvas.draw()
