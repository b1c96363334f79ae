"""Adam for a weight that is not stored row by row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """`torch.optim.Adam` (Kingma and Ba 2015), also for matrices in memory column by column.

    PyTorch's fused Adam goes through parameter, gradient and moments as they lie in memory. It copies a matrix that
    lies there otherwise, and is wrong where the four differ. So such a matrix is handed over as its transpose, which is
    the same memory, and moments that come from a checkpoint are brought into the order of their parameter.

    `state_dict()` has every moment row by row: a checkpoint does not show which order it was trained in.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        complex_numbers: bool = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
        for tensors in lists[:4]:  # parameters, gradients, and the two moments
            tensors[:] = [tensor.t() if _by_column(tensor) else tensor for tensor in tensors]
        return complex_numbers

    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        saved["state"] = {
            number: {name: value.contiguous() if _by_column(value) else value for name, value in state.items()}
            for number, state in saved["state"].items()
        }
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _by_column(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and not value.is_contiguous() and value.t().is_contiguous()
