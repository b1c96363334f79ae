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

from mvae.checkpoint.with_torch.loading import VOCABULARY_KEY, read_with_torch
from mvae.checkpoint.with_torch.saving import save
from mvae.errors import CheckpointError
from mvae.model import MultiVAE

#: Share of the smaller of the two vocabularies that must be in the other one, unless ``strict=False``.
ENOUGH = 0.5


@dataclass(frozen=True)
class Realigned:
    """What :func:`realign` did.

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
    """Write the checkpoint ``path`` anew for the items of ``vocabulary``, to go on training on other data.

    ``MultiVAE`` has a column of ``encoder.0.weight`` and a row of the decoder's last weight and bias for each item.
    Those of shared items are carried over by item id, with Adam's moments; new items get what a new model would
    have, and moments of zero. All other weights, β, the learning rate and the step count stay.

    Scores on another set of items do not compare, so the states of the callbacks are left out, ReduceLROnPlateau
    begins to watch anew, and so does an epoch.

    Args:
        path: a checkpoint of ``MultiVAE``. It is not changed, unless ``out`` is the same file.
        vocabulary: column → item id of the new data: ``datamodule.item_ids``.
        out: where to write the new checkpoint (see :func:`~mvae.checkpoint.with_torch.saving.save`).
        strict: refuse when less than half of the smaller vocabulary is in the other one: then the ids are likely to
            be of different kinds, and most of the model would be lost.
        saved_vocabulary: column → item id of ``path``, for a checkpoint that does not have it.
        source: the name of the new data set, if it has another one.
        seed: decides the weights of new items.

    Raises:
        CheckpointError: not a MultiVAE checkpoint with its optimizer, no or a wrong vocabulary, an item twice, or
            too few shared items.
        CheckpointNotSavedError: ``out`` cannot be written.
    """
    checkpoint = read_with_torch(Path(path), weights_only=True)
    old = _vocabulary_of(checkpoint, Path(path).name, saved_vocabulary)
    new = list(vocabulary)
    for name, items in (("saved", old), ("new", new)):
        if len(set(items)) < len(items):
            raise CheckpointError(f"An item stands twice in the {name} vocabulary of {len(items):,}.")
    column = {item: i for i, item in enumerate(new)}
    pairs = [(i, column[item]) for i, item in enumerate(old) if item in column]
    if strict and len(pairs) < ENOUGH * min(len(old), len(new)):
        raise CheckpointError(_too_few(old, new, len(pairs)))

    rows = _Rows(torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T, len(new))
    save(_carried_over(checkpoint, rows, new, source, seed), out)
    known = set(old)
    return Realigned(
        Path(out),
        shared=[old[i] for i, _ in pairs],
        new=[item for item in new if item not in known],
        dropped=[item for item in old if item not in column],
    )


@dataclass(frozen=True)
class _Rows:
    """Which rows go where: ``moves[0]`` in the old tensors, ``moves[1]`` in the new ones, which have ``count``."""

    moves: Tensor
    count: int

    def carry(self, old: Tensor, fresh: Tensor, dim: int) -> Tensor:
        """``fresh`` with the shared rows of ``old``."""
        return fresh.to(old.dtype).index_copy(dim, self.moves[1], old.index_select(dim, self.moves[0]))

    def carry_moment(self, old: Tensor, dim: int) -> Tensor:
        shape = list(old.shape)
        shape[dim] = self.count
        return self.carry(old, old.new_zeros(shape), dim)


def _carried_over(
    checkpoint: dict[str, Any], rows: _Rows, vocabulary: list[Hashable], source: str | None, seed: int
) -> dict[str, Any]:
    settings = checkpoint["hyper_parameters"] | {"num_items": rows.count}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = MultiVAE(**settings)
    dims = _item_dims(fresh)
    new = dict(checkpoint)
    new["hyper_parameters"] = settings
    new["state_dict"] = {
        name: rows.carry(tensor, fresh.state_dict()[name], dims[name]) if name in dims else tensor
        for name, tensor in checkpoint["state_dict"].items()
    }
    names = [name for name, _ in fresh.named_parameters()]
    new["optimizer_states"] = [_moments(state, names, dims, rows) for state in checkpoint["optimizer_states"]]
    new["lr_schedulers"] = [_watching_anew(state) for state in checkpoint.get("lr_schedulers", [])]
    new["callbacks"] = {}
    new["loops"] = _between_epochs(checkpoint["loops"])
    saved_source = checkpoint.get(VOCABULARY_KEY, {}).get("source")
    new[VOCABULARY_KEY] = {"item_ids": vocabulary, "source": source or saved_source}
    return new


def _item_dims(model: MultiVAE) -> dict[str, int]:
    """The tensors with something for each item: name → its dimension of items."""
    last = f"decoder.{len(model.decoder) - 1}"
    return {"encoder.0.weight": 1, f"{last}.weight": 0, f"{last}.bias": 0}


def _moments(state: dict[str, Any], names: list[str], dims: dict[str, int], rows: _Rows) -> dict[str, Any]:
    """An optimizer's state with the rows of its moments carried over.

    Adam counts steps for a tensor, not for a row, so a new item's moments are not corrected for having begun at
    zero: its first steps are up to three times as large, which a new item can do with.
    """
    # Optimizers number the parameters in the order of model.parameters().
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    if len(numbers) != len(names):
        raise CheckpointError(f"The optimizer has {len(numbers)} tensors and MultiVAE {len(names)}: not its own.")
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


def _vocabulary_of(checkpoint: dict[str, Any], name: str, given: Sequence[Hashable] | None) -> list[Hashable]:
    hyper_parameters, state_dict = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    try:
        with torch.device("meta"):
            expected = MultiVAE(**hyper_parameters).state_dict()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name} is not a checkpoint of MultiVAE: {error}") from None
    if {key: value.shape for key, value in expected.items()} != {key: v.shape for key, v in state_dict.items()}:
        raise CheckpointError(f"The weights in {name} are not those of a MultiVAE with its hyper_parameters.")
    if not checkpoint.get("optimizer_states") or "loops" not in checkpoint:
        raise CheckpointError(
            f"{name} has no optimizer state, so training cannot go on from it. ModelCheckpoint saves it unless "
            "save_weights_only=True."
        )
    items = given if given is not None else checkpoint.get(VOCABULARY_KEY, {}).get("item_ids")
    if items is None:
        raise CheckpointError(
            f"{name} has no item vocabulary (no key {VOCABULARY_KEY!r}), so nothing says which item a row is of. Pass "
            "saved_vocabulary=, the item ids of the data it was trained on, in the order of its columns."
        )
    if len(items) != hyper_parameters["num_items"]:
        raise CheckpointError(
            f"{name} has a model of {hyper_parameters['num_items']:,} items, and its vocabulary has {len(items):,}."
        )
    return list(items)


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
