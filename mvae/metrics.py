"""Recall@k and NDCG@k as defined by Liang et al. 2018, section 4.2: both truncated, so that 1 can be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def recall_at_k(scores: Tensor, held_out: Tensor, k: int) -> Tensor:
    """How many of the held-out items stand among the first k, over the most that could: min(k, number held out).

    Args:
        scores: [users, items]. Items that were shown to the model must be -inf (see :func:`mask_seen`).
        held_out: [users, items], non-zero where the item is to be predicted.
        k: length of the list.

    Returns:
        [users]; nan for a user with nothing held out.
    """
    hits = _hits(scores, held_out, k).sum(dim=1)
    return hits / (held_out > 0).sum(dim=1).clamp(max=k)


def ndcg_at_k(scores: Tensor, held_out: Tensor, k: int) -> Tensor:
    """Discounted cumulative gain of the first k, over that of a perfect list.

    A hit at rank r counts 1 / log2(r + 1); a perfect list has its min(k, number held out) hits on top.

    Args and returns as :func:`recall_at_k`.
    """
    hits = _hits(scores, held_out, k)
    discount = 1 / torch.log2(torch.arange(2, hits.shape[1] + 2, device=hits.device, dtype=hits.dtype))
    best = torch.cat([discount.new_zeros(1), discount.cumsum(0)])
    return (hits * discount).sum(dim=1) / best[(held_out > 0).sum(dim=1).clamp(max=k)]


def mask_seen(scores: Tensor, fold_in: Tensor) -> Tensor:
    """Scores with -inf where the user has the item already, so that it is never recommended again."""
    return scores.masked_fill(fold_in > 0, float("-inf"))


def _hits(scores: Tensor, held_out: Tensor, k: int) -> Tensor:
    """[users, min(k, items)]: 1.0 where the item at that rank is held out."""
    top = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (held_out.gather(1, top) > 0).to(scores.dtype)


@torch.inference_mode()
def evaluate(score: Callable[[Tensor], Tensor], loader: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Rank for every held-out user, and take the mean over users.

    Args:
        score: fold-in [users, items] → scores [users, items]: a ``MultiVAE`` in eval mode, ``EASE``, ``Popularity``.
        loader: batches of (fold-in, held-out), such as ``datamodule.test_dataloader()``.

    Returns:
        ``recall@20``, ``recall@50`` and ``ndcg@100``.
    """
    parts: dict[str, list[Tensor]] = {"recall@20": [], "recall@50": [], "ndcg@100": []}
    for fold_in, held_out in loader:
        scores = mask_seen(score(fold_in), fold_in)
        parts["recall@20"].append(recall_at_k(scores, held_out, 20))
        parts["recall@50"].append(recall_at_k(scores, held_out, 50))
        parts["ndcg@100"].append(ndcg_at_k(scores, held_out, 100))
    return {name: torch.cat(values).mean().item() for name, values in parts.items()}
