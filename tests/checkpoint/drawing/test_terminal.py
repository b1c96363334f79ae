"""What people see: the tree in the terminal, the page in a notebook, the figure."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import calls, checkpoint, name, pickle_of
from rich.console import Console
from screen import saved, shown

from mvae.checkpoint import inspect
from mvae.checkpoint.drawing.terminal import print_tree


def test_the_tree_shows_everything_of_note(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["lightning"])
    text = shown(file)
    for word in (
        "body.0.weight", "[4, 8] float32", "EarlyStopping", "best_model_path", "6 × (step, exp_avg, exp_avg_sq)",
        "global_step", "Adam", "zip bookkeeping", "= the file's size", "derived", "weights_only=True",
    ):  # fmt: skip
        assert word in text, word
    assert f"{file.size:,}" in text


@pytest.mark.parametrize("options", [{}, {"depth": 5}, {"everything": True}], ids=str)
def test_the_plain_tree_is_the_one_that_rich_draws(
    zoo: dict[str, Path], capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    for path in zoo.values():
        file = inspect(path)
        console = Console(record=True, width=10_000, file=io.StringIO())
        print_tree(file, console=console, **options)
        print_tree(file, **options)
        assert capsys.readouterr().out.splitlines() == [line.rstrip() for line in console.export_text().splitlines()]


def test_a_fact_shows_what_it_follows_from(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["lightning"])
    assert "from global_step" in shown(file, depth=3)
    assert "from global_step" not in shown(file)
    assert "from global_step" in file._repr_html_()


def test_danger_is_red() -> None:
    text = shown(inspect(checkpoint(dict(calls())["os.system"])), color="standard")
    line = next(line for line in text.splitlines() if "DANGER" in line)
    assert "\x1b[1;31m" in line
    assert "posix.system" in line


@pytest.mark.parametrize("value", [[], {}, None, 3, "x" * 10_000, {"a": {}}, [[[[[]]]]], {1: {2: (3, {4})}}, {"": ""}])
def test_odd_contents_are_drawn(value: Any) -> None:
    file = inspect(saved(value))
    assert shown(file, 10)
    assert file._repr_html_()


def test_a_value_in_itself_is_drawn() -> None:
    file = inspect(checkpoint(pickle_of(b"}q\x00K\x01h\x00s")))
    assert shown(file, 64)
    assert file._repr_html_()


def test_everything_unfolds_all() -> None:
    file = inspect(saved({"state_dict": {f"w{i}": torch.ones(1) for i in range(500)}, "a": {"b": {"c": {"d": [[1]]}}}}))
    assert "… 477 more; `mvae inspect --all` shows them" in shown(file)
    console = Console(record=True, width=160, file=io.StringIO())
    print_tree(file, console=console, everything=True)
    text = console.export_text()
    assert "more" not in text
    assert "w499" in text


def test_the_line_to_copy_is_whole_and_only_of_names() -> None:
    names = b"".join(name("some_package_with_a_long_name", f"Class{i}") + b"a" for i in range(40))
    file = inspect(checkpoint(pickle_of(b"]" + names)))
    for page in (shown(file, width=100), file._repr_html_()):
        assert "Class39])" in page
        assert page.count("a class or function of the package") == 1
        assert "checksums were not checked; `mvae verify` does" in page
    odd = inspect(checkpoint(pickle_of(b"]" + name("a", "b]); evil(") + b"a")))
    assert "add_safe_globals" not in shown(odd)
