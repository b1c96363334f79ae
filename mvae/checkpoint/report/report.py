"""All there is to say about a checkpoint that was read, worked out when it is first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from mvae.checkpoint.files.source import Record
from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.pickled.limits import collector_held_off
from mvae.checkpoint.pickled.values import Storage, Tensor
from mvae.checkpoint.pickled.walk import Path, walk
from mvae.checkpoint.report.byte_budget import Sections, byte_budget, owners
from mvae.checkpoint.report.entries import TensorEntry
from mvae.checkpoint.report.facts import Fact, Run, derive
from mvae.checkpoint.report.safety import Safety, judge
from mvae.errors import CheckpointError

if TYPE_CHECKING:
    import numpy

MAX_STEPS = 10_000_000
"""Keys and positions that lead to tensors, summed over all of them; ten times what the largest models have."""
MAX_LETTERS = 100_000_000
"""Letters in the names of all tensors."""


class Report:
    """A checkpoint that was read. Everything beyond its tree is worked out when it is first asked for.

    Attributes:
        contents: the tree, the storages and the records of the file, as `read` gives them.
        batch_size: what the facts about the run are to assume, if the file does not say; or None.
    """

    def __init__(self, contents: Contents, batch_size: int | None = None) -> None:
        self.contents = contents
        self.batch_size = batch_size

    @property
    def path(self) -> str:
        """As given."""
        return self.contents.path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.contents.size

    @property
    def format(self) -> Format:
        """Which kind of file it is."""
        return self.contents.format

    @property
    def tree(self) -> Any:
        """The whole checkpoint: plain Python values, `Tensor`s, and inert placeholders for everything else."""
        return self.contents.tree

    @property
    def keys(self) -> list[str]:
        """The top-level keys, in the order of the file; empty if it does not hold a dict."""
        return [str(key) for key in self.tree] if isinstance(self.tree, dict) else []

    @cached_property
    def _found(self) -> list[tuple[Path, Tensor | Storage]]:
        found: list[tuple[Path, Tensor | Storage]] = []
        steps = 0
        for path, value in walk(self.tree, plain=False):
            if type(value) in (Tensor, Storage):
                found.append((path, value))
                steps += len(path)
                if steps > MAX_STEPS:
                    raise CheckpointError(f"{self.path} holds too many tensors, too deep, to list them.")
        return found

    @cached_property
    def tensors(self) -> list[TensorEntry]:
        """Every tensor, in the order of the file. One that stands in two places is listed twice."""
        entries: dict[str, TensorEntry] = {}
        letters = 0
        for path, value in self._found:
            if isinstance(value, Tensor):
                name = ".".join(map(str, path)) or "(the whole file)"
                if name in entries:  # {"a.b": …, "a": {"b": …}}
                    name = f"{name}#{len(entries)}"
                entries[name] = TensorEntry(name, path, value)
                letters += len(name)
                if letters > MAX_LETTERS:
                    raise CheckpointError(f"{self.path} gives its tensors names too long to list.")
        return list(entries.values())

    @cached_property
    def _by_name(self) -> dict[str, TensorEntry]:
        return {entry.name: entry for entry in self.tensors}

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name; `state_dict.` in front of it may be left out.

        Raises:
            CheckpointError: there is none.
        """
        entry = self._by_name.get(name) or self._by_name.get(f"state_dict.{name}")
        if entry is None:
            import difflib

            near = difflib.get_close_matches(name, list(self._by_name)[:10_000], 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise CheckpointError(f"{self.path} has no tensor named '{name}'.{hint}")
        return entry.tensor

    def array(self, name: str) -> numpy.ndarray[Any, Any]:
        """The values of a tensor as a read-only numpy view of the file; see `Tensor.array`.

        Raises:
            CheckpointError: no such tensor, or its bytes are not in the file.
        """
        return self.tensor(name).array()

    @cached_property
    def shared(self) -> dict[str, list[str]]:
        """Storage key → the names of the tensors that share it, where there are several."""
        first: dict[int, str] = {}
        found: dict[str, list[str]] = {}
        for entry in self.tensors:
            storage = entry.tensor.storage
            if storage is not None and first.setdefault(id(storage), entry.name) != entry.name:
                found.setdefault(storage.key, [first[id(storage)]]).append(entry.name)
        return found

    @cached_property
    def sections(self) -> Sections:
        """Which tensors are the weights, which an optimizer's, and what the others belong to."""
        return Sections(self.contents)

    @cached_property
    def bytes(self) -> dict[str, int]:
        """Heading → bytes of the file, largest first; the sum is `size`. See `mvae.checkpoint.report.byte_budget`."""
        with collector_held_off():
            return byte_budget(self.contents, self.owners)

    @cached_property
    def owners(self) -> list[tuple[Record, str]]:
        """Every piece of the file, with the heading of `bytes` that it comes under."""
        return owners(self.contents, self._found, self.sections)

    @cached_property
    def facts(self) -> list[Fact]:
        """What follows about the run, each with the values it follows from."""
        with collector_held_off():
            return derive(Run(self.contents, self.tensors, self.sections, self.batch_size))

    @cached_property
    def safety(self) -> Safety:
        """What loading the file would import, and what `torch.load(weights_only=True)` says to it."""
        return judge(self.contents)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the values, as JSON takes it: path, size, format, keys, tensors, bytes, facts, unsafe."""
        with collector_held_off():
            return {
                "path": self.path,
                "size": self.size,
                "format": str(self.format),
                "keys": self.keys,
                "tensors": [entry.to_dict() for entry in self.tensors],
                "bytes": self.bytes,
                "facts": {fact.name: fact.to_dict() for fact in self.facts},
                "unsafe": self.safety.to_dict(),
            }

    def __repr__(self) -> str:
        return f"<checkpoint {self.path}: {self.format}, {self.size:,} bytes, {len(self.tensors):,} tensors>"
