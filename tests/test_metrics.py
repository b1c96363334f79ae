"""Recall@k and NDCG@k against the paper's formulas, written out in plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mvae import evaluate, hit_rate_at_k, ndcg_at_k, recall_at_k
from mvae.metrics import mask_seen, measure


def ranking(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda item: -scores[item])


def slow_recall(scores: list[float], held_out: set[int], k: int) -> float:
    found = sum(item in held_out for item in ranking(scores)[:k])
    return found / min(k, len(held_out))


def slow_ndcg(scores: list[float], held_out: set[int], k: int) -> float:
    gain = sum(1 / math.log2(rank + 1) for rank, item in enumerate(ranking(scores)[:k], 1) if item in held_out)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(held_out)) + 1))


@st.composite
def users(draw: st.DrawFn) -> tuple[list[float], set[int], set[int], int]:
    """Scores without ties, what was shown, what is to be predicted, and k."""
    items = draw(st.integers(2, 15))
    scores = draw(st.permutations([i / 4 - 1 for i in range(items)]))
    held_out = draw(st.sets(st.integers(0, items - 1), min_size=1))
    shown = draw(st.sets(st.integers(0, items - 1))) - held_out
    return list(scores), shown, held_out, draw(st.integers(1, 20))


def row(items: set[int], size: int) -> Tensor:
    return torch.tensor([[float(i in items) for i in range(size)]])


@given(users())
def test_both_equal_the_formulas_with_the_shown_items_masked(user: tuple) -> None:
    scores, shown, held_out, k = user
    masked = mask_seen(torch.tensor([scores]), row(shown, len(scores)))
    seen_last = [-math.inf if item in shown else score for item, score in enumerate(scores)]
    truth = row(held_out, len(scores))
    assert recall_at_k(masked, truth, k).item() == pytest.approx(slow_recall(seen_last, held_out, k), abs=1e-6)
    assert ndcg_at_k(masked, truth, k).item() == pytest.approx(slow_ndcg(seen_last, held_out, k), abs=1e-6)


def test_users_are_ranked_each_for_themselves() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    held_out = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert recall_at_k(scores, held_out, 1).tolist() == [1.0, 0.0]
    assert ndcg_at_k(scores, held_out, 3).tolist() == pytest.approx([1.0, 0.5])


def test_the_denominators_are_truncated_so_that_1_can_be_reached() -> None:
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    held_out = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])
    assert recall_at_k(scores, held_out, 2).item() == 1.0  # 2 of 4 were found, and no more than 2 could be
    assert ndcg_at_k(scores, held_out, 2).item() == 1.0


def test_a_list_longer_than_the_items_is_the_whole_list() -> None:
    scores, held_out = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert recall_at_k(scores, held_out, 100).item() == 1.0
    assert ndcg_at_k(scores, held_out, 100).item() == pytest.approx(1 / math.log2(4))


def test_a_user_with_nothing_to_predict_has_no_number() -> None:
    assert recall_at_k(torch.ones(1, 3), torch.zeros(1, 3), 2).isnan().all()
    assert ndcg_at_k(torch.ones(1, 3), torch.zeros(1, 3), 2).isnan().all()


def test_an_item_that_was_shown_is_never_a_hit() -> None:
    scores, shown = torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    masked = mask_seen(scores, shown)
    assert masked.tolist() == [[-math.inf, 1.0, 2.0]]
    assert scores.tolist() == [[9.0, 1.0, 2.0]]
    assert recall_at_k(masked, torch.tensor([[0.0, 0.0, 1.0]]), 1).item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_float_type_will_do(dtype: torch.dtype) -> None:
    scores, held_out = torch.tensor([[3.0, 2.0, 1.0]], dtype=dtype), torch.tensor([[1.0, 0.0, 1.0]])
    assert recall_at_k(scores, held_out, 2).item() == 0.5


def test_evaluate_masks_ranks_and_averages_over_users_not_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(7, 150, generator=generator)
    kind = torch.randint(0, 4, scores.shape, generator=generator)
    fold_in, held_out = (kind == 1).float(), (kind == 2).float()
    batches = [(fold_in[:5], held_out[:5]), (fold_in[5:], held_out[5:])]
    rows = iter([scores[:5], scores[5:]])
    found = evaluate(lambda _: next(rows), batches)
    expected = {}
    for name, slow, k in (("recall@20", slow_recall, 20), ("recall@50", slow_recall, 50), ("ndcg@100", slow_ndcg, 100)):
        values = []
        for user in range(7):
            seen_last = [s if not f else -math.inf for s, f in zip(scores[user].tolist(), fold_in[user], strict=True)]
            values.append(slow(seen_last, set(held_out[user].nonzero().ravel().tolist()), k))
        expected[name] = sum(values) / 7
    assert found == pytest.approx(expected, abs=1e-6)


@given(users())
def test_the_hit_rate_is_one_where_any_held_out_item_is_among_the_first_k(user: tuple) -> None:
    scores, shown, held_out, k = user
    masked = mask_seen(torch.tensor([scores]), row(shown, len(scores)))
    seen_last = [-math.inf if item in shown else score for item, score in enumerate(scores)]
    hit = any(item in held_out for item in ranking(seen_last)[:k])
    assert hit_rate_at_k(masked, row(held_out, len(scores)), k).tolist() == [float(hit)]


def test_with_one_item_held_out_the_hit_rate_is_recall() -> None:
    scores, held_out = torch.rand(50, 30), torch.eye(30)[torch.arange(50) % 30]
    for k in (1, 5, 30, 100):
        assert torch.equal(hit_rate_at_k(scores, held_out, k), recall_at_k(scores, held_out, k))


def test_metrics_are_named_as_they_are_written() -> None:
    scores, held_out = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    found = measure(scores, held_out, ["hr@1", "hr@2", "ndcg@2", "recall@3"])
    assert {name: round(value.item(), 4) for name, value in found.items()} == {
        "hr@1": 0.0,
        "hr@2": 1.0,
        "ndcg@2": 0.6309,
        "recall@3": 1.0,
    }
