"""A checkpoint in the terminal, as a tree. `rich` is imported only when something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mvae.checkpoint.drawing.outline import MAX_LINE, Node, Outline, more
from mvae.checkpoint.pickled.machine import collector_held_off
from mvae.text import printable, size

if TYPE_CHECKING:
    from rich.tree import Tree

    from mvae.checkpoint.report.report import Report
    from mvae.checkpoint.report.safety import Refusal

STYLES = {"key": "bold", "tensor": "cyan", "foreign": "yellow", "danger": "bold red", "more": "dim"}
_BAR = 24


def rich_tree(file: Report, depth: int = 2, everything: bool = False) -> Tree:
    """The checkpoint as a `rich` tree: what is in it, where its bytes are, what follows, and whether it is safe.

    Args:
        file: the checkpoint.
        depth: levels of the tree that are unfolded.
        everything: unfold all levels, and long containers too.
    """
    from rich.text import Text
    from rich.tree import Tree

    title = Text(printable(file.path), "bold")
    title.append(f"  {file.format}, {size(file.size)} ({file.size:,} bytes)", "dim")
    tree = Tree(title, guide_style="dim")
    _grow(tree, Outline(file, depth, everything).nodes())
    _grow(tree.add(Text("where the bytes are", "bold magenta")), _bytes(file))
    if file.facts:
        _grow(tree.add(Text("what follows (derived)", "bold magenta")), fact_nodes(file, everything or depth > 2), "")
    _grow(tree.add(Text("safety", "bold magenta")), safety_nodes(file, everything))
    return tree


def _grow(tree: Tree, nodes: list[Node], style: str | None = None) -> None:
    from rich.text import Text

    width = min(40, max((len(node.label) for node in nodes if node.text), default=0))
    for node in nodes:
        line = Text(
            node.label.ljust(width) if node.text else node.label, STYLES[node.style] if style is None else style
        )
        if node.text:
            line.append("  " + node.text, "red" if node.style == "danger" else "default")
        _grow(tree.add(line), node.children)


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
    if safety.weights_only:
        if file.contents.trace is None:
            return [Node("there is no pickle in it: nothing can run.", style="more")]
        return [
            Node(f"torch.load(weights_only=True) takes it; it imports {len(safety.taken)} names, all of them known.")
        ]
    found = [Node(f"DANGER  {printable(refusal.name, 80)}", refusal.reason, "danger") for refusal in safety.system]
    rest = _by_reason([refusal for refusal in safety.refused if not refusal.system], everything)
    found.append(Node("torch.load(weights_only=True) refuses it:", style="key", children=_folded(rest, everything)))
    found += [Node(printable(obstacle), style="foreign") for obstacle in safety.obstacles]
    if safety.allow_list and not safety.system and all(map(_is_name, safety.allow_list)):
        names = ", ".join(safety.allow_list)  # whole: it is there to be copied
        found.append(Node("If you trust whoever made it:", f"torch.serialization.add_safe_globals([{names}])"))
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


def _is_name(name: str) -> bool:
    """False for what would be more than a name if it were pasted into a program."""
    return name.isprintable() and all(part.isidentifier() for part in name.split("."))


def _folded(nodes: list[Node], everything: bool, limit: int = 20) -> list[Node]:
    if everything or len(nodes) <= limit:
        return nodes
    return [*nodes[:limit], more(len(nodes) - limit)]


def print_tree(file: Report, depth: int = 2, console: Any = None, everything: bool = False) -> None:
    """Print the tree, in colour where the terminal has it."""
    from rich.console import Console

    with collector_held_off():
        (console or Console(highlight=False)).print(rich_tree(file, depth, everything))
