"""The item vocabulary in a checkpoint: how a data module saves it, checks it, and where it is found again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerStatus

from mvae.data.interactions import Interactions
from mvae.errors import DataError


class VocabularyDataModule(L.LightningDataModule):
    """A data module whose item vocabulary travels in the checkpoint.

    Lightning saves `state_dict` under the name of the class, and `find_vocabulary` finds it under any.

    Args:
        interactions: the data.
    """

    def __init__(self, interactions: Interactions) -> None:
        super().__init__()
        self.interactions = interactions

    @property
    def num_items(self) -> int:
        """Columns of the matrix: what a model's `num_items` must be."""
        return self.interactions.num_items

    @property
    def item_ids(self) -> list[Hashable]:
        """The item vocabulary: column → item id."""
        return list(self.interactions.item_ids)

    @property
    def share(self) -> tuple[int, int]:
        """Which process this is, and of how many, while a Trainer runs: Lightning's numbers. Else (0, 1).

        After a run there is no sharing: whoever evaluates a model then wants all users.
        """
        trainer = self.trainer
        if trainer is None or trainer.state.status != TrainerStatus.RUNNING:
            return 0, 1
        of_lightning = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        return of_lightning["rank"], of_lightning["num_replicas"]

    def state_dict(self) -> dict[str, Any]:
        """What Lightning puts into the checkpoint: the vocabulary, as plain ints or strings, and the set's name."""
        return {"item_ids": self.item_ids, "source": self.interactions.source}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called when training resumes from a checkpoint.

        Raises:
            DataError: the checkpoint was trained on other items, or on the same ones in another order.
        """
        saved, here = list(state_dict["item_ids"]), self.item_ids
        if saved == here:
            return
        missing, new = len(set(saved) - set(here)), len(set(here) - set(saved))
        what = (
            f"{missing:,} of its items are not in this data, {new:,} here are not in it"
            if missing + new
            else ("the same items stand in another order")
        )
        raise DataError(
            f"The checkpoint was trained on {len(saved):,} items and this data has {len(here):,}: {what}. "
            "Resume on the data it was trained on, or carry its rows over by item id first (mvae.checkpoint.realign)."
        )


def find_vocabulary(checkpoint: Any) -> tuple[str, dict[str, Any]] | None:
    """The entry of a checkpoint that holds the item vocabulary: its key, and the state with `item_ids`.

    The key is the name of the data module's class, so it is not asked for: the entry is known by what is in it.
    """
    if isinstance(checkpoint, Mapping):
        for key, state in checkpoint.items():
            if isinstance(state, dict) and "item_ids" in state:
                return key, state
    return None
