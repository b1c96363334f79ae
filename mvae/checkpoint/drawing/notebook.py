"""A checkpoint in a notebook: nested `<details>` that open on a click, without scripts, in light and dark.

Colours are the notebook's own (`currentColor` and transparency), so that they fit any theme. Every text that comes
from the file is escaped.
"""

from __future__ import annotations

from html import escape

from mvae.checkpoint.drawing.outline import Node, Outline
from mvae.checkpoint.drawing.terminal import fact_nodes, safety_nodes
from mvae.checkpoint.report.report import Report
from mvae.text import printable, size

_DEPTH = 5
"""Levels of the tree that can be unfolded."""
_STYLE = """
.mvae-ckpt{font:13px/1.5 ui-monospace,Menlo,Consolas,monospace;color:inherit}
.mvae-ckpt details,.mvae-ckpt .leaf{margin-left:1.2em}
.mvae-ckpt>details,.mvae-ckpt>.leaf{margin-left:0}
.mvae-ckpt summary{cursor:pointer}
.mvae-ckpt b{font-weight:600}
.mvae-ckpt .v,.mvae-ckpt .more{opacity:.75}
.mvae-ckpt .danger,.mvae-ckpt .danger .v{color:#d1242f;opacity:1}
.mvae-ckpt .bar{display:inline-block;height:.7em;background:currentColor;opacity:.45}
.mvae-ckpt table,.mvae-ckpt td{border:0;background:none;padding:0 .8em 0 0;font:inherit;color:inherit}
.mvae-ckpt td.n{text-align:right}
"""


def page(file: Report) -> str:
    """The checkpoint as HTML: its tree, where its bytes are, what follows, and whether it is safe."""
    head = f"<b>{_safe(file.path)}</b> <span class=v>{_safe(str(file.format))}, {size(file.size)}</span>"
    parts = [f"<style>{_STYLE}</style><div class=mvae-ckpt><div class=leaf>{head}</div>"]
    parts += [_node(node) for node in Outline(file, _DEPTH).nodes()]
    parts.append(_details("<b>where the bytes are</b>", _bytes(file)))
    if file.facts:
        facts = "".join(map(_node, fact_nodes(file)))
        parts.append(_details("<b>what follows</b> <span class=v>derived</span>", facts))
    nodes = "".join(_node(node) for node in safety_nodes(file))
    parts.append(_details("<b>safety</b>", nodes, open_=bool(file.safety.system)))
    return "".join(parts) + "</div>"


def _node(node: Node) -> str:
    sentence = node.label.endswith(".")
    line = _safe(node.label) if sentence else f"<b>{_safe(node.label)}</b>"
    line += f" <span class=v>{_safe(node.text)}</span>" if node.text else ""
    if not node.children:
        return f"<div class='leaf {node.style}'>{line}</div>"
    return _details(line, "".join(map(_node, node.children)), node.style)


def _details(summary: str, inside: str, style: str = "", open_: bool = False) -> str:
    return f"<details class='{style}'{' open' if open_ else ''}><summary>{summary}</summary>{inside}</details>"


def _bytes(file: Report) -> str:
    rows = []
    for section, count in file.bytes.items():
        bar = f"<span class=bar style='width:{12 * count / file.size:.2f}em'></span>"
        rows.append(f"<tr><td>{_safe(section)}<td class=n>{count:,}<td class=n>{count / file.size:.1%}<td>{bar}")
    rows.append(f"<tr><td>sum<td class=n>{file.size:,}<td><td>")
    return f"<table class=leaf>{''.join(rows)}</table>"


def _safe(text: str) -> str:
    return escape(printable(text))
