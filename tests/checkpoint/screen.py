"""What a terminal shows of a checkpoint, as text."""

from __future__ import annotations

import io
import os
from typing import Any

import torch
from rich.console import Console

from mvae.checkpoint.drawing.terminal import print_tree


def shown(file: Any, depth: int = 2, width: int = 160, color: Any = None) -> str:
    console = Console(record=True, width=width, file=open(os.devnull, "w"), color_system=color)  # noqa: SIM115
    print_tree(file, depth, console)
    return console.export_text(styles=color is not None)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
