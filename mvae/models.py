"""The models of this package, each named once. Add one here, and `fit`, `load` and `realign` know it.

What they need to know of a model, it says itself:

- `file_name`: what `fit` calls its checkpoints;
- `score(columns)`: [1, items], the logits for somebody who liked the items of these columns, in that order;
- `item_dims()`: the tensors with something for each item, by name, and which of their dimensions is the items'. What
  comes after the items in that dimension (the rows of special tokens) is no item's, and `realign` keeps it.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from mvae.bert4rec import BERT4Rec
from mvae.data.datamodule import InteractionsDataModule
from mvae.data.sequences import SequencesDataModule
from mvae.data.vocabulary import VocabularyDataModule
from mvae.model import MultiVAE

#: Hyperparameters that do better than the class's own on small sets; the README's table says by how much.
SMALL_DATA: dict[str, Any] = {"weight_decay": 5e-4, "kl_max_weight": 1.0, "kl_anneal_steps": 1000}

ItemModel = MultiVAE | BERT4Rec


class Kind(NamedTuple):
    """A model, the data it learns from, and the hyperparameters that `fit` gives a new one."""

    model: type[ItemModel]
    data: type[VocabularyDataModule]
    settings: dict[str, Any]


KINDS = (
    Kind(MultiVAE, InteractionsDataModule, SMALL_DATA),
    Kind(BERT4Rec, SequencesDataModule, {"num_layers": 1, "lr": 2e-3}),
)


def kind_of(datamodule: VocabularyDataModule | None, model: ItemModel | None) -> Kind:
    """The kind of `model`, or, where there is none yet, the one that learns from such data.

    Raises:
        TypeError: the model does not learn from such data.
    """
    for kind in KINDS:
        if model is None and isinstance(datamodule, kind.data):
            return kind
        if isinstance(model, kind.model):
            if isinstance(datamodule, tuple(other.data for other in KINDS)) and not isinstance(datamodule, kind.data):
                found = f"{type(model).__name__} and {type(datamodule).__name__}"
                raise TypeError(f"{found} do not go together: {kind.model.__name__} expects {kind.data.__name__}.")
            return kind
    raise TypeError(f"{type(datamodule).__name__} with {type(model).__name__}: expected one of mvae.models.KINDS.")


def model_class(hyper_parameters: Any) -> type[ItemModel]:
    """The model whose `__init__` knows most of these hyperparameters: a checkpoint does not name its class."""

    def known(kind: Kind) -> int:
        return sum(name in hyper_parameters for name in inspect.signature(kind.model).parameters)

    return max(KINDS, key=known).model
