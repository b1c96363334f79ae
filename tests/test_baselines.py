"""Popularity and EASE: what a neural recommender has to beat."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mvae import EASE, Popularity, synthetic
from mvae.metrics import mask_seen


def test_popularity_ranks_by_how_many_liked_it_the_same_for_everybody() -> None:
    train = sp.csr_matrix(np.array([[1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]], np.float32))
    scores = Popularity().fit(train)(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    assert scores.tolist() == [[1.0, 0.0, 2.0, 3.0]] * 2
    assert mask_seen(scores, torch.tensor([[0.0, 0, 0, 1], [0, 0, 0, 0]])).argmax(dim=1).tolist() == [2, 3]


@pytest.mark.parametrize("l2", [1.0, 20.0, 500.0])
def test_each_column_of_ease_is_the_ridge_regression_on_all_other_items(l2: float) -> None:
    train = synthetic(80, 15, interactions_per_user=6).matrix
    dense = train.toarray().astype(np.float64)
    expected = np.zeros((15, 15))
    for item in range(15):
        others = [i for i in range(15) if i != item]
        x, y = dense[:, others], dense[:, item]
        # Ridge regression as ordinary least squares on λ's square root stacked beneath: nothing of EASE's formula.
        stacked = np.vstack([x, np.sqrt(l2) * np.eye(14)]), np.concatenate([y, np.zeros(14)])
        expected[others, item] = np.linalg.lstsq(*stacked, rcond=None)[0]
    weights = EASE(l2).fit(train).weights
    assert weights.dtype == torch.float32
    assert weights.numpy() == pytest.approx(expected, abs=1e-6)


def test_ease_scores_are_the_liked_items_weights_added_up() -> None:
    ease = EASE(10.0).fit(synthetic(80, 15, interactions_per_user=6).matrix)
    x = torch.zeros(2, 15)
    x[0, 3] = x[0, 7] = x[1, 2] = 1.0
    assert torch.allclose(ease(x), torch.stack([ease.weights[3] + ease.weights[7], ease.weights[2]]))
    assert ease.weights.diagonal().abs().max() == 0  # an item says nothing about itself


def test_ease_finds_items_that_go_together_where_popularity_cannot() -> None:
    pairs = np.kron(np.eye(5, dtype=np.float32), np.ones((20, 2), np.float32))  # items 2i and 2i + 1, liked by the same
    x = torch.eye(10)
    best = mask_seen(EASE().fit(sp.csr_matrix(pairs))(x), x).argmax(dim=1)
    assert best.tolist() == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]


def test_an_item_nobody_liked_does_no_harm() -> None:
    train = sp.csr_matrix(np.array([[1, 1, 0], [1, 0, 0]], np.float32))
    assert EASE().fit(train).weights.isfinite().all()
    assert EASE().fit(train).weights[:, 2].tolist() == [0, 0, 0]
