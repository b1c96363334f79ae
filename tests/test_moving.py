"""What all pieces that move share: whole without a script, escaped, and nothing that two of them could fight over."""

from __future__ import annotations

import re

from mvae.moving import Moving, steps


def piece() -> Moving:
    return steps("try-out", "a <title>", ("step", "held"), [("1", "<script>alert(1)</script>"), ("2", ["<b>", "x"])])


def test_text_is_escaped_and_the_only_script_is_the_pieces_own() -> None:
    page = piece()._repr_html_()
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert '<span class="box">&lt;b&gt;</span> <span class="box">x</span>' in page
    assert "<title>" not in page
    assert repr(piece()) == "[try-out: a <title>]"


def test_without_its_script_and_style_it_is_a_table() -> None:
    bare = re.sub(r"<(script|style)>.*?</\1>", "", piece()._repr_html_(), flags=re.DOTALL)
    assert bare.count("<tr>") == 3
    assert "<button" not in bare
    assert "<input" not in bare


def test_it_may_stand_twice_on_a_page_and_fetches_nothing() -> None:
    page = piece()._repr_html_()
    assert not re.search(r"\bid=|https?:|url\(|document\.(getElementById|querySelector)|window\.", page)
    assert page.startswith('<div class="mvae-moving mvae-try-out" role="group" aria-label="a &lt;title&gt;"')


def test_a_long_table_is_folded() -> None:
    short, long = (steps("try-out", "", ("n",), [(str(n),) for n in range(count)])._repr_html_() for count in (12, 13))
    assert "<details open>" in short
    assert "<details>" in long
