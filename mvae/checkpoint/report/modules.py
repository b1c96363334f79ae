"""What the `state_dict()` of a module that was saved whole would give: an `nn.Module`, or one of TorchScript."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.pickled.values import Global, Object, Tensor
from mvae.checkpoint.pickled.walk import Path
from mvae.errors import CheckpointError

Part = tuple[str, Path, Tensor, bool]
"""The name in the `state_dict`, the way there from the module, the tensor, and whether it is a buffer."""

_MAX_CODE = 16 << 20
_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n(?:  __parameters__ = \[(.*?)\]\n)?(?:  __buffers__ = \[(.*?)\]\n)?", re.MULTILINE
)


def is_module(value: Any) -> bool:
    """True for an `nn.Module` that was pickled whole."""
    return isinstance(value, Object) and {"_parameters", "_buffers", "_modules"} <= value.attributes.keys()


def module_tensors(value: Object) -> Iterator[Part]:
    """Parameters, buffers that last, then those of the modules inside. Other attributes are no part of it."""
    stack: list[tuple[str, Path, Any, frozenset[int]]] = [("", (), value, frozenset())]
    while stack:
        prefix, way, module, around = stack.pop()
        if not is_module(module) or id(module) in around:
            continue
        has = module.attributes
        passing = has.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for name, part in has[kind].items() if isinstance(has[kind], dict) else ():
                if isinstance(part, Tensor) and (kind == "_parameters" or name not in passing):
                    yield f"{prefix}{name}", (*way, kind, name), part, kind == "_buffers"
        inside = has["_modules"].items() if isinstance(has["_modules"], dict) else ()
        around |= {id(module)}
        stack += [(f"{prefix}{name}.", (*way, "_modules", name), part, around) for name, part in reversed(list(inside))]


def script_tensors(contents: Contents, value: Object) -> Iterator[Part]:
    """The same for TorchScript, whose code says which attributes of a class are parameters and which are buffers."""
    code = _Code(contents)
    stack: list[tuple[str, Path, Object, frozenset[int]]] = [("", (), value, frozenset())]
    while stack:
        prefix, way, module, around = stack.pop()
        names = code.names(module.cls)
        if names is None or id(module) in around:
            continue
        parameters, buffers = names
        attributes = module.attributes
        for name in (*parameters, *buffers):
            if isinstance(attributes.get(name), Tensor):
                yield f"{prefix}{name}", (*way, name), attributes[name], name in buffers
        around |= {id(module)}
        inside = [(name, part) for name, part in attributes.items() if isinstance(part, Object)]
        stack += [(f"{prefix}{name}.", (*way, name), part, around) for name, part in reversed(inside)]


class _Code:
    """Looks up classes in the code that a TorchScript file carries. It is read, never run."""

    def __init__(self, contents: Contents) -> None:
        self.archive = contents.archive
        self.classes: dict[str, dict[str, tuple[list[str], list[str]]]] = {}

    def names(self, cls: Any) -> tuple[list[str], list[str]] | None:
        """The parameters and the buffers of a class; None if it is no module, or if its code is not there."""
        if not isinstance(cls, Global):
            return None
        if cls.module not in self.classes:
            self.classes[cls.module] = dict(self._read(cls.module))
        return self.classes[cls.module].get(cls.name)

    def _read(self, module: str) -> Iterator[tuple[str, tuple[list[str], list[str]]]]:
        member = self.archive.get(f"code/{module.replace('.', '/')}.py") if self.archive is not None else None
        if member is None or member.size > _MAX_CODE:
            return
        try:
            text = str(member.view(), "utf-8", "replace")
        except CheckpointError:
            return
        for name, parameters, buffers in _CLASS.findall(text):
            yield name, (re.findall(r'"([^"]*)"', parameters), re.findall(r'"([^"]*)"', buffers))
