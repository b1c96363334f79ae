"""`mvae inspect` from the shell: output, exit codes, and what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from hostile_files import calls, checkpoint
from typer.testing import CliRunner

import mvae
from mvae.cli.checkpoint import inspect_command

app = typer.Typer()
app.command()(inspect_command)
runner = CliRunner()


def run(*arguments: object, **options: object) -> object:
    return runner.invoke(app, [str(argument) for argument in arguments], **options)  # type: ignore[arg-type]


def test_a_tree_by_default_and_json_on_request(zoo: dict[str, Path]) -> None:
    result = run(zoo["lightning"])
    assert result.exit_code == 0
    assert "state_dict" in result.stdout
    result = run(zoo["lightning"], "--json")
    report = json.loads(result.stdout)
    assert list(report) == ["path", "size", "format", "keys", "tensors", "bytes", "facts", "unsafe"]
    assert sum(report["bytes"].values()) == report["size"]


def test_the_batch_size_fills_in_a_fact(zoo: dict[str, Path]) -> None:
    report = json.loads(run(zoo["lightning"], "--json", "--batch-size", 8).stdout)
    assert report["facts"]["training_examples"]["value"] == [17, 24]


def test_a_file_that_cannot_be_read_is_one_line_and_exit_2(tmp_path: Path) -> None:
    result = run(tmp_path / "missing.ckpt")
    assert result.exit_code == 2
    assert result.stderr.startswith("mvae: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_the_others_are_still_shown(zoo: dict[str, Path], tmp_path: Path) -> None:
    result = run(tmp_path / "missing.ckpt", zoo["state dict"], "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["size"] > 0


def test_strict_finds_fault_with_what_weights_only_refuses(zoo: dict[str, Path]) -> None:
    assert run(zoo["vanished"]).exit_code == 0
    assert run(zoo["vanished"], "--strict").exit_code == 1
    assert run(zoo["state dict"], "--strict").exit_code == 0


def test_standard_input(zoo: dict[str, Path]) -> None:
    result = run("-", "--json", input=zoo["state dict"].read_bytes())
    assert result.exit_code == 0
    assert json.loads(result.stdout)["size"] == zoo["state dict"].stat().st_size
    assert run("-", input=b"").exit_code == 2


def test_bad_usage_is_exit_2() -> None:
    assert run().exit_code == 2
    assert run("x", "--depth", -1).exit_code == 2


def test_a_hostile_file_is_named_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    path.write_bytes(checkpoint(dict(calls())["os.system"]))
    result = run(path, "--strict")
    assert result.exit_code == 1
    assert "DANGER" in result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_is_light_and_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    """The limit is 60 MB; a checkpoint of 100 MB is written as one sparse storage."""
    path = tmp_path / "large.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(25_000_000)}}, path)
    program = (
        "import sys\n"
        "from mvae.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'numpy', 'lightning', 'pandas'} & set(sys.modules)\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(mvae.__file__).parents[1])}
    command = [sys.executable, "-c", program, "inspect", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert int(done.stderr.split()[-2]) < 60_000, "kB at most"
    assert "weights" in done.stdout
