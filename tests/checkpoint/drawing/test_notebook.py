"""The page in a notebook."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mvae.checkpoint import inspect


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
