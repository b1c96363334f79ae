"""Files that are one pickle after another: the format before PyTorch 1.6, and plain pickles."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mvae.checkpoint import CheckpointError, inspect, read
from mvae.checkpoint.formats.detect import Format


def test_the_legacy_format_is_read_to_the_bit(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["legacy"])
    assert file.format is Format.LEGACY
    reference = torch.load(zoo["legacy"], weights_only=False)
    assert (file.array("t") == reference["t"].numpy()).all()
    assert (file.array("m._modules.0._parameters.weight") == reference["m"][0].weight.detach().numpy()).all()


def test_a_legacy_file_cut_off_says_so(zoo: dict[str, Path]) -> None:
    raw = zoo["legacy"].read_bytes()
    for length in range(20, len(raw), 97):
        with pytest.raises(CheckpointError, match=r"cut off|claims a string|line that does not end"):
            read(raw[:length])


def test_a_plain_pickle_is_recognised() -> None:
    file = inspect(pickle.dumps({"a": [1, 2], "n": np.float32(2)}))
    assert file.format is Format.PICKLE
    assert file.tree["a"] == [1, 2]
    assert file.tree["n"].value == 2
    assert file.bytes == {"pickle": file.size}


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_of_any_protocol(protocol: int) -> None:
    assert read(pickle.dumps({"a": 1}, protocol)).tree == {"a": 1}
