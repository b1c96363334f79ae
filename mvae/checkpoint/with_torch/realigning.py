"""realign(): carry a checkpoint over to another item vocabulary, so that training goes on."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvae.checkpoint.with_torch.loading import model_in, read_with_torch
from mvae.checkpoint.with_torch.saving import save
from mvae.data.vocabulary import find_vocabulary
from mvae.errors import CheckpointError
from mvae.models import ItemModel, kind_of

#: Share of the smaller of the two vocabularies that must be in the other one, unless `strict=False`.
ENOUGH = 0.5


@dataclass(frozen=True)
class Realigned:
    """What `realign` did.

    Attributes:
        path: the new checkpoint.
        shared: items whose rows were carried over.
        new: items that start afresh.
        dropped: items of the old checkpoint that are not in the new vocabulary.
    """

    path: Path
    shared: list[Hashable]
    new: list[Hashable]
    dropped: list[Hashable]

    def __str__(self) -> str:
        return (
            f"{self.path}: {len(self.shared):,} items carried over, {len(self.new):,} start afresh, "
            f"{len(self.dropped):,} dropped"
        )


def realign(
    path: str | os.PathLike[str],
    vocabulary: Sequence[Hashable],
    out: str | os.PathLike[str],
    *,
    strict: bool = True,
    saved_vocabulary: Sequence[Hashable] | None = None,
    source: str | None = None,
    seed: int = 0,
) -> Realigned:
    """Write the checkpoint `path` anew for the items of `vocabulary`, to go on training on other data.

    `MultiVAE` has a column of `encoder.0.weight` and a row of the decoder's last weight and bias for each item,
    `BERT4Rec` a row of its embedding and a number of its output bias (`model.item_dims()` says so). Those of
    shared items are carried over by item id, with Adam's moments; new items get what a new model would have, and
    moments of zero. All other weights, β, the learning rate and the step count stay.

    Scores on another set of items do not compare, so the states of the callbacks are left out, ReduceLROnPlateau
    begins to watch anew, and so does an epoch.

    Args:
        path: a checkpoint of one of this package's models. It is not changed, unless `out` is the same file.
        vocabulary: column → item id of the new data: `datamodule.item_ids`.
        out: where to write the new checkpoint (see `save`).
        strict: refuse when less than half of the smaller vocabulary is in the other one: then the ids are likely to
            be of different kinds, and most of the model would be lost.
        saved_vocabulary: column → item id of `path`, for a checkpoint that does not have it.
        source: the name of the new data set, if it has another one.
        seed: decides the weights of new items.

    Raises:
        CheckpointError: not a checkpoint of such a model with its optimizer, no or a wrong vocabulary, an item
            twice, or too few shared items.
        CheckpointNotSavedError: `out` cannot be written.
    """
    checkpoint = read_with_torch(Path(path), weights_only=True)
    model = model_in(checkpoint, Path(path).name)
    old, new = _vocabulary_of(checkpoint, model, Path(path).name, saved_vocabulary), list(vocabulary)
    pairs = _shared(old, new, strict)
    rows = _Rows(torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T, len(old), len(new))
    carried = _carried_over(checkpoint, model, rows, seed)
    key, state = find_vocabulary(checkpoint) or (kind_of(None, model).data.__qualname__, {})
    carried[key] = {"item_ids": new, "source": source or state.get("source")}
    save(carried, out)
    before, now = set(old), set(new)
    return Realigned(
        Path(out),
        shared=[item for item in old if item in now],
        new=[item for item in new if item not in before],
        dropped=[item for item in old if item not in now],
    )


@dataclass(frozen=True)
class _Rows:
    """Which rows go where: `moves[0]` of `old_count` in the old tensors, `moves[1]` of `count` in the new."""

    moves: Tensor
    old_count: int
    count: int

    def carry(self, old: Tensor, fresh: Tensor, dim: int) -> Tensor:
        """`fresh` with the shared rows of `old`, and with the rows that stand after the items'."""
        special = torch.arange(old.shape[dim] - self.old_count)  # padding and mask of BERT4Rec
        from_, to = torch.cat([self.moves, torch.stack([special + self.old_count, special + self.count])], dim=1)
        return fresh.to(old.dtype).index_copy(dim, to, old.index_select(dim, from_))

    def carry_moment(self, old: Tensor, dim: int) -> Tensor:
        shape = list(old.shape)
        shape[dim] += self.count - self.old_count
        return self.carry(old, old.new_zeros(shape), dim)


