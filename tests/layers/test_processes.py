"""What a training step needs to know where several processes share it. Two real ones: test_several_processes.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mvae.layers import processes
from mvae.layers.processes import no_loss, users_in, weight_of_share

CPU = torch.device("cpu")


@pytest.fixture
def group() -> Iterator[None]:
    """A group of one process: the collective calls are real."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_alone_there_is_one_process_and_its_share_is_all() -> None:
    assert processes.processes() == 1
    assert weight_of_share(3, CPU) == weight_of_share(0, CPU) == 1.0


@pytest.mark.usefixtures("group")
def test_in_a_group_the_processes_are_counted() -> None:
    assert processes.processes() == dist.get_world_size() == 1


@pytest.mark.parametrize("shares", [(3, 2), (5, 0), (1, 1), (7, 3, 2)])
def test_the_mean_over_processes_of_weighted_means_is_the_mean_over_users(
    shares: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = torch.arange(1.0, sum(shares) + 1).split(shares)
    monkeypatch.setattr(processes, "processes", lambda: len(shares))
    monkeypatch.setattr(dist, "all_reduce", lambda total: total.fill_(sum(shares)))
    weighted = [weight_of_share(len(own), CPU) * own.mean() for own in losses if len(own)]
    torch.testing.assert_close(sum(weighted) / len(shares), torch.cat(losses).mean())


def test_a_step_without_users_has_a_gradient_of_zero_for_every_parameter() -> None:
    layer = nn.Linear(3, 2)
    loss = no_loss(layer.parameters())
    assert loss.item() == 0.0
    loss.backward()
    for parameter in layer.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_users_are_counted_so_that_a_mean_over_processes_keeps_its_half() -> None:
    batch = (torch.zeros(3, 4), torch.zeros(3, 4))
    assert users_in(batch) == 3
    assert torch.tensor([users_in(batch), users_in((torch.zeros(2, 4),))]).mean().item() == 2.5
