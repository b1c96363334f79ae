"""load(): from a checkpoint file to a model that recommends."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch

from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.formats.reading import read
from mvae.data.vocabulary import find_vocabulary
from mvae.errors import CheckpointError, CheckpointNotFoundError
from mvae.models import KINDS, ItemModel, model_class


class Recommendation(NamedTuple):
    """One recommended item, and the probability the model gives it among the items not yet liked."""

    item_id: Hashable
    probability: float


class Recommender(NamedTuple):
    """A model and its item vocabulary, as `load` returns them: `model, vocabulary = load(path)` works too.

    Attributes:
        model: in eval mode, on the CPU.
        vocabulary: column → item id.
        source: the name of the data set it was trained on, where the checkpoint says (`ml-100k`).
    """

    model: ItemModel
    vocabulary: list[Hashable]
    source: str | None = None

    @torch.inference_mode()
    def recommend(self, liked: Sequence[Hashable], top: int = 10) -> list[Recommendation]:
        """The `top` items for somebody who liked these, best first; never one of those liked.

        Args:
            liked: item ids. BERT4Rec reads them in the order in which they were liked, the newest last.
            top: how many items.

        Raises:
            CheckpointError: nothing liked, or an id that is not in the vocabulary.
            ValueError: `top` is below 1.
        """
        if top < 1:
            raise ValueError(f"top is {top}; expected how many items to recommend, at least 1.")
        column = {item_id: i for i, item_id in enumerate(self.vocabulary)}
        unknown = [item_id for item_id in liked if item_id not in column]
        if unknown or not liked:
            what = f"{unknown[0]!r} is not among them" if unknown else "none was given"
            raise CheckpointError(f"The model knows {len(column):,} item ids, and {what}. Pass ids from .vocabulary.")
        columns = [column[item_id] for item_id in liked]
        logits = self.model.score(columns)
        logits[0, columns] = float("-inf")
        probability = logits.softmax(dim=1)[0]
        best = probability.topk(min(top, len(column) - len(set(liked))))
        return [
            Recommendation(self.vocabulary[i], p)
            for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def load(path: str | os.PathLike[str], *, weights_only: bool = True) -> Recommender:
    """Load a checkpoint of one of this package's models, saved by `fit` or Lightning, with its item vocabulary.

    Nothing in the file is run, and of the optimizer's two thirds of it nothing is read.

    Args:
        path: the `.ckpt` file.
        weights_only: `False` lets the file run whatever it says; only for a file you made yourself.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointError: a folder; not a checkpoint; a checkpoint of another model; without a vocabulary; or one
            that `weights_only=True` refuses. The message says which and what to do.
    """
    path = Path(path)
    checkpoint = read_with_torch(path, weights_only)
    model = model_in(checkpoint, path.name)
    name = type(model).__name__
    vocabulary = find_vocabulary(checkpoint)
    if vocabulary is None:
        raise CheckpointError(
            f"{path.name} holds a {name} but no item vocabulary (no entry with 'item_ids'), so nothing says which "
            f"item a column is. Train with a data module of mvae.data, or call {name}.load_from_checkpoint."
        )
    key, state = vocabulary
    try:
        items, source = list(state["item_ids"]), state.get("source")
        different = len(set(items))
    except TypeError:
        raise CheckpointError(
            f"{path.name} has {key!r}, but not as this package's data module saves it: expected item_ids, "
            "a list of ids. Load it with the data module that saved it."
        ) from None
    if not model.hparams["num_items"] == len(items) == different:
        raise CheckpointError(
            f"{path.name} has a model of {model.hparams['num_items']:,} items and a vocabulary of {len(items):,}, "
            f"{different:,} of them different. All three must be equal; the file was changed after it was saved."
        )
    return Recommender(model.requires_grad_(False).eval(), items, source)


def model_in(checkpoint: dict[str, Any], name: str) -> ItemModel:
    """The model in a checkpoint with its weights, on the CPU and in the number type of the file.

    Args:
        checkpoint: what `read_with_torch` returned.
        name: what to call the file in a message.

    Raises:
        CheckpointError: it is of none of `mvae.models.KINDS`, or its weights are not those of its
            hyperparameters.
    """
    hyper_parameters, state_dict = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    try:
        with torch.device("meta"):  # no memory and no initialisation for weights that are replaced at once
            model = model_class(hyper_parameters)(**hyper_parameters)
        model.load_state_dict({name: tensor.clone() for name, tensor in state_dict.items()}, assign=True)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        known = " or ".join(kind.model.__name__ for kind in KINDS)
        raise CheckpointError(
            f"{name} is not a checkpoint of {known}. {_first_lines(error)} Load it with the class that saved it."
        ) from None
    # `model.dtype` and `model.device` are then those of its tensors.
    return model.to(device="cpu", dtype=next(model.parameters()).dtype)


def read_with_torch(path: Path, weights_only: bool) -> dict[str, Any]:
    """`torch.load` on the CPU, with every common failure said in plain words."""
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder. Pass a file in it: get_latest_checkpoint({str(path)!r}) finds the best."
        )
    if not path.exists():
        raise CheckpointNotFoundError(
            f"There is no file {path}. ModelCheckpoint writes last.ckpt only with save_last=True; "
            "get_latest_checkpoint(folder) finds the best checkpoint of a folder."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=weights_only, mmap=is_zipfile(path))
    except Exception as error:
        # torch raises many types, most of them about its own internals: RuntimeError, UnpicklingError, EOFError, …
        # What is no checkpoint, or is cut off, this package's own reader says in plain words.
        contents = read(path)
        if contents.format is Format.PICKLE:
            raise CheckpointError(
                f"{path.name} is a plain pickle, not a file that torch.save or Lightning wrote, so PyTorch does not "
                "load it. `mvae inspect` shows what is in it."
            ) from None
        if weights_only and "weights" in str(error).lower() and "only" in str(error).lower():
            raise CheckpointError(
                f"torch.load(weights_only=True) refuses {path.name}: {_refused(error)} `mvae plain "
                "FILE -o OUT` writes it again in plain values, or names what has no plain form; `mvae inspect` shows "
                "what it would import. Pass weights_only=False only if you made the file yourself."
            ) from None
        raise CheckpointError(
            f"{path.name} is not a checkpoint that PyTorch can read: {_first_lines(error)} Expected a file that "
            "torch.save or Lightning wrote; it may be cut off (`mvae verify` says)."
        ) from None
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= checkpoint.keys():
        found = (
            f"the keys {', '.join(map(str, list(checkpoint)[:5]))}"
            if isinstance(checkpoint, dict)
            else f"a {type(checkpoint).__name__}"
        )
        raise CheckpointError(
            f"{path.name} is not a Lightning checkpoint with saved hyperparameters: it holds {found}. "
            "Expected the keys state_dict and hyper_parameters."
        )
    return checkpoint


def _first_lines(error: Exception) -> str:
    """The first two lines of a long torch message, as one sentence."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = " ".join(lines[:2])[:240] or type(error).__name__
    return text if text.endswith(".") else text + "."


def _refused(error: Exception) -> str:
    """The sentence of torch's message that names what is not allowed."""
    for line in str(error).splitlines():
        if "GLOBAL" in line or "Unsupported" in line or "not an allowed global" in line:
            return line.strip().split(". ")[0].rstrip(".") + "."
    return _first_lines(error)
