"""What a training step needs to know where several processes share it.

PyTorch's DistributedDataParallel takes the mean of the processes' gradients: that of all users only where each process
has as many of them. So a process weighs its loss by its share of the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def processes() -> int:
    """How many processes train together; 1 where this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def weight_of_share(count: int, device: torch.device) -> float:
    """What the mean over `count` users (or masked items) counts in a step that all processes take together.

    With n of N users here and P processes that is P·n / N: the mean over processes of weight × mean is then the mean
    over all N. Every process must call it in the same step.

    Args:
        count: how many are here; 0 where the last batch is too short for all.
        device: where the processes exchange numbers.
    """
    if processes() == 1:
        return 1.0
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return processes() * count / total.item()


def no_loss(parameters: Iterable[nn.Parameter]) -> Tensor:
    """A loss of 0 with a gradient of 0 for every parameter: the step of a process that has no users in it."""
    return 0.0 * torch.stack([parameter.sum() for parameter in parameters]).sum()


def users_in(batch: Sequence[Tensor]) -> int:
    """How many users there are in a batch of (fold-in, held-out, …), for the `batch_size` of Lightning's `log`.

    A float, whatever its type says: to take a mean over all users, Lightning takes the mean of this number over the
    processes, and of 3 and 2 as whole numbers that is 2.
    """
    return float(len(batch[0]))  # type: ignore[return-value]
