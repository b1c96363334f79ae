"""Adam for a matrix stored column by column: the same steps as for one stored row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mvae.layers.adam import Adam


def parameters(by_column: bool) -> list[nn.Parameter]:
    torch.manual_seed(0)
    matrix = torch.randn(5, 8)
    return [nn.Parameter(matrix.t().contiguous().t() if by_column else matrix), nn.Parameter(torch.randn(8))]


def train(chosen: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in chosen:
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimizer.step()
    return [parameter.detach() for parameter in chosen]


@pytest.mark.parametrize("fused", [True, False])
def test_the_order_in_memory_changes_no_step(fused: bool) -> None:
    options = {"lr": 0.1, "weight_decay": 0.01, "fused": fused}
    rows, columns = parameters(by_column=False), parameters(by_column=True)
    expected = train(rows, torch.optim.Adam(rows, **options), range(5))
    got = train(columns, Adam(columns, **options), range(5))
    assert got[0].stride() == (1, 5)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("saved_by_column", [True, False])
@pytest.mark.parametrize("resumed_by_column", [True, False])
def test_a_run_goes_on_in_another_order_in_memory(saved_by_column: bool, resumed_by_column: bool) -> None:
    straight = parameters(by_column=False)
    expected = train(straight, torch.optim.Adam(straight, lr=0.1, fused=True), range(6))

    first = parameters(saved_by_column)
    optimizer = Adam(first, lr=0.1, fused=True)
    train(first, optimizer, range(3))
    saved = optimizer.state_dict()
    assert all(value.is_contiguous() for state in saved["state"].values() for value in state.values())

    second = parameters(resumed_by_column)
    for parameter, before in zip(second, first, strict=True):
        parameter.data.copy_(before.data)
    optimizer = Adam(second, lr=0.1, fused=True)
    optimizer.load_state_dict(saved)
    for ours, theirs in zip(train(second, optimizer, range(3, 6)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