def _carried_over(checkpoint: dict[str, Any], model: ItemModel, rows: _Rows, seed: int) -> dict[str, Any]:
    settings = checkpoint["hyper_parameters"] | {"num_items": rows.count}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(model)(**settings).state_dict()
    dims = model.item_dims()
    new = dict(checkpoint)
    new["hyper_parameters"] = settings
    new["state_dict"] = {
        name: rows.carry(tensor, fresh[name], dims[name]) if name in dims else tensor
        for name, tensor in checkpoint["state_dict"].items()
    }
    names = [name for name, _ in model.named_parameters()]
    new["optimizer_states"] = [_moments(state, names, dims, rows) for state in checkpoint["optimizer_states"]]
    new["lr_schedulers"] = [_watching_anew(state) for state in checkpoint.get("lr_schedulers", [])]
    new["callbacks"] = {}
    new["loops"] = _between_epochs(checkpoint["loops"])
    return new


def _moments(state: dict[str, Any], names: list[str], dims: dict[str, int], rows: _Rows) -> dict[str, Any]:
    """An optimizer's state with the rows of its moments carried over.

    Adam counts steps for a tensor, not for a row, so a new item's moments are not corrected for having begun at
    zero: its first steps are up to three times as large, which a new item can do with.
    """
    # Optimizers number the parameters in the order of model.parameters().
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    if len(numbers) != len(names):
        raise CheckpointError(f"The optimizer has {len(numbers)} tensors and the model {len(names)}: not its own.")
    dim_of = {number: dims[name] for number, name in zip(numbers, names, strict=True) if name in dims}
    moments = {
        number: {
            key: rows.carry_moment(value, dim_of[number])
            if number in dim_of and isinstance(value, Tensor) and value.dim()  # not the count of steps
            else value
            for key, value in entry.items()
        }
        for number, entry in state["state"].items()
    }
    return state | {"state": moments}


def _watching_anew(scheduler: dict[str, Any]) -> dict[str, Any]:
    """ReduceLROnPlateau without the best loss it has seen; other schedulers as they are."""
    if "num_bad_epochs" not in scheduler:
        return scheduler
    return scheduler | {"best": scheduler["mode_worse"], "num_bad_epochs": 0, "cooldown_counter": 0}


def _between_epochs(loops: dict[str, Any]) -> dict[str, Any]:
    """The loops' progress with the epoch that was under way counted as done: the new data has other batches."""
    loops = deepcopy(loops)
    fit_loop = loops["fit_loop"]
    fit_loop["state_dict"].pop("combined_loader", None)
    for counts in (fit_loop["epoch_progress"]["total"], fit_loop["epoch_progress"]["current"]):
        counts.update(dict.fromkeys(counts, counts["ready"]))
    for name in ("epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"):
        progress = fit_loop[name]
        progress["total"].update(dict.fromkeys(progress["total"], progress["total"]["ready"]))
        progress["current"].update(dict.fromkeys(progress["current"], 0))
        progress["is_last_batch"] = False
    return loops


def _vocabulary_of(
    checkpoint: dict[str, Any], model: ItemModel, name: str, given: Sequence[Hashable] | None
) -> list[Hashable]:
    if not checkpoint.get("optimizer_states") or "loops" not in checkpoint:
        raise CheckpointError(
            f"{name} has no optimizer state, so training cannot go on from it. ModelCheckpoint saves it unless "
            "save_weights_only=True."
        )
    _, state = find_vocabulary(checkpoint) or (None, {})
    items = given if given is not None else state.get("item_ids")
    if items is None:
        raise CheckpointError(
            f"{name} has no item vocabulary (no entry with 'item_ids'), so nothing says which item a row is of. Pass "
            "saved_vocabulary=, the item ids of the data it was trained on, in the order of its columns."
        )
    if len(items) != model.hparams["num_items"]:
        raise CheckpointError(
            f"{name} has a model of {model.hparams['num_items']:,} items, and its vocabulary has {len(items):,}."
        )
    return list(items)


def _shared(old: list[Hashable], new: list[Hashable], strict: bool) -> list[tuple[int, int]]:
    """The shared items: their place in the old vocabulary and in the new."""
    for name, items in (("saved", old), ("new", new)):
        if len(set(items)) < len(items):
            raise CheckpointError(f"An item stands twice in the {name} vocabulary of {len(items):,}.")
    column = {item: i for i, item in enumerate(new)}
    pairs = [(i, column[item]) for i, item in enumerate(old) if item in column]
    if strict and len(pairs) < ENOUGH * min(len(old), len(new)):
        raise CheckpointError(_too_few(old, new, len(pairs)))
    return pairs


def _too_few(old: list[Hashable], new: list[Hashable], shared: int) -> str:
    as_text = len(set(map(str, old)) & set(map(str, new)))
    kinds = [" and ".join(sorted({type(item).__name__ for item in items})) for items in (old, new)]
    hint = (
        f"As text {as_text:,} would be: the ids are {kinds[0]} in the checkpoint and {kinds[1]} here. Convert them."
        if as_text > shared
        else "Check that both are ids of the same data. Pass strict=False to carry over what there is all the same."
    )
    return (
        f"Of {len(old):,} items in the checkpoint and {len(new):,} in the new vocabulary {shared:,} are shared. {hint}"
    )
