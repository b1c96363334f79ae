"""How much code a folder holds: lines that are not blank, not a comment and not part of a docstring.

python scripts/code_size.py [FOLDER ...]      (without one: mvae)
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

_NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> int:
    """Lines of a Python file on which something stands that runs."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):  # a string that stands alone, as docstrings do
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def longest_function(source: str) -> tuple[int, str]:
    """(lines, name) of the longest function, from its `def` to its end, without its docstring."""
    longest = 0, ""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            longest = max(longest, (lines, node.name))
    return longest


def main() -> None:
    """Print a line for each folder, and the sum."""
    total = 0
    for top in sys.argv[1:] or ["mvae"]:
        folders: dict[str, list[Path]] = {}
        for file in sorted(Path(top).rglob("*.py")):
            folders.setdefault(str(file.parent), []).append(file)
        for folder, files in folders.items():
            texts = [file.read_text(encoding="utf-8") for file in files]
            count = sum(map(code_lines, texts))
            length, name = max(map(longest_function, texts))
            print(f"{folder:32} {len(files):>3} modules {count:>6,} lines of code; longest function: {name}, {length}")
            total += count
    print(f"{total:,} lines of code")


if __name__ == "__main__":
    main()
