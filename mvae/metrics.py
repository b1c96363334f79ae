"""Recall@k and NDCG@k as defined by Liang et al. 2018, section 4.2: both truncated, so that 1 can be reached.

And HR@k, the hit rate of next-item prediction (Sun et al. 2019, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def recall_at_k(scores: Tensor, held_out: Tensor, k: int) -> Tensor:
    """How many of the held-out items stand among the first k, over the most that could: min(k, number held out).

    Args:
        scores: [users, items]. Items that were shown to the model must be -inf (see `mask_seen`).
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

    Args and returns as `recall_at_k`.
    """
    hits = _hits(scores, held_out, k)
    discount = 1 / torch.log2(torch.arange(2, hits.shape[1] + 2, device=hits.device, dtype=hits.dtype))
    best = torch.cat([discount.new_zeros(1), discount.cumsum(0)])
    return (hits * discount).sum(dim=1) / best[(held_out > 0).sum(dim=1).clamp(max=k)]


def hit_rate_at_k(scores: Tensor, held_out: Tensor, k: int) -> Tensor:
    """1 where any of the held-out items stands among the first k, else 0.

    Args and returns as `recall_at_k`, of which it is another name where a single item is held out.
    """
    return _hits(scores, held_out, k).amax(dim=1)


_AT_K = {"recall": recall_at_k, "ndcg": ndcg_at_k, "hr": hit_rate_at_k}
#: What the two papers measure: many items held out, and the next one.
TOP_N, NEXT_ITEM = ("recall@20", "recall@50", "ndcg@100"), ("hr@10", "ndcg@10")


def measure(scores: Tensor, held_out: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Metrics by name, such as `ndcg@10`: name → [users]. Args as `recall_at_k`."""
    return {name: _AT_K[name.split("@")[0]](scores, held_out, int(name.split("@")[1])) for name in names}


def mask_seen(scores: Tensor, fold_in: Tensor) -> Tensor:
    """Scores with -inf where the user has the item already, so that it is never recommended again."""
    return scores.masked_fill(fold_in > 0, float("-inf"))


def _hits(scores: Tensor, held_out: Tensor, k: int) -> Tensor:
    """[users, min(k, items)]: 1.0 where the item at that rank is held out."""
    top = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (held_out.gather(1, top) > 0).to(scores.dtype)


@torch.inference_mode()
def evaluate(
    score: Callable[[Tensor], Tensor], loader: Iterable[tuple[Tensor, ...]], names: Sequence[str] = TOP_N
) -> dict[str, float]:
    """Rank for every held-out user, and take the mean over users.

    Args:
        score: what is shown → scores [users, items]: a model in eval mode, `EASE`, `Popularity`.
        loader: batches of (fold-in, held-out), such as `InteractionsDataModule.test_dataloader()`, or of (sequences,
            fold-in, held-out), such as `SequencesDataModule.test_dataloader()`. The first is shown.
        names: the metrics.

    Returns:
        name → value.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for shown, *seen, held_out in loader:
        scores = mask_seen(score(shown), seen[0] if seen else shown)
        for name, values in measure(scores, held_out, names).items():
            parts[name].append(values)
    return {name: torch.cat(values).mean().item() for name, values in parts.items()}
