"""A piece of a page that is whole as it stands, and moves where scripts run.

GitHub takes scripts and styles out of a page and leaves tables and `<details>`; JupyterLab and an exported page run
them. So each piece is a table first. Its script adds the buttons, the slider and the line that says what is chosen; it
knows its own element only, fetches nothing and has no ids, so that a page may show it twice. Colours are the page's.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
.mvae-moving{max-width:100%;color:inherit;font-size:13px;line-height:1.5;margin:.5em 0}
.mvae-moving .mvae-wide{overflow-x:auto;max-width:100%}
.mvae-moving svg{display:block;width:100%;max-width:760px;height:auto;color:inherit}
.mvae-moving svg text{fill:currentColor;font:11px sans-serif}
.mvae-moving table{border-collapse:collapse;margin:.3em 0;font:12px/1.5 ui-monospace,Menlo,Consolas,monospace}
.mvae-moving table :is(th,td){border:0;border-bottom:1px solid #8886;padding:.1em .8em .1em 0}
.mvae-moving table :is(th,td){text-align:left!important}  /* JupyterLab aligns to the right */
.mvae-moving table :is(th,td){white-space:nowrap;vertical-align:top;max-width:none;color:inherit}
.mvae-moving table tr.on :is(th,td){font-weight:bold;border-bottom:2px solid currentColor}
.mvae-moving .box{display:inline-block;border:1px solid currentColor;border-radius:3px;padding:0 .4em}
.mvae-moving .mvae-stage{display:flex;flex-direction:column-reverse;align-items:flex-start;gap:2px}
.mvae-moving .mvae-stage{min-height:16em;margin:.3em 0}
.mvae-moving .mvae-stage .box{min-width:9em;font:12px/1.5 ui-monospace,Menlo,Consolas,monospace}
.mvae-moving .mvae-controls{display:flex;flex-wrap:wrap;gap:.3em 1em;align-items:center;margin:.4em 0}
.mvae-moving .mvae-controls :is(button,input,label,output){font:inherit;color:inherit}
.mvae-moving button{background:none;border:1px solid currentColor;border-radius:3px;padding:.1em .8em;cursor:pointer}
.mvae-moving input{width:14em;max-width:60vw;vertical-align:middle;accent-color:currentColor}
.mvae-moving .mvae-status{min-height:3em;margin:.3em 0;overflow-wrap:anywhere}
.mvae-moving :focus-visible{outline:2px solid currentColor;outline-offset:2px}
.mvae-moving summary,.mvae-moving [data-row]{cursor:pointer}
"""

_ROOT = "const root = document.currentScript.parentElement"
_KEYS = """
for (const part of root.querySelectorAll("button, input, summary, [tabindex]"))
  part.setAttribute("data-lm-suppress-shortcuts", "true");  // else JupyterLab takes the arrow keys from them
"""
_STEPS = """
const rows = [...root.querySelectorAll("tbody tr")], stage = root.querySelector(".mvae-stage");
const heads = [...root.querySelectorAll("thead th")].map(head => head.textContent);
const controls = root.querySelector(".mvae-controls"), status = document.createElement("p");
controls.innerHTML = "<button type=button>Previous</button><button type=button>Next</button><label><span></span> " +
  "<input type=range min=0 step=1></label>";
const [back, next] = controls.querySelectorAll("button"), slider = controls.querySelector("input");
controls.querySelector("span").textContent = heads[0];
slider.max = rows.length - 1;
status.className = "mvae-status";
status.setAttribute("aria-live", "polite");
controls.after(status);
const go = wanted => {
  const at = Math.max(0, Math.min(rows.length - 1, wanted)), cells = [...rows[at].cells];
  slider.value = at;
  slider.setAttribute("aria-valuetext", heads[0] + " " + cells[0].textContent);
  rows.forEach((row, i) => { row.classList.toggle("on", i === at); row.classList.toggle("later", i > at); });
  root.querySelectorAll("[data-row]").forEach(part => part.classList.toggle("on", +part.dataset.row === at));
  status.textContent = cells.map((cell, i) => heads[i] + ": " + (cell.textContent || "–")).join(" · ");
  if (stage) stage.replaceChildren(...[...rows[at].querySelectorAll(".box")].map(box => box.cloneNode(true)));
};
back.onclick = () => go(+slider.value - 1);
next.onclick = () => go(+slider.value + 1);
slider.oninput = () => go(+slider.value);
const point = parts => event => {
  const part = event.target.closest(parts);
  if (part) go(+part.dataset.row);
};
root.onpointerover = point("svg [data-row]");
root.onclick = point("[data-row]");
go(+root.dataset.at);
"""


class Moving:
    """A piece of a page; the last value of a cell shows it.

    Args:
        kind: of its own, such as `bit-flip`; `mvae-bit-flip` is the class of its element.
        title: what is to be seen, in a few words.
        inside: HTML that is whole without a script; an empty element of class `mvae-controls` where the script puts
            buttons and sliders.
        script: JavaScript, for which `root` is the element of the piece.
        style: CSS of this kind alone.
        at: which row is chosen at first, for `steps`.
    """

    def __init__(self, kind: str, title: str, inside: str, script: str, style: str = "", at: int = 0) -> None:
        self._text = f"[{kind}: {title}]"
        self._html = (
            f'<div class="mvae-moving mvae-{kind}" role="group" aria-label="{escape(title)}" data-at="{at}">'
            f"<style>{_STYLE}{style}</style><p><b>{escape(title)}</b></p>"
            f"{inside}<script>(() => {{\n{_ROOT};{script}{_KEYS}}})();</script></div>"
        )

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


def steps(
    kind: str,
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str | Sequence[str]]],
    picture: str = "",
    style: str = "",
    at: int = 0,
) -> Moving:
    """A table that is gone through row by row: with buttons, with a slider, or by pointing at a picture.

    Args:
        kind: see `Moving`.
        title: see `Moving`.
        head: the names of the columns. The first is what the slider counts.
        rows: the cells as text, which is escaped here; a cell of several texts is drawn as boxes.
        picture: HTML; an element with `data-row="3"` in it stands for row 3.
        style: CSS of this kind alone.
        at: the row that is chosen at first.
    """
    inside = f'<div class="mvae-controls"></div>{picture}{table(head, rows)}'
    return Moving(kind, title, inside, _STEPS, style, at)


def table(head: Sequence[str], rows: Sequence[Sequence[str | Sequence[str]]]) -> str:
    """A table to unfold; a short one is open. What is wider than the page is scrolled, with the keyboard too.

    Args:
        head: the names of the columns.
        rows: as for `steps`.
    """
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    inside = f"<table><thead><tr>{columns}</tr></thead><tbody>\n{lines}</tbody></table>"
    return (
        f"<details{' open' if len(rows) <= 12 else ''}><summary>as a table: {len(rows)} rows</summary>"
        f'<div class="mvae-wide" tabindex="0" role="region" aria-label="table">{inside}</div></details>'
    )


def _cell(cell: str | Sequence[str]) -> str:
    if isinstance(cell, str):
        return escape(cell)
    return " ".join(f'<span class="box">{escape(part)}</span>' for part in cell)
