"""Text from a file made fit to show."""

from __future__ import annotations

import pytest

from mvae.text import jsonable, printable, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (33_988_028, "34.0 MB"),
        (4_903_955_425, "4.9 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_text_is_made_printable() -> None:
    assert printable("a\x1b[31m\nb\u202e") == r"a\x1b[31m\nb\u202e"
    assert printable("é 你好 β") == "é 你好 β"
    assert printable("\udc80") == r"\udc80"
    assert printable("x" * 10, 5) == "xxxx…"


def test_what_json_cannot_hold_comes_as_text() -> None:
    assert jsonable({1: float("nan"), "a": (1, {2}), "b": 10**400}) == {
        "1": "nan", "a": [1, "<set>"], "b": "integer of 1329 bits",
    }  # fmt: skip
