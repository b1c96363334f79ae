"""Where the training loader stands in its pass, and how another process gets there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils import data
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from mvae.checkpoint.with_torch import lightning_internals as internals
from mvae.checkpoint.with_torch.generators import Snapshot, plain, put, seed_all, set_generator_states, take
from mvae.checkpoint.with_torch.held_state import HeldState

STATE, SKIP, REPLAY, STREAM = "its own state", "skip", "replay", "replay of its own random numbers"
"""The ways back into a pass.

- STATE: the loader has `state_dict` and `load_state_dict`.
- SKIP: a `DataLoader` over a map-style data set without workers: torch's samplers draw their order once, as the first
  batch is fetched, so the sampler is moved on and nothing is fetched.
- REPLAY: a `DataLoader` with workers: they are seeded as a pass begins, and the batches are drawn again.
- STREAM: whatever else is iterated in this process: an `IterableDataset`, a sampler or loader of one's own, several
  loaders at once. What they draw would depend on what training draws in between, so they draw from a stream of random
  numbers of their own, seeded as a pass begins, and the batches are drawn again.
"""

_KNOWN_SAMPLERS = (
    data.SequentialSampler, data.RandomSampler, data.SubsetRandomSampler, data.WeightedRandomSampler,
    data.DistributedSampler,
)  # fmt: skip
_CPU = torch.device("cpu")


class _Recorded(CombinedLoader):
    """Mixed into the class of the training loader while a fit runs: its passes are noted. See `Passes`."""

    passes: Passes

    def __iter__(self) -> Any:
        return self.passes.begin(self, super().__iter__)

    def __next__(self) -> Any:
        return self.passes.fetch(super().__next__)


class Passes:
    """Notes how each pass over the training loader begins and how far it comes, and goes on from such a note.

    Attributes:
        resuming: no pass begins until `go_on` or `go_on_after` was called.
        batches: given out in the pass, with one that is only fetched ahead.
        fetching: whether a batch is being fetched.
        before_fetch: the global generators before the last fetch.
    """

    def __init__(self) -> None:
        self.device = _CPU
        self.resuming = False
        self.loader: Any = None
        self.way = SKIP
        self.batches = 0
        self.fetching = False
        self.before_fetch: Snapshot | None = None
        self._held = HeldState([])
        self._held_at_start: dict[str, Any] = {}
        self._start: Snapshot | dict[str, Any] | None = None
        self._seed: Any = None
        self._stream: Any = None
        self._earlier: list[dict[str, Any]] = []

    # --- noting

    def adopt(self, loader: CombinedLoader) -> None:
        """Note the passes over this loader from now on."""
        if not isinstance(loader, _Recorded):
            own = type(loader)
            loader.__class__ = type(own.__name__, (_Recorded, own), {"__module__": own.__module__})
        setattr(loader, "passes", self)  # noqa: B010
        self.loader, self.way = loader, way_back(loader)
        self._held = HeldState([] if self.way == STATE else loader.flattened)
        self._start, self._earlier, self.batches = None, [], 0

    def release(self) -> None:
        """Give the loader its own class back."""
        if isinstance(self.loader, _Recorded):
            self.loader.__class__ = type(self.loader).__mro__[2]

    def begin(self, loader: CombinedLoader, begin: Callable[[], Any]) -> Any:
        if self.resuming:
            internals.without_iterating(loader)
            return loader
        if self._start is not None and self._goes_on_in_workers():
            self._earlier.append({"start": self._plain_start(), "held": self._held_at_start, "batches": self.batches})
        self._start, self._held_at_start, self.batches = take(self.device), self._held.now(), 0
        if self.way != STREAM:
            return begin()
        self._seed = int.from_bytes(hashlib.sha256(self._start[2].numpy().tobytes()).digest()[:7], "little")
        return self._begin_stream(begin)

    def _begin_stream(self, begin: Callable[[], Any]) -> Any:
        mine = take(_CPU)
        seed_all(self._seed)
        self._stream = take(_CPU)
        return self._in_stream(begin, mine)

    def _in_stream(self, draw: Callable[[], Any], mine: Snapshot) -> Any:
        """Draw from the data's own random numbers, and leave the global generators as `mine` has them."""
        put(self._stream, _CPU)
        try:
            return draw()
        finally:
            self._stream = take(_CPU)
            put((*mine[:3], None), _CPU)

    def fetch(self, fetch: Callable[[], Any]) -> Any:
        if self.resuming:
            raise StopIteration
        self.before_fetch, self.fetching = take(self.device), True
        if self.batches == 0 and self.way == SKIP:
            self._start = self.before_fetch  # the order of the pass is drawn now, and not as it began
        try:
            batch = self._in_stream(fetch, self.before_fetch) if self.way == STREAM else fetch()
        except StopIteration:
            self.fetching = False
            raise
        self.batches += 1
        self.fetching = False
        return batch

    def _goes_on_in_workers(self) -> bool:
        return any(map(persistent, self._loaders))

    def _plain_start(self) -> dict[str, Any] | None:
        return plain(self._start, self.device) if isinstance(self._start, tuple) else self._start

    def note(self) -> dict[str, Any]:
        """Where the pass stands, as tensors and plain values."""
        if self.loader is None:
            return {}
        return {
            "way": self.way,
            "start": None if self.way == STATE else self._plain_start(),
            "seed": self._seed,
            "held_at_start": self._held_at_start,
            "held": self._held.now(),
            "cycles": internals.cycles(self.loader),
            "earlier": self._earlier,
            "batches": self.batches,
        }

    def states(self) -> list[Any]:
        """The states of the loaders that have one."""
        return [loader.state_dict() for loader in self._loaders if stateful(loader)]

    @property
    def _loaders(self) -> list[Any]:
        return [] if self.loader is None else self.loader.flattened

    # --- going on

    def go_on(
        self, loops: internals.Loops, note: dict[str, Any], states: list[Any], batches: int, replay: bool
    ) -> None:
        """Begin the pass of the note and go on to after its `batches`; without `replay`, at its beginning."""
        self.resuming = False
        began = time.monotonic()
        if self.way == STATE:
            self._load(states)
            loops.begin_pass()
            internals.set_cycles(self.loader, note["cycles"])
        else:
            self._repeat_earlier(loops, note["earlier"], replay)
            drawn = self._begin_again(loops, note)
            if replay or self.way == SKIP:
                self._skip(drawn, batches)
            if replay and self.way != SKIP and batches:
                rank_zero_info(f"ExactResume drew {batches:,} batches again in {time.monotonic() - began:.1f} s.")
            self._held.set(note["held"])
        self._keep(note)

    def go_on_after(self, loops: internals.Loops, note: dict[str, Any], states: list[Any], replay: bool) -> None:
        """Go on to where the pass of the note has ended, and the next has not begun."""
        self.resuming = False
        if self.way == STATE:
            self._load(states)
            if self._was_cut_short(note["batches"]):
                loops.begin_pass()  # taken up, so that the next one is begun over it
        else:
            last = {"start": note["start"], "held": note["held_at_start"], "batches": note["batches"]}
            self._repeat_earlier(loops, [*note["earlier"], last] if self._goes_on_in_workers() else [], replay)
            self._held.set(note["held"])
        self._keep(note)

    def _load(self, states: list[Any]) -> None:
        for loader, state in zip(filter(stateful, self._loaders), states, strict=True):
            loader.load_state_dict(state)

    def _was_cut_short(self, batches: int) -> bool:
        """Whether its state would go on with the pass. torchdata's does after the last batch, and gives none."""
        loader = self._loaders[0]
        return of_torchdata(loader) or (hasattr(loader, "__len__") and batches < len(loader))

    def _repeat_earlier(self, loops: internals.Loops, earlier: list[dict[str, Any]], replay: bool) -> None:
        """Persistent workers have drawn random numbers since the first pass."""
        for note in earlier if replay else ():
            began = time.monotonic()
            drawn = self._begin_again(loops, note | {"held_at_start": note["held"], "seed": self._seed})
            self._skip(drawn, note["batches"])
            rank_zero_info(f"ExactResume drew an earlier pass again in {time.monotonic() - began:.1f} s.")
        if not replay and earlier:
            loops.begin_pass()

    def _begin_again(self, loops: internals.Loops, note: dict[str, Any]) -> Any:
        self._held.set(note["held_at_start"])
        if note["start"] is not None:
            set_generator_states(note["start"], self.device)
        way, self.way = self.way, REPLAY  # no new seed
        if way == STREAM:
            self._seed = note["seed"]
            drawn = self._begin_stream(loops.begin_pass)
        else:
            drawn = loops.begin_pass()
            if way == SKIP and note["start"] is not None:
                set_generator_states(note["start"], self.device)
        self.way = way
        return drawn

    def _skip(self, drawn: Any, batches: int) -> None:
        if self.way == SKIP:
            (drawn,) = (iterator._sampler_iter for iterator in internals.iterators(self.loader))  # torch's, not public
        for _ in range(batches):
            next(drawn, None)

    def _keep(self, note: dict[str, Any]) -> None:
        """What the next file says of this pass."""
        self._start, self._held_at_start = note["start"], note["held_at_start"]
        self._earlier, self.batches = list(note["earlier"]), note["batches"]


