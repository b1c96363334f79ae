"""What foreign objects stand for, where that is known well enough to say it instead of how they are built.

A table of classes, each with a function of the placeholder. None of the classes is imported: what is known of them is
how they write themselves into a pickle.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mvae.checkpoint.pickled.values import Global, NumpyScalar, Object

_INTERPOLATION = re.compile(r"\$\{([^${}]*)\}")
_KEY = re.compile(r"(\.*)((?:[^.\[\]:]+|\[[^.\[\]:]+\])(?:\.[^.\[\]:]+|\[[^.\[\]:]+\])*)")  # `..a.b[0]`
_PART = re.compile(r"[^.\[\]]+")
_MAX_TEXT, _MAX_LOOKUPS, _MAX_PARTS = 500, 30, 30
_MAX_RANGE = 10_000
_ABSENT = object()


def meaning(value: Any) -> Any:
    """What a placeholder stands for, if that is known: a dict, list, text or number; else the value itself.

    What is inside may be a placeholder again. An interpolation of OmegaConf's is replaced by the value it refers to,
    if that is in the file; one that asks a resolver, such as `${oc.env:HOME}`, stays as it is, and so does a text with
    a whole configuration in the middle.
    """
    if isinstance(value, NumpyScalar):
        return _numpy_text(value) if isinstance(value.value, bytes) else value.value
    name = class_name(value.cls) if isinstance(value, Object) else ""
    if name.startswith("omegaconf."):
        return _omegaconf(value, [_MAX_LOOKUPS])
    if name.startswith("pathlib.") and all(isinstance(part, str) for part in value.args):
        return _joined(value.args, "\\" if "Windows" in name else "/")
    known = _KNOWN.get(name)
    if known is None:
        return _fields(value) if isinstance(value, Object) else value
    try:
        return known(value)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError):
        return value  # not what that class writes


def class_name(cls: Any) -> str:
    """The name of what a file makes or calls: `module.Class`, or `module.Class.method` for an attribute of one."""
    if isinstance(cls, Global):
        return str(cls)
    if isinstance(cls, Object) and str(cls.cls) == "builtins.getattr" and len(cls.args) == 2:
        owner, name = cls.args
        if isinstance(name, str):
            return f"{owner if isinstance(owner, Global) else class_name(getattr(owner, 'cls', None))}.{name}"
    return "the result of a call"


def _fields(value: Object) -> Any:
    """The fields of a pydantic model, which keeps them beside its own bookkeeping; else the object itself."""
    state = value.attributes
    own = isinstance(state.get("__dict__"), dict) and any(str(key).startswith("__pydantic") for key in state)
    return state["__dict__"] if own else value


def _numpy_text(value: NumpyScalar) -> Any:
    """A `numpy.str_`, which numpy writes as four bytes a letter; other bytes stay bytes."""
    order = "utf-32-be" if value.dtype.code.startswith(">") else "utf-32-le"
    if value.dtype.code.lstrip("<>|=")[:1] != "U":
        return value.value
    return value.value.decode(order, "replace").rstrip("\0")


def _joined(parts: tuple[str, ...], separator: str) -> str:
    first, rest = (parts[0], parts[1:]) if parts and parts[0].endswith(separator) else ("", parts)
    return first + separator.join(rest)


# --- OmegaConf: https://omegaconf.readthedocs.io, "Variable interpolation"


def _omegaconf(node: Object, lookups: list[int]) -> Any:
    """The content of a configuration or of a value in one; both keep it beside much bookkeeping."""
    attributes = node.attributes
    content = attributes.get("_content", attributes.get("_val", node))
    if not isinstance(content, str) or "${" not in content:
        return content
    found = _interpolated(content, node, lookups)
    return content if found is _ABSENT else _converted(found, node)


def _interpolated(text: str, node: Object, lookups: list[int]) -> Any:
    """`${a.b}` as the value there, `x-${a}` as text; `_ABSENT` if that is not in the file."""
    if len(text) > _MAX_TEXT or "\\" in text:  # a backslash may mean that none is meant
        return _ABSENT
    while (match := _INTERPOLATION.search(text)) is not None:
        lookups[0] -= 1
        found = _looked_up(match[1].strip(), node, lookups) if lookups[0] >= 0 else _ABSENT
        if found is _ABSENT or match[0] == text:
            return found
        if not isinstance(found, (str, int, float, type(None))):
            return _ABSENT
        text = text[: match.start()] + str(found) + text[match.end() :]
    return _ABSENT if "${" in text else text


def _looked_up(key: str, node: Object, lookups: list[int]) -> Any:
    """The value under a key: from the top, or from as far up as it has dots in front."""
    match = _KEY.fullmatch(key)
    if match is None:
        return _ABSENT  # a resolver, such as `oc.env:HOME`, or no key at all
    up, parts, where = len(match[1]), _PART.findall(match[2]), node
    if len(parts) > _MAX_PARTS:
        return _ABSENT
    for _ in range(up or _MAX_PARTS):
        parent = where.attributes.get("_parent")
        if isinstance(parent, Object):
            where = parent
        elif up:
            return _ABSENT
        else:
            break
    for part in parts:
        content = _omegaconf(where, lookups)
        if isinstance(content, Object):  # `${…}` for a whole configuration
            content = _omegaconf(content, lookups)
        inside = content.get(part) if isinstance(content, dict) else _item(content, part)
        if not isinstance(inside, Object) or inside is node:
            return _ABSENT
        where = inside
    found = _omegaconf(where, lookups)
    return _ABSENT if isinstance(found, str) and ("${" in found or found == "???") else found


def _item(content: Any, part: str) -> Any:
    is_index = isinstance(content, list) and part.isdecimal() and len(part) < 9 and int(part) < len(content)
    return content[int(part)] if is_index else None


def _converted(found: Any, node: Object) -> Any:
    """A value that an interpolation gave, as a node of this type takes it."""
    convert = {"StringNode": str, "IntegerNode": int, "FloatNode": float}.get(getattr(node.cls, "name", ""))
    try:
        return convert(found) if convert is not None and isinstance(found, (str, int, float)) else found
    except ValueError:
        return node.attributes["_val"]


# --- the standard library


def _timestamp(value: Object) -> str:
    """`datetime.datetime`, `date` and `time` write themselves as bytes, which their classes take back."""
    raw, *zone = value.args
    if not isinstance(raw, bytes) or len(zone) > 1:
        raise TypeError("not a time")
    import datetime

    made = getattr(datetime, value.cls.name)(raw)
    text = str(made.isoformat())
    if zone:
        known = meaning(zone[0])
        text += known if isinstance(known, str) and known[:1] in "+-" else f"[{known}]"
    return text


def _zone(value: Object) -> str:
    minutes, seconds = divmod(int(_seconds(value.args[0])), 60)
    hours, minutes = divmod(abs(minutes), 60)
    if seconds:
        raise ValueError("not a zone that ISO 8601 writes")
    return f"{'-' if _seconds(value.args[0]) < 0 else '+'}{hours:02}:{minutes:02}"


def _seconds(value: Object) -> float:
    days, seconds, microseconds = value.args
    from datetime import timedelta

    return timedelta(days, seconds, microseconds).total_seconds()


def _uuid(value: Object) -> str:
    from uuid import UUID  # here, as it takes as long to import as half of this package, and few files hold one

    return str(UUID(int=value.attributes["int"]))


def _range(value: Object) -> list[int]:
    numbers = range(*value.args)
    if len(numbers) > _MAX_RANGE:
        raise ValueError("too many to write one by one")
    return list(numbers)


def _partial(value: Object) -> dict[str, Any]:
    """In the words of Hydra's `instantiate`, which makes the partial again."""
    function, args, keywords, _ = value.state
    found = {"_target_": str(function), "_partial_": True} | ({"_args_": list(args)} if args else {})
    return found | {str(name): part for name, part in (keywords or {}).items()}


def _deque(value: Object) -> list[Any]:
    return [*(value.args[0] if value.args else ()), *(value.items or ())]


_KNOWN: dict[str, Callable[[Object], Any]] = {
    "builtins.range": _range,
    "collections.deque": _deque,
    "datetime.date": _timestamp,
    "datetime.datetime": _timestamp,
    "datetime.time": _timestamp,
    "datetime.timedelta": _seconds,
    "datetime.timezone": _zone,
    "fractions.Fraction": lambda value: "/".join(map(str, value.args)),
    "functools.partial": _partial,
    "re._compile": lambda value: value.args[0],
    "uuid.UUID": _uuid,
    "zoneinfo.ZoneInfo._unpickle": lambda value: value.args[0],
}
