"""The tensors of a checkpoint under their names."""

from __future__ import annotations

import io
import json

import pytest
import torch

from mvae.checkpoint import inspect
from mvae.checkpoint.report.entries import TensorEntry, byte_span

FLAT = torch.arange(60.0)
VIEWS = {
    "whole": FLAT, "middle": FLAT[10:20], "table": FLAT[:60].view(6, 10), "columns": FLAT.view(6, 10)[:, 2:5],
    "turned": FLAT.view(6, 10).t(), "every third": FLAT[::3], "one": FLAT[7], "expanded": FLAT[5].expand(4, 4),
}  # fmt: skip


def entries(value: object) -> dict[str, TensorEntry]:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return {entry.name: entry for entry in inspect(buffer.getvalue()).tensors}


@pytest.mark.parametrize("name", VIEWS)
def test_the_span_of_a_view_is_from_its_first_byte_to_past_its_last(name: str) -> None:
    """Held against the addresses that torch gives its elements: FLAT[i] is i."""
    first, last = int(VIEWS[name].min()), int(VIEWS[name].max())
    assert byte_span(entries(VIEWS)[name].tensor) == (4 * first, 4 * (last + 1))


def test_a_tensor_without_elements_spans_nothing() -> None:
    assert byte_span(entries({"empty": torch.empty(3, 0)})["empty"].tensor) == (0, 0)


@pytest.mark.filterwarnings("ignore")
def test_of_types_that_are_packed_the_bytes_count() -> None:
    packed = torch.quantize_per_channel(
        torch.ones(3, 4), torch.ones(3), torch.zeros(3), 0, torch.quint4x2
    )  # two elements in a byte
    assert byte_span(entries({"w": packed})["w"].tensor) == (0, 6)


def test_as_json_it_is_its_place_and_its_shape() -> None:
    found = entries(VIEWS)["columns"].to_dict()
    assert json.loads(json.dumps(found)) == found
    assert (found["shape"], found["stride"], found["bytes"]) == ([6, 3], [10, 1], 72)
    assert found["offset"] == entries(VIEWS)["whole"].to_dict()["offset"] + 8
    assert isinstance(found["crc32"], int)
    meta = entries({"w": torch.empty(2, device="meta")})["w"].to_dict()
    assert (meta["offset"], meta["storage"], meta["crc32"]) == (None, None, None)
