"""Text from a file made fit to show: a terminal obeys control characters, and a file may hold any."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar


def printable(text: str, limit: int | None = None) -> str:
    r"""The text with every character that is not printable written out, such as `\x1b`; cut at `limit` characters."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def size(count: int) -> str:
    """Bytes for people: `102.0 MB`, in powers of 1000 as disks and `ls` have them."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.95 or unit == "TB":
            break
        value /= 1000
    return f"{count:,} B" if unit == "B" else f"{value:.1f} {unit}"


def many(count: int, thing: str, things: str = "") -> str:
    """`1 step`, `2,000 steps`."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def dotted(path: tuple[Any, ...]) -> str:
    """A path in a tree as people write it."""
    return ".".join(map(str, path))


def as_json(value: Any) -> Any:
    """A result as JSON holds it: a dataclass or a named tuple by its fields, but those with `repr=False`."""
    if is_dataclass(value):
        return {part.name: as_json(getattr(value, part.name)) for part in fields(value) if part.repr}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value.to_dict() if hasattr(value, "to_dict") else as_json(value._asdict())
    if isinstance(value, dict):
        return {str(key): as_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(part) for part in value]
    return jsonable(value)


class Result:
    """What a tool found, a dataclass: its fields, and its properties in `also`, are what `--json` prints."""

    also: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """The attributes, and the properties in `also`, as JSON takes them."""
        return {**as_json(self), **{name: getattr(self, name) for name in self.also}}


def jsonable(value: Any, depth: int = 8) -> Any:
    """The value as JSON can hold it. What JSON has no word for, such as infinity or a placeholder, comes as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < 1000 else f"integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value[:10_000]
    if depth and isinstance(value, dict):
        return {str(key)[:1000]: jsonable(part, depth - 1) for key, part in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [jsonable(part, depth - 1) for part in value]
    return repr(value)[:1000] if type(value).__module__.startswith("mvae.") else f"<{type(value).__name__}>"
