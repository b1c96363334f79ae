"""What every format is read into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mvae.checkpoint.files.archive import Archive
from mvae.checkpoint.files.source import Record
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.pickled.machine import Trace
from mvae.checkpoint.pickled.values import Storage


@dataclass
class Contents:
    """Everything a checkpoint holds.

    Attributes:
        path: as given.
        size: bytes; of a folder, of all its files.
        format: which kind of file it is.
        tree: the checkpoint, usually a dict: plain Python values, `Tensor`s and inert placeholders
            (`mvae.checkpoint.pickled.values`).
        storages: by key; where the bytes of the tensors are.
        trace: what the pickle would import and do; None for safetensors.
        beside: what the file's other pickles would do, those that its loader does not read, by name.
        main_end: where the pickle of the tree ends in its zip member, in bytes; 0 if there is none.
        records: the pieces of the file, in the file's order: zip members, or pickles and raw storages.
        pickles: the records that are pickles.
        archive: the zip, if it is one.
        metadata: free text that a safetensors file carries.
    """

    path: str
    size: int
    format: Format
    tree: Any = None
    storages: dict[str, Storage] = field(default_factory=dict)
    trace: Trace | None = None
    beside: dict[str, Trace] = field(default_factory=dict)
    main_end: int = 0
    records: list[Record] = field(default_factory=list)
    pickles: list[Record] = field(default_factory=list)
    archive: Archive | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def has_checksums(self) -> bool:
        """False for formats without, and for files saved with `compute_crc32=False`: every CRC-32 is then zero."""
        return any(record.crc32 for record in self.records)
