"""`mvae inspect` from the shell: output, exit codes, and what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import calls, checkpoint

import mvae as package

Run = Callable[..., Any]


@pytest.fixture
def inspect(mvae: Run) -> Run:
    return partial(mvae, "inspect")


def test_a_tree_by_default_and_json_on_request(inspect: Run, zoo: dict[str, Path]) -> None:
    result = inspect(zoo["lightning"])
    assert result.code == 0
    assert "state_dict" in result.out
    result = inspect(zoo["lightning"], "--json")
    report = json.loads(result.out)
    assert list(report) == ["path", "size", "format", "keys", "tensors", "bytes", "facts", "unsafe"]
    assert sum(report["bytes"].values()) == report["size"]


def test_the_batch_size_fills_in_a_fact(inspect: Run, zoo: dict[str, Path]) -> None:
    report = json.loads(inspect(zoo["lightning"], "--json", "--batch-size", 8).out)
    assert report["facts"]["training_examples"]["value"] == [17, 24]


def test_a_file_that_cannot_be_read_is_one_line_and_exit_2(inspect: Run, tmp_path: Path) -> None:
    result = inspect(tmp_path / "missing.ckpt")
    assert result.code == 2
    assert result.err.startswith("mvae: ")
    assert len(result.err.splitlines()) == 1
    assert result.out == ""


def test_the_others_are_still_shown(inspect: Run, zoo: dict[str, Path], tmp_path: Path) -> None:
    result = inspect(tmp_path / "missing.ckpt", zoo["state dict"], "--json")
    assert result.code == 2
    assert json.loads(result.out)["size"] > 0


def test_strict_finds_fault_with_what_weights_only_refuses(inspect: Run, zoo: dict[str, Path]) -> None:
    assert inspect(zoo["vanished"]).code == 0
    assert inspect(zoo["vanished"], "--strict").code == 1
    assert inspect(zoo["state dict"], "--strict").code == 0


def test_standard_input(inspect: Run, zoo: dict[str, Path]) -> None:
    result = inspect("-", "--json", stdin=zoo["state dict"].read_bytes())
    assert result.code == 0
    assert json.loads(result.out)["size"] == zoo["state dict"].stat().st_size
    assert inspect("-", stdin=b"").code == 2


def test_bad_usage_is_exit_2(inspect: Run) -> None:
    assert inspect().code == 2
    assert inspect("x", "--depth", -1).code == 2


def test_a_hostile_file_is_named_and_not_run(inspect: Run, tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    path.write_bytes(checkpoint(dict(calls())["os.system"]))
    result = inspect(path, "--strict")
    assert result.code == 1
    assert "DANGER" in result.out


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_is_light_and_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    """The limit is 45 MB; a checkpoint of 100 MB is written as one sparse storage."""
    path = tmp_path / "large.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(25_000_000)}}, path)
    program = (
        "import sys\n"
        "from mvae.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'numpy', 'lightning', 'pandas', 'rich', 'typer', 'click'} & set(sys.modules)\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    command = [sys.executable, "-c", program, "inspect", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert int(done.stderr.split()[-2]) < 45_000, "kB at most"
    assert "weights" in done.stdout
