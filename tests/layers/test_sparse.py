"""The layers for sparse batches: the same numbers, gradients and random draws as the dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from mvae.data.loader import CSRLoader
from mvae.layers import sparse
from mvae.model import MultiVAE, multinomial_nll


def batches(users: int = 5, items: int = 40, seed: int = 0, share: float = 0.2) -> tuple[Tensor, Tensor]:
    """The same users twice: as a CSR tensor and as a dense one, of float64. The first has no items."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((users, items)) < share, rng.integers(1, 4, (users, items)), 0).astype(np.float64)
    dense[0] = 0
    loader = CSRLoader(sp.csr_matrix(dense), batch_size=users, layout=torch.sparse_csr)
    return next(iter(loader)), torch.from_numpy(dense)


@given(seed=st.integers(0, 10_000), users=st.integers(1, 6), items=st.integers(1, 50))
def test_rows_are_divided_by_their_length(seed: int, users: int, items: int) -> None:
    x, dense = batches(users, items, seed)
    torch.testing.assert_close(sparse.normalized(x).to_dense(), F.normalize(dense, dim=1))


def test_dropout_draws_the_same_entries_as_for_dense_rows() -> None:
    x, dense = batches(20, 100)
    model = MultiVAE(100, [4], dropout=0.3).train()
    torch.manual_seed(5)
    left = model.drop_items(x)
    torch.manual_seed(5)
    assert torch.equal(left.to_dense(), model.drop_items(dense))
    assert 0 < left.values().shape[0] < x.values().shape[0]


@pytest.mark.parametrize("by_item", [False, True])
@given(seed=st.integers(0, 10_000), users=st.integers(1, 6), items=st.integers(2, 50))
def test_the_first_layer_and_its_gradients(by_item: bool, seed: int, users: int, items: int) -> None:
    x, dense = batches(users, items, seed)
    torch.manual_seed(seed)
    layer = nn.Linear(items, 7).double()
    expected = layer(dense)
    towards = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, layer.parameters(), towards)
    if by_item:
        sparse.store_by_item(layer)
    got = sparse.linear_of_sparse(x, layer)
    torch.testing.assert_close(got, expected)
    for ours, theirs in zip(torch.autograd.grad(got, layer.parameters(), towards), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_weight_stored_by_item_has_a_gradient_stored_by_item() -> None:
    x, _ = batches()
    layer = nn.Linear(40, 7).double()
    before = layer.weight.detach().clone()
    sparse.store_by_item(layer)
    assert layer.weight.shape == (7, 40)
    assert layer.weight.stride() == (1, 7)
    assert torch.equal(layer.weight, before)
    sparse.linear_of_sparse(x, layer).sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride()


@given(seed=st.integers(0, 10_000), users=st.integers(1, 6), items=st.integers(1, 50), scale=st.sampled_from([1, 300]))
def test_the_last_layer_with_its_loss_and_their_gradients(seed: int, users: int, items: int, scale: int) -> None:
    x, dense = batches(users, items, seed)
    torch.manual_seed(seed)
    layer = nn.Linear(6, items).double()
    hidden = (scale * torch.randn(users, 6, dtype=torch.float64)).requires_grad_()
    inputs = [hidden, *layer.parameters()]
    expected, got = multinomial_nll(layer(hidden), dense), sparse.multinomial_nll_of(hidden, layer, x)
    torch.testing.assert_close(got, expected)
    for ours, theirs in zip(
        torch.autograd.grad(3 * got, inputs), torch.autograd.grad(3 * expected, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_under_autocast_the_products_are_of_bfloat16_and_the_loss_is_not() -> None:
    x, dense = batches(20, 100)
    layer = nn.Linear(6, 100)
    hidden = torch.randn(20, 6, requires_grad=True)
    exact = multinomial_nll(layer(hidden), dense.float())
    with torch.autocast("cpu", torch.bfloat16):
        rough = sparse.multinomial_nll_of(hidden, layer, x)
    gradients = [torch.autograd.grad(loss, [hidden, *layer.parameters()]) for loss in (exact, rough)]
    assert rough.dtype == torch.float32
    assert rough != exact
    torch.testing.assert_close(rough, exact, rtol=1e-2, atol=0)
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02)
