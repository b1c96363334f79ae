"""Made-up interactions with real structure, for when there is no network or a size no set has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from mvae.data.interactions import Interactions
from mvae.errors import DataError


def synthetic(
    num_users: int = 1_000,
    num_items: int = 500,
    *,
    interactions_per_user: float = 40.0,
    num_tastes: int = 12,
    num_factors: int = 0,
    seed: int = 0,
) -> Interactions:
    """Draw users who like items, deterministically: the same arguments give the same matrix.

    Items have a long-tailed popularity (Zipf) and belong to `num_tastes` overlapping groups; every user mixes a
    few groups. So popularity is a fair baseline, and a model that finds the groups beats it. Groups are learned within
    a few epochs. With `num_factors` there are none: users and items are points in so many dimensions, and near ones
    go together (as in matrix factorisation), which takes a network far longer.

    Args:
        num_users: rows of the matrix.
        num_items: columns of the matrix.
        interactions_per_user: the mean number of items a user likes; the numbers vary as they do in real sets
            (log-normal), between 5 and half of the items.
        num_tastes: groups of items that the users' tastes are mixed from.
        num_factors: dimensions of taste, instead of groups.
        seed: decides everything that is drawn.

    Raises:
        DataError: fewer than 1 user, fewer than 10 items, or more interactions than half of the items.
    """
    if num_users < 1 or num_items < 10 or not 5 <= interactions_per_user <= num_items / 2:
        raise DataError(
            f"synthetic({num_users=}, {num_items=}, {interactions_per_user=}): expected at least 1 user, at least "
            "10 items, and between 5 and num_items / 2 interactions per user."
        )
    rng = np.random.default_rng(seed)
    popularity = 1.0 / (np.arange(num_items) + 10.0)
    rng.shuffle(popularity)
    log_probability = _factors(num_factors, popularity, rng) if num_factors else _groups(num_tastes, popularity, rng)

    sigma = 0.8
    counts = rng.lognormal(np.log(interactions_per_user) - sigma**2 / 2, sigma, size=num_users)
    counts = np.clip(np.round(counts), 5, num_items // 2).astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.empty(indptr[-1], dtype=np.int32)
    for start in range(0, num_users, 1024):  # in blocks: the scores of all users at once would not fit in memory
        stop = min(start + 1024, num_users)
        # Gumbel top-k: the k largest of (log p + Gumbel noise) are k draws without replacement from p.
        keys = log_probability(stop - start)
        keys += rng.gumbel(size=keys.shape)
        for row in range(start, stop):
            chosen = np.argpartition(-keys[row - start], counts[row])[: counts[row]]
            indices[indptr[row] : indptr[row + 1]] = np.sort(chosen)
    matrix = sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(num_users, num_items))
    return Interactions(matrix, user_ids=list(range(num_users)), item_ids=list(range(num_items)))


Draw = Callable[[int], np.ndarray]
"""A number of users → [users, items], the logarithm of how likely each is to like each item, up to a constant."""


def _groups(num_tastes: int, popularity: np.ndarray, rng: np.random.Generator) -> Draw:
    affinity = rng.gamma(0.1, size=(num_tastes, len(popularity))) * popularity
    affinity /= affinity.sum(axis=1, keepdims=True)

    def draw(users: int) -> np.ndarray:
        mixture = rng.dirichlet(np.full(num_tastes, 0.1), size=users)
        keys: np.ndarray = np.log(mixture @ affinity + 0.1 * popularity / popularity.sum())
        return keys

    return draw


def _factors(num_factors: int, popularity: np.ndarray, rng: np.random.Generator) -> Draw:
    strength = 6.0  # the standard deviation of what tastes add: as much as popularity from the first item to the last
    items = rng.normal(scale=strength / num_factors**0.5, size=(num_factors, len(popularity)))

    def draw(users: int) -> np.ndarray:
        keys: np.ndarray = rng.normal(size=(users, num_factors)) @ items + np.log(popularity)
        return keys

    return draw
