"""Foreign objects whose meaning is known well enough to show what they stand for instead of how they are built."""

from __future__ import annotations

from typing import Any

from mvae.checkpoint.pickled.values import Global, NumpyScalar, Object


def meaning(value: Any) -> Any:
    """What a placeholder stands for, if that is known: a dict, list, text or number; else the value itself.

    OmegaConf's configurations keep their content beside much bookkeeping, paths are a list of parts, and numpy's
    numbers are numbers.
    """
    if isinstance(value, NumpyScalar):
        return value.value
    if not isinstance(value, Object) or not isinstance(value.cls, Global):
        return value
    if value.cls.module.startswith("omegaconf."):
        attributes = value.attributes
        return attributes.get("_content", attributes.get("_val", value))
    if value.cls.module.startswith("pathlib") and all(isinstance(part, str) for part in value.args):
        return _joined(value.args, "\\" if "Windows" in value.cls.name else "/")
    return value


def _joined(parts: tuple[str, ...], separator: str) -> str:
    first, rest = (parts[0], parts[1:]) if parts and parts[0].endswith(separator) else ("", parts)
    return first + separator.join(rest)
