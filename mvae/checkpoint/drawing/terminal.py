"""A checkpoint in the terminal, as a tree. `rich` is imported only where there are colours to draw with."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mvae.checkpoint.drawing.outline import MAX_LINE, Node, Outline, more
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.pickled.limits import collector_held_off
from mvae.checkpoint.report.report import Report
from mvae.checkpoint.report.safety import Refusal
from mvae.text import printable, size

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

STYLES = {
    "title": "bold",
    "heading": "bold magenta",
    "facts": "bold magenta",
    "key": "bold",
    "tensor": "cyan",
    "foreign": "yellow",
    "danger": "bold red",
    "more": "dim",
}
TEXT_STYLES = {"title": "dim", "danger": "red"}
_BAR = 24


def rich_tree(file: Report, depth: int = 2, everything: bool = False) -> Tree:
    """The checkpoint as a `rich` tree: what is in it, where its bytes are, what follows, and whether it is safe.

    Args:
        file: the checkpoint.
        depth: levels of the tree that are unfolded.
        everything: unfold all levels, and long containers too.
    """
    from rich.tree import Tree

    root = _root(file, depth, everything)
    tree = Tree(_rich_line(root), guide_style="dim")
    _grow(tree, root.children)
    return tree


def plain_tree(file: Report, depth: int = 2, everything: bool = False) -> Iterator[str]:
    """The lines of the same tree without colours and without an end on the right, for files and other programs.

    They are drawn here because importing `rich` takes longer than reading a checkpoint.
    """
    root = _root(file, depth, everything)
    yield f"{root.label}  {root.text}"
    yield from _plain(root.children)


def _root(file: Report, depth: int, everything: bool) -> Node:
    """All there is to draw. The checkpoint's own keys come first, then what was found out about them."""
    children = Outline(file, depth, everything).nodes()
    children.append(Node("where the bytes are", style="heading", children=_bytes(file)))
    if file.facts:
        facts = fact_nodes(file, everything or depth > 2)
        children.append(Node("what follows (derived)", style="facts", children=facts))
    children.append(Node("safety", style="heading", children=safety_nodes(file, everything)))
    return Node(printable(file.path), f"{file.format}, {size(file.size)} ({file.size:,} bytes)", "title", children)


def _grow(tree: Tree, nodes: list[Node], style: str | None = None) -> None:
    width = _width(nodes)
    for node in nodes:
        branch = tree.add(_rich_line(node, width, style))
        _grow(branch, node.children, "" if node.style == "facts" else None)


def _rich_line(node: Node, width: int = 0, style: str | None = None) -> Text:
    from rich.text import Text

    label = node.label.ljust(width) if node.text else node.label
    line = Text(label, STYLES[node.style] if style is None else style)
    if node.text:
        line.append("  " + node.text, TEXT_STYLES.get(node.style, "default"))
    return line


def _plain(nodes: list[Node], indent: str = "") -> Iterator[str]:
    width = _width(nodes)
    for left, node in enumerate(nodes, start=1 - len(nodes)):
        line = f"{node.label.ljust(width)}  {node.text}".rstrip() if node.text else node.label
        yield f"{indent}{'├' if left else '└'}── {line}"
        yield from _plain(node.children, indent + ("│   " if left else "    "))


def _width(nodes: list[Node]) -> int:
    """Letters for the labels, so that the texts beside them stand in a column."""
    return min(40, max((len(node.label) for node in nodes if node.text), default=0))


def _bytes(file: Report) -> list[Node]:
    """The byte budget, one line a heading, with a bar in proportion."""
    found = []
    for section, count in file.bytes.items():
        share = count / file.size
        bar = "█" * round(share * _BAR)
        found.append(Node(printable(section, 40), f"{count:>15,}  {share:>6.1%}  {bar}", "more"))
    return [*found, Node("sum", f"{sum(file.bytes.values()):>15,}  = the file's size", "more")]


def fact_nodes(file: Report, with_sources: bool = True) -> list[Node]:
    """Each fact, and below it the values it follows from."""
    found = []
    for fact in file.facts:
        sources = fact.to_dict()["from"].items() if with_sources else ()
        inside = [Node("from " + printable(where, 80), printable(str(value), MAX_LINE)) for where, value in sources]
        found.append(Node(printable(fact.text), children=inside))
    return found


