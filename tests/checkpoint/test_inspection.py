"""`inspect`: tensors by name, shared storages, views without copies."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mvae.checkpoint
from mvae.checkpoint import CheckpointError, inspect
from mvae.checkpoint.pickled.values import Object


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_an_array_is_a_view_of_the_file(zoo: dict[str, Path]) -> None:
    array = inspect(zoo["lightning"]).array("body.0.weight")
    gc.collect()
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert array.base is not None
    assert np.isfinite(array).all()


def test_types_that_numpy_lacks_come_as_their_bits() -> None:
    tensor = torch.tensor([1.5, -2.0]).to(torch.bfloat16)
    array = inspect(saved(tensor)).tree.array()
    assert array.dtype == np.uint16
    widened = (array.astype(np.uint32) << 16).view(np.float32)
    assert widened.tolist() == [1.5, -2.0]


def test_a_sparse_tensor_is_its_parts() -> None:
    file = inspect(saved({"e": torch.eye(3).to_sparse()}))
    assert [entry.name for entry in file.tensors] == ["e", "e.indices", "e.values"]
    with pytest.raises(CheckpointError, match="no values of its own"):
        file.array("e")
    assert file.array("e.values").tolist() == [1, 1, 1]


def test_a_meta_tensor_has_no_values() -> None:
    file = inspect(saved({"m": torch.empty(2, 3, device="meta")}))
    assert file.tensors[0].to_dict()["storage"] is None
    with pytest.raises(CheckpointError, match="no values"):
        file.array("m")


def test_only_one_number_is_an_item() -> None:
    with pytest.raises(CheckpointError, match="is not one number"):
        inspect(saved({"a": torch.ones(2)})).tensor("a").item()


def test_a_module_saved_as_a_hyperparameter_shows_its_class_settings_and_tensors(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["hyperparameters"])
    module = file.tree["hyper_parameters"]["extra"]["module"]
    assert isinstance(module, Object)
    assert str(module.cls) == "torch.nn.modules.linear.Linear"
    assert module["in_features"] == 2
    assert file.array("hyper_parameters.extra.module._parameters.weight").shape == (2, 2)


def test_bytes_in_memory_and_paths_and_text_are_all_taken(zoo: dict[str, Path]) -> None:
    path = zoo["state dict"]
    reports = [inspect(what).to_dict() for what in (path, str(path), path.read_bytes(), memoryview(path.read_bytes()))]
    assert len({str({**report, "path": ""}) for report in reports}) == 1


def test_lazy_names_resolve_and_modules_do_not_hide_functions() -> None:
    program = (
        "import mvae.checkpoint.with_torch.loading, mvae.checkpoint.inspection, mvae.checkpoint as package\n"
        "for name in package.__all__:\n"
        "    assert not isinstance(getattr(package, name), type(package)), name\n"
    )
    root = Path(mvae.checkpoint.__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mvae.checkpoint.nothing  # noqa: B018


def test_the_model_of_a_class_that_is_gone_is_read_without_it(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["vanished"])
    assert file.array("w").tolist() == [1, 1]
    assert "gone_project" not in sys.modules


def test_a_whole_model_object_is_read(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["model object"])
    assert file.keys == []
    assert [entry.tensor.shape for entry in file.tensors] == [(4, 3), (4,)]
    assert isinstance(nn.Linear(1, 1), nn.Module)