def way_back(loader: CombinedLoader) -> str:
    """Which way leads back into a pass over these loaders."""
    loaders = loader.flattened
    if all(map(stateful, loaders)):
        return STATE
    only = loaders[0]
    if len(loaders) > 1 or not isinstance(only, DataLoader) or type(only).__iter__ is not DataLoader.__iter__:
        return STREAM
    if not _draws_once(only):
        return STREAM
    if only.num_workers > 0:
        return REPLAY
    return STREAM if isinstance(only.dataset, IterableDataset) else SKIP


def _draws_once(loader: DataLoader[Any]) -> bool:
    """Whether its sampler draws all its random numbers as the pass begins: so do those of torch and Lightning."""
    if isinstance(loader.dataset, IterableDataset):
        return True
    batches = loader.batch_sampler
    if batches is not None and not (type(batches) is BatchSampler or _of_lightning(batches)):
        return False
    sampler = loader.sampler if batches is None else getattr(batches, "sampler", None)
    return type(sampler) in _KNOWN_SAMPLERS or _of_lightning(sampler)


def _of_lightning(sampler: Any) -> bool:
    return type(sampler).__module__.startswith("lightning.")


def stateful(loader: Any) -> bool:
    """Whether a loader saves a position of its own."""
    return callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))


def of_torchdata(loader: Any) -> bool:
    """Whether a loader is one of torchdata's."""
    return type(loader).__module__.startswith("torchdata.")


def persistent(loader: Any) -> bool:
    """Whether a loader keeps its workers from one pass to the next."""
    return isinstance(loader, DataLoader) and loader.num_workers > 0 and loader.persistent_workers


def has_workers(loader: Any) -> bool:
    """Whether persistent workers have been started: torch keeps their iterator, under a private name."""
    return persistent(loader) and loader._iterator is not None


def described(loaders: list[Any]) -> list[dict[str, Any]]:
    """What batches depend on, for a person to compare: kind, rows, batch size, batches, workers."""
    return [
        {
            "kind": type(loader).__qualname__,
            "rows": _length(getattr(loader, "dataset", None)),
            "batch_size": getattr(loader, "batch_size", None),
            "batches": _length(loader),
            "workers": getattr(loader, "num_workers", 0),
        }
        for loader in loaders
    ]


def _length(thing: Any) -> int | None:
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None
