"""What people see: the tree in the terminal, the page in a notebook, the figure."""

from __future__ import annotations

import io
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import calls, checkpoint, name, pickle_of
from rich.console import Console

from mvae.checkpoint import byte_budget_figure, inspect
from mvae.checkpoint.drawing.terminal import print_tree


def shown(file: Any, depth: int = 2, width: int = 160, color: Any = None) -> str:
    console = Console(record=True, width=width, file=open(os.devnull, "w"), color_system=color)  # noqa: SIM115
    print_tree(file, depth, console)
    return console.export_text(styles=color is not None)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


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


def test_depth_unfolds(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["lightning"])
    lines = [len(shown(file, depth).splitlines()) for depth in range(6)]
    assert lines == sorted(lines)
    assert lines[0] < lines[2] < lines[5]
    assert "exp_avg_sq" in shown(file, 5)


def test_long_containers_are_folded() -> None:
    text = shown(
        inspect(saved({"state_dict": {f"w{i}": torch.ones(1) for i in range(500)}, "vocabulary": list(range(9999))}))
    )
    assert "… 477 more" in text
    assert len(text.splitlines()) < 100


def test_many_top_level_keys_are_folded() -> None:
    text = shown(inspect(saved({f"w{i}": torch.ones(1) for i in range(500)})))
    assert "… 477 more" in text
    assert len(text.splitlines()) < 60


def test_known_configurations_show_their_content(zoo: dict[str, Path]) -> None:
    text = shown(inspect(zoo["omegaconf"]), depth=5)
    assert "omegaconf.dictconfig.DictConfig" in text
    assert "600" in text
    assert "_flags_cache" not in text


def test_foreign_objects_show_class_and_contents(zoo: dict[str, Path]) -> None:
    text = shown(inspect(zoo["hyperparameters"]), depth=4)
    assert "torch.nn.modules.linear.Linear" in text
    assert "in_features" in text
    assert "/data/x" in text
    assert "_backward_hooks" not in text
    assert "gone_project.Config" in shown(inspect(zoo["vanished"]))


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


def test_shared_tensors_say_with_whom() -> None:
    weight = torch.ones(3)
    assert "same bytes as state_dict.a" in shown(inspect(saved({"state_dict": {"a": weight, "b": weight}})))


@pytest.mark.parametrize("value", [[], {}, None, 3, "x" * 10_000, {"a": {}}, [[[[[]]]]], {1: {2: (3, {4})}}, {"": ""}])
def test_odd_contents_are_drawn(value: Any) -> None:
    file = inspect(saved(value))
    assert shown(file, 10)
    assert file._repr_html_()


def test_a_value_in_itself_is_drawn() -> None:
    file = inspect(checkpoint(pickle_of(b"}q\x00K\x01h\x00s")))
    assert shown(file, 64)
    assert file._repr_html_()


class Balanced(HTMLParser):
    """Counts what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, _: Any) -> None:
        if tag in ("details", "summary", "div", "table", "span", "b", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_without_colours_of_its_own(zoo: dict[str, Path]) -> None:
    for path in zoo.values():
        page = inspect(path)._repr_html_()
        parser = Balanced()
        parser.feed(page)
        assert parser.open == []
        assert "<script" not in page
        assert "color:inherit" in page
        assert len(page) < 300_000


def test_the_figure_shows_the_largest_headings() -> None:
    import matplotlib

    matplotlib.use("Agg")
    file = inspect(saved({"state_dict": {"w": torch.ones(1000)}, "cost in $": torch.ones(10)}))
    axes = byte_budget_figure(file, limit=3)
    assert axes.get_yticklabels()[0].get_text() == "weights"
    assert "weights" in axes.get_title()
    assert axes.get_xlabel()
    axes.figure.canvas.draw()


def test_floats_are_shown_as_floats() -> None:
    text = shown(inspect(saved({"h": {"weight_decay": 0.0, "cap": 1.0, "count": 1, "nan": float("nan")}})))
    assert "weight_decay 0.0 · cap 1.0 · count 1 · nan nan" in text


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


def test_what_tensors_on_one_storage_have_in_common() -> None:
    flat = torch.arange(24.0)
    value = {"a": flat[:16], "b": flat[16:], "c": flat[:16], "d": flat[8:20], "t": flat[:16].view(4, 4).t()}
    lines = {line.split()[1]: line for line in shown(inspect(saved(value))).splitlines() if "float32" in line[:40]}
    assert "storage" not in lines["a"]
    assert lines["b"].endswith("on one storage, with other bytes than a")
    assert lines["c"].endswith("same bytes as a")
    assert lines["d"].endswith("shares bytes with a")
    assert lines["t"].endswith("shares bytes with a")
