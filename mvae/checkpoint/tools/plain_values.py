"""The same checkpoint in plain values: the cure for `UnpicklingError: Weights only load failed`.

`torch.load(weights_only=True)` refuses a file for the sake of one setting that is an OmegaConf list, a path or a numpy
number. Here each such object becomes the nearest plain value (`mvae.checkpoint.pickled.plain`); weights, optimizer,
loops and all else stay as they are, so that training goes on from the new file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from mvae.checkpoint.files.source import Input
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.formats.reading import read
from mvae.checkpoint.formats.stream import Progress, Stream
from mvae.checkpoint.formats.zip_writer import Output, output, refuse_to_overwrite, write_checkpoint
from mvae.checkpoint.pickled.plain import Plain, Replaced
from mvae.checkpoint.pickled.writer import Pickler
from mvae.errors import CheckpointError
from mvae.text import Result, printable, size

_FEW = 20
_SETTINGS = ("hyper_parameters", "datamodule_hyper_parameters")


@dataclass
class PlainCopy(Result):
    """What was written.

    Attributes:
        path: of the checkpoint.
        out: of the new file.
        size_before, size: bytes of the two.
        replaced: values that were foreign objects, and what they are now.
    """

    also = ("complete", "notes")

    path: str
    out: str
    size_before: int
    size: int = 0
    replaced: list[Replaced] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True if all that was in the file has a plain form."""
        return not any(replaced.lost for replaced in self.replaced)

    @property
    def notes(self) -> list[str]:
        """What whoever loads the new file should know, one sentence each."""
        made = [found for found in self.replaced if found.path[:1] and found.path[0] in _SETTINGS]
        if not any(isinstance(found.by, (dict, list)) for found in made):
            return []
        return [
            "load_from_checkpoint gives your class these plain dicts and lists. If it needs its own objects, pass "
            "them, such as load_from_checkpoint(path, cfg=OmegaConf.create(…)); fit(ckpt_path=path) needs nothing."
        ]

    def __str__(self) -> str:
        return self.text()

    def text(self, everything: bool = False) -> str:
        """The report for people.

        Args:
            everything: name each value that was replaced, however many there are.
        """
        telling = [found for found in self.replaced if found.lost or found.note]
        others = [found for found in self.replaced if not (found.lost or found.note)]
        shown = others if everything else others[:_FEW]
        lines = [f"{printable(self.out)}: {size(self.size)}, torch.load(weights_only=True) takes it"]
        lines += [f"  {found}" for found in (*telling, *shown)]
        if len(shown) < len(others):
            lines.append(f"  … and {len(others) - len(shown):,} more; --all names them")
        if not self.replaced:
            lines.append("  nothing had to be replaced: all values were plain already")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def plain(path: Input, out: Output, *, allow_loss: bool = False, progress: Progress | None = None) -> PlainCopy:
    """Write a checkpoint again with nothing in it that `torch.load(weights_only=True)` refuses.

    Everything is kept, and training goes on from the new file: `trainer.fit(model, ckpt_path=out)`. What is not plain
    becomes the nearest plain value: a `DictConfig` a dict, a path text, an Enum its value, a dataclass a dict, a numpy
    array a tensor. OmegaConf's interpolations become the values they refer to, where those are in the file. Tensors
    that were on a GPU load on the CPU.

    Args:
        path: the checkpoint, or its bytes.
        out: the file to write, or a binary stream.
        allow_loss: write it even if something has no plain form, such as a function, of which only the name is kept.
        progress: told how many bytes were read.

    Raises:
        CheckpointError: something has no plain form, and that is not allowed; there is no pickle in the file; it is
            damaged; `out` is the checkpoint itself or cannot be written.
    """
    refuse_folder(path, "`mvae plain`")
    refuse_to_overwrite(path, out)
    contents = read(path)
    if contents.trace is None:
        raise CheckpointError(f"{contents.path} is a {contents.format} file: there is no pickle in it to make plain.")
    if contents.format is Format.TORCHSCRIPT:
        raise CheckpointError(f"{contents.path} is a TorchScript model, code and all; `mvae export` takes its weights.")
    if not allow_loss:
        _refuse_losses(contents.path, Plain().go_through(contents.tree))
    found = PlainCopy(contents.path, name_of(out), contents.size)
    found.size, found.replaced = write_plain(contents.tree, out, Pickler(), progress)
    return found


def refuse_folder(path: Input, tool: str) -> None:
    """Raise a CheckpointError if it is one: the tool works on a file."""
    if not isinstance(path, (bytes, bytearray, memoryview)) and os.path.isdir(path):
        raise CheckpointError(f"{os.fspath(path)} is a folder; {tool} works on one file.")


def name_of(out: Output) -> str:
    """What to call a file that is written; `-` if it is a stream."""
    return os.fspath(out) if isinstance(out, (str, os.PathLike)) else "-"


def write_plain(tree: Any, out: Output, pickler: Pickler, progress: Progress | None) -> tuple[int, list[Replaced]]:
    """Write a tree as a checkpoint, its tensors from where they are: the bytes of it, and what the pickler replaced."""
    with output(out) as file, Stream(progress) as stream:
        size = write_checkpoint(file, tree, lambda stored: stream.storage(stored.storage, stored.dtype), pickler)
    return size, pickler.replaced


def _refuse_losses(path: str, replaced: list[Replaced]) -> None:
    lost = [found for found in replaced if found.lost]
    if not lost:
        return
    named = [f"{'.'.join(map(str, found.path))} ({found.was}: {found.lost})" for found in lost[:_FEW]]
    if len(lost) > _FEW:
        named.append(f"and {len(lost) - _FEW:,} more")
    raise CheckpointError(
        f"{path} holds {'a value' if len(lost) == 1 else f'{len(lost):,} values'} without a plain form, so nothing was "
        f"written: {'; '.join(named)}. --allow-loss (allow_loss=True) writes the file all the same, with what is left."
    )
