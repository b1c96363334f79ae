"""Random generators as tensors and plain values, which `weights_only=True` loads."""

from __future__ import annotations

import ctypes
import random
from typing import Any

import numpy as np
import torch

Snapshot = tuple[Any, Any, torch.Tensor, torch.Tensor | None]
"""The global generators at one moment: Python's, NumPy's, torch's, the accelerator's. Cheap to take."""


def take(device: torch.device) -> Snapshot:
    """Remember where every global generator stands."""
    accelerator = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    return random.getstate(), _numpys.state(), torch.get_rng_state(), accelerator


def put(snapshot: Snapshot, device: torch.device) -> None:
    """Go on from where `take` found them."""
    random.setstate(snapshot[0])
    _numpys.set(snapshot[1])
    torch.set_rng_state(snapshot[2])
    if snapshot[3] is not None:
        torch.get_device_module(device).set_rng_state(snapshot[3], device)


class _NumPys:
    """NumPy's global generator. To ask it where it stands takes 0.3 ms, so it is asked only if it has moved.

    Whether it has is seen from its memory: 624 words and the place in them. `normal` draws two numbers and keeps the
    second, which is used up without moving; so a generator that keeps one is always asked.
    """

    _SIZE = 625 * 4

    def __init__(self) -> None:
        self._last: tuple[bytes, dict[str, Any]] | None = None

    def state(self) -> dict[str, Any]:
        if self._last and not self._last[1]["has_gauss"] and self._last[0] == self._memory():
            return self._last[1]
        state: dict[str, Any] = np.random.get_state(legacy=False)
        self._remember(state)
        return state

    def set(self, state: dict[str, Any]) -> None:
        if self.state()["has_gauss"] or state["has_gauss"] or self._last is None:
            np.random.set_state(state)
        else:
            ctypes.memmove(np.random.mtrand.get_bit_generator().ctypes.state_address, self._words(state), self._SIZE)
        self._remember(state)

    def _memory(self) -> bytes:
        generator = np.random.mtrand.get_bit_generator()
        known = type(generator) is np.random.MT19937
        return ctypes.string_at(generator.ctypes.state_address, self._SIZE) if known else b""

    def _words(self, state: dict[str, Any]) -> bytes:
        if state["bit_generator"] != "MT19937":
            return b"another"
        return bytes(state["state"]["key"].tobytes() + np.int32(state["state"]["pos"]).tobytes())

    def _remember(self, state: dict[str, Any]) -> None:
        """Unless its memory is laid out in another way, as somebody's own generator's is."""
        words = self._words(state)
        self._last = (words, state) if words == self._memory() else None


_numpys = _NumPys()


def plain(snapshot: Snapshot, device: torch.device) -> dict[str, Any]:
    """A snapshot as tensors and plain values."""
    states = {"python": _python(snapshot[0]), "numpy": _numpy(snapshot[1]), "torch": snapshot[2]}
    return states if snapshot[3] is None else states | {device.type: snapshot[3]}


def set_generator_states(states: dict[str, Any], device: torch.device) -> list[str]:
    """Continue every generator from where `take` found it, given as `plain` writes it.

    Returns:
        The names of those that are not in `states`, as in a file that was salvaged: they are left alone.
    """
    if "python" in states:
        random.setstate(_from_python(states["python"]))
    if "numpy" in states:
        np.random.set_state(_from_numpy(states["numpy"]))
    if "torch" in states:
        torch.set_rng_state(states["torch"].cpu())
    if device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type].cpu(), device)
    wanted = ["python", "numpy", "torch", *([] if device.type == "cpu" else [device.type])]
    return [name for name in wanted if name not in states]


def seed_all(seed: int) -> None:
    """Seed the global generators of this machine's processor, and leave an accelerator's alone."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


# --- a generator that somebody holds: a DataLoader's, a sampler's, a data set's

Held = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
HELD = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def state_of(generator: Held) -> Any:
    """Where it stands, as tensors and plain values."""
    if isinstance(generator, torch.Generator):
        return generator.get_state().cpu()
    if isinstance(generator, np.random.Generator):
        return _to_plain(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _numpy(generator.get_state(legacy=False))
    return _python(generator.getstate())


def set_state_of(generator: Held, state: Any) -> None:
    """Go on from where `state_of` found it."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = _to_numpy(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_from_numpy(state))
    else:
        generator.setstate(_from_python(state))


def _python(state: Any) -> dict[str, Any]:
    version, words, gauss = state
    return {"version": version, "words": torch.tensor(words), "gauss": gauss}


def _from_python(state: dict[str, Any]) -> Any:
    return state["version"], tuple(state["words"].tolist()), state["gauss"]


def _numpy(state: Any) -> dict[str, Any]:
    key = torch.from_numpy(state["state"]["key"].astype(np.int64))
    return dict(state) | {"state": {"key": key, "pos": int(state["state"]["pos"])}}


def _from_numpy(state: dict[str, Any]) -> Any:
    key = state["state"]["key"].cpu().numpy().astype(np.uint32)
    return state | {"state": {"key": key, "pos": state["state"]["pos"]}}


def _to_plain(value: Any) -> Any:
    """NumPy's bit generators keep unsigned arrays, and numbers of 128 bits, which are written as text."""
    if isinstance(value, dict):
        return {key: _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "hex": value.tobytes().hex()}
    return hex(value) if isinstance(value, int) else value


def _to_numpy(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"dtype", "hex"}:
        return np.frombuffer(bytes.fromhex(value["hex"]), value["dtype"]).copy()
    if isinstance(value, dict):
        return {key: _to_numpy(inner) for key, inner in value.items()}
    return int(value, 16) if isinstance(value, str) and value.startswith("0x") else value