def safety_nodes(file: Report, everything: bool = False) -> list[Node]:
    """What `torch.load` would say to the file, what in it reaches for the system, and what was not looked at."""
    found = _verdict(file, everything)
    if file.contents.has_checksums:
        found.append(Node("checksums were not checked; `mvae verify` does.", style="more"))
    return found


def _verdict(file: Report, everything: bool) -> list[Node]:
    safety = file.safety
    found = [Node(f"DANGER  {printable(refusal.name, 80)}", refusal.reason, "danger") for refusal in safety.system]
    if file.contents.trace is None:
        found.append(Node("there is no pickle in it: nothing can run.", style="more"))
    elif safety.weights_only:
        known = f"it imports {len(safety.taken)} names, all of them known."
        found.append(Node(f"torch.load(weights_only=True) takes it; {known}"))
    else:
        found += _refused(file, everything)
    found += [Node(printable(other.name, 80), printable(other.reason)) for other in safety.beside if not other.system]
    return found + [Node("not looked into:", printable(sentence), "foreign") for sentence in safety.unseen]


def _refused(file: Report, everything: bool) -> list[Node]:
    safety = file.safety
    rest = _by_reason([refusal for refusal in safety.refused if not refusal.system], everything)
    if any(refusal.system for refusal in safety.refused):
        rest.append(Node("the names above, marked DANGER", style="danger"))
    found = [Node(printable(obstacle), style="foreign") for obstacle in safety.obstacles]
    if rest:
        found.insert(0, Node("torch.load(weights_only=True) refuses it:", "", "key", _folded(rest, everything)))
    else:
        found.insert(0, Node("torch.load(weights_only=True) refuses it, for what it does:", style="key"))
    if safety.allow_list and all(map(_is_entry, safety.allow_list)):
        names = ", ".join(safety.allow_list)  # whole: it is there to be copied
        found.append(Node("If you trust whoever made it:", f"torch.serialization.add_safe_globals([{names}])"))
    if not safety.system and file.format in (Format.ZIP, Format.LEGACY):
        cure = "`mvae plain FILE -o OUT` writes it again in plain values, or names what has no plain form."
        found.append(Node("In any case:", cure))
    return found


def _by_reason(refusals: list[Refusal], everything: bool) -> list[Node]:
    """One line for a name, or for a reason that several have."""
    found: dict[str, list[Node]] = {}
    for refusal in refusals:
        found.setdefault(refusal.reason, []).append(Node(printable(refusal.name, 80), style="foreign"))
    return [
        Node(names[0].label, printable(reason), "foreign")
        if len(names) == 1
        else Node(printable(reason), style="foreign", children=_folded(names, everything))
        for reason, names in found.items()
    ]


def _is_entry(entry: str) -> bool:
    """False for what would be more than a name, or a pair of names, if it were pasted into a program."""
    names = re.fullmatch(r'\(([\w.]+), "([\w.]+)"\)|([\w.]+)', entry)
    return names is not None and all(part.isidentifier() for name in names.groups("x") for part in name.split("."))


def _folded(nodes: list[Node], everything: bool, limit: int = 20) -> list[Node]:
    if everything or len(nodes) <= limit:
        return nodes
    return [*nodes[:limit], more(len(nodes) - limit)]


def print_tree(file: Report, depth: int = 2, console: Any = None, everything: bool = False) -> None:
    """Print the tree: on a terminal as wide as that and in its colours, elsewhere plain.

    Args:
        file: the checkpoint.
        depth: levels of the tree that are unfolded.
        console: a `rich` console to print on, whatever standard output is.
        everything: unfold all levels, and long containers too.
    """
    with collector_held_off():
        if console is None and not sys.stdout.isatty() and not os.environ.get("FORCE_COLOR"):
            sys.stdout.writelines(f"{line}\n" for line in plain_tree(file, depth, everything))
            return

        from rich.console import Console

        (console or Console(highlight=False)).print(rich_tree(file, depth, everything))
