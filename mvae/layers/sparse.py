"""What the network does with a batch that is a sparse CSR tensor [batch, items]: an entry for each item liked.

Of 6,807 items a user likes 164 or so. A dense first layer multiplies 6,643 zeros for every one of them, and its
gradient is computed for them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def csr(indptr: Tensor, indices: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """A CSR tensor of these three parts, which are taken as they are: of int64, int64 and floats."""
    return torch.sparse_csr_tensor(indptr, indices, values, tuple(shape), check_invariants=False)


def rows_of(x: Tensor) -> Tensor:
    """[entries]: the row that each entry of a CSR tensor stands in."""
    return torch.repeat_interleave(torch.arange(len(x), device=x.device), x.crow_indices().diff())


def normalized(x: Tensor) -> Tensor:
    """Each row of a CSR tensor divided by its length, as `F.normalize(x, dim=1)` does it with a dense one."""
    rows, values = rows_of(x), x.values()
    length = values.new_zeros(len(x)).index_add_(0, rows, values.square()).sqrt_().clamp_(min=1e-12)
    return csr(x.crow_indices(), x.col_indices(), values / length[rows], x.shape)


def without_some(x: Tensor, p: float) -> Tensor:
    """Dropout: a share `p` of the entries is left out of a CSR tensor, the others are divided by 1 − p.

    Draws as many random numbers, and in the same order, as `MultiVAE.drop_items` does for the same rows made dense.
    """
    kept = torch.rand(x.values().shape[0], device=x.device) >= p
    indptr = F.pad(kept.cumsum(0), (1, 0))[x.crow_indices()]
    return csr(indptr, x.col_indices()[kept], x.values()[kept] / (1 - p), x.shape)


def store_by_item(layer: nn.Linear) -> None:
    """Keep the weight [out, items] of a first layer in memory item by item: what belongs to an item lies together.

    Its shape, and what the network computes, stay. A user's items are then read in one piece each.
    """
    layer.weight.data = layer.weight.data.t().contiguous().t()


def linear_of_sparse(x: Tensor, layer: nn.Linear) -> Tensor:
    """`layer(x)` [batch, out] for a CSR tensor x [batch, items]: each row adds up the columns of its items."""
    summed: Tensor = _WeightedSum.apply(x.crow_indices(), x.col_indices(), x.values(), layer.weight)  # type: ignore[no-untyped-call]
    return summed + layer.bias


class _WeightedSum(torch.autograd.Function):
    """x Wᵀ, and for W the gradient gᵀ x, in the memory order of W. There is no gradient for x, which is data."""

    @staticmethod
    def forward(ctx: Any, indptr: Tensor, indices: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(indptr, indices, values, weight)
        by_item, values = weight.t(), values.to(weight.dtype)  # [items, out]
        if by_item.is_contiguous():
            return F.embedding_bag(indices, by_item, indptr[:-1], mode="sum", per_sample_weights=values)
        # Not `store_by_item`: there an embedding_bag is 70 times slower, and this as slow as a dense layer.
        summed: Tensor = csr(indptr, indices, values, (len(indptr) - 1, len(by_item))) @ by_item
        return summed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None, Tensor]:
        indptr, indices, values, weight = ctx.saved_tensors
        x = csr(indptr, indices, values.to(weight.dtype), (len(gradient), weight.shape[1]))
        by_item = torch.empty_like(weight).t()
        torch.addmm(by_item, x.t().to_sparse_csr(), gradient.to(weight.dtype), beta=0, out=by_item)
        return None, None, None, by_item.t()


def multinomial_nll_of(hidden: Tensor, layer: nn.Linear, x: Tensor) -> Tensor:
    """`multinomial_nll(layer(hidden), x)`, a scalar, for a CSR tensor x: the last layer and the loss in one.

    Args:
        hidden: [batch, in], what comes into the last layer.
        layer: [in → items].
        x: CSR [batch, items], how often each item was chosen.
    """
    nll: Tensor = _SoftmaxNLL.apply(hidden, layer.weight, layer.bias, x)  # type: ignore[no-untyped-call]
    return nll


class _SoftmaxNLL(torch.autograd.Function):
    """−Σᵢ xᵢ log πᵢ, the mean over users, with one matrix of the size of the logits from the beginning to the end.

    That matrix is [items, batch]: so the products with W [items, in] are quicker than the other way round. It holds
    the logits, then π = softmax(logits), then the gradient n π − x, where n is the number of items of a user. log πᵢ is
    needed for the items in x only: logitᵢ − logsumexp(logits).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        device = weight.device.type
        if torch.is_autocast_enabled(device):  # mixed precision: the products, here and backward, are of fewer bits
            low = torch.get_autocast_dtype(device)
            hidden, narrow = hidden.to(low), weight.to(low)
        else:
            narrow = weight
        logits = torch.addmm(bias.to(narrow.dtype)[:, None], narrow, hidden.t()).to(weight.dtype)
        users, counts = rows_of(x), x.values().to(weight.dtype)
        n = counts.new_zeros(len(x)).index_add_(0, users, counts)
        seen = x.col_indices() * len(x) + users  # where they are in the flat matrix
        liked = logits.view(-1)[seen].dot(counts)
        largest = logits.amax(dim=0)
        pi = logits.sub_(largest).exp_()
        total = pi.sum(dim=0)
        gradient = pi.mul_(n / total)
        gradient.view(-1).index_add_(0, seen, -counts)
        ctx.save_for_backward(hidden, narrow, gradient)
        return ((largest + total.log()).dot(n) - liked) / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        hidden, weight, gradient = ctx.saved_tensors
        gradient = gradient * (scale / hidden.shape[0])
        narrow = gradient.to(weight.dtype)
        wide = gradient.dtype
        return (narrow.t() @ weight).to(wide), (narrow @ hidden).to(wide), gradient.sum(dim=1), None
