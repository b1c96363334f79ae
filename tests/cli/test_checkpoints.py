"""``mvae verify | diff | salvage | export | plain`` as a user meets them: what they print, and how they end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mvae as package
from mvae.checkpoint import inspect
from mvae.cli.checkpoints import _Bar

Run = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A checkpoint, the next one, a damaged copy, a cut one, and a file that is none."""
    weights = {"a": torch.arange(100.0), "b": torch.ones(3)}
    made = {name: tmp_path / f"{name}.ckpt" for name in ("first", "second", "damaged", "cut", "text", "missing")}
    torch.save({"epoch": 1, "state_dict": weights, "hyper_parameters": {"lr": 0.1}}, made["first"])
    torch.save(
        {"epoch": 2, "state_dict": weights | {"b": torch.zeros(3)}, "hyper_parameters": {"lr": 0.1}}, made["second"]
    )
    raw = bytearray(made["first"].read_bytes())
    raw[inspect(bytes(raw)).tensor("a").file_offset or 0] ^= 1
    made["damaged"].write_bytes(raw)
    made["cut"].write_bytes(raw[: inspect(bytes(raw)).tensor("b").file_offset])
    made["text"].write_bytes(b"not a checkpoint\n")
    return made


def test_verify(mvae: Run, files: dict[str, Path]) -> None:
    done = mvae("verify", files["first"], files["second"])
    assert done.code == 0
    assert done.out.count("checksums right") == 2
    done = mvae("verify", files["first"], files["damaged"])
    assert done.code == 1
    assert "state_dict.a" in done.out
    done = mvae("verify", files["damaged"], files["text"], files["first"])
    assert done.code == 2
    assert done.err.startswith("mvae: ")
    assert "checksums right" in done.out, "the others are still checked"
    assert mvae("verify", files["cut"]).code == 1
    done = mvae("verify", "--json", files["damaged"])
    assert json.loads(done.out)["damage"][0]["tensors"] == ["state_dict.a"]


def test_diff(mvae: Run, refused: Run, files: dict[str, Path]) -> None:
    assert mvae("diff", files["first"], files["first"]).code == 0
    done = mvae("diff", files["first"], files["second"])
    assert done.code == 1
    assert "epoch  1 → 2" in done.out
    assert "state_dict.b  float32 [3]  max |Δ| 1, ‖Δ‖/‖A‖ 1, 3 of 3 elements" in done.out
    report = json.loads(mvae("diff", "--json", files["first"], files["second"]).out)
    assert [change["name"] for change in report["tensors"]["changed"]] == ["state_dict.b"]
    assert "does not exist" in refused("diff", files["first"], files["missing"])
    assert "not both" in refused("diff", "-", "-")


def test_salvage(mvae: Run, refused: Run, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.ckpt"
    assert mvae("salvage", files["first"], "-o", out).code == 0
    done = mvae("salvage", files["damaged"], "-o", out)
    assert done.code == 1
    assert "1 of 2 tensors saved" in done.out
    assert "lost: state_dict.a (damaged: its checksum is wrong)" in done.out
    assert set(torch.load(out, weights_only=True)["state_dict"]) == {"b"}
    report = json.loads(mvae("salvage", files["cut"], "-o", out, "--json").out)
    assert len(report["lost"]) == 2
    assert "not a checkpoint" in refused("salvage", files["text"], "-o", tmp_path / "new.ckpt")
    assert "not overwritten" in refused("salvage", files["cut"], "-o", files["cut"])
    assert not (tmp_path / "new.ckpt").exists()


def test_plain(mvae: Run, refused: Run, files: dict[str, Path], tmp_path: Path) -> None:
    out, settings = tmp_path / "out.ckpt", tmp_path / "settings.ckpt"
    torch.save({"hyper_parameters": {"data": Path("a/b"), "act": torch.nn.ReLU}, "state_dict": {}}, settings)
    message = refused("plain", settings, "-o", out)
    assert "hyper_parameters.act (torch.nn.modules.activation.ReLU: " in message
    assert not out.exists()
    done = mvae("plain", settings, "-o", out, "--allow-loss")
    assert done.code == 0
    assert "hyper_parameters.data was pathlib.PosixPath, now a/b" in done.out
    assert torch.load(out, weights_only=True)["hyper_parameters"]["data"] == "a/b"
    report = json.loads(mvae("plain", settings, "-o", out, "--allow-loss", "--json").out)
    assert report["complete"] is False
    assert {entry["name"]: entry["by"] for entry in report["replaced"]}["hyper_parameters.data"] == "a/b"
    assert "plain already" in mvae("plain", files["first"], "-o", out).out
    assert "mvae salvage" in refused("plain", files["cut"], "-o", out)
    torch.save([Path(str(number)) for number in range(100)], settings)
    done = mvae("plain", settings, "-o", out)
    assert "and 80 more; --all names them" in done.out
    assert "99 was pathlib.PosixPath, now 99" in mvae("plain", settings, "-o", out, "--all").out
    assert "`mvae plain FILE -o OUT`" in mvae("inspect", settings).out, "where a refusal is shown, the cure is named"
    assert "mvae plain" not in mvae("inspect", out).out


def test_export(mvae: Run, refused: Run, files: dict[str, Path], tmp_path: Path) -> None:
    done = mvae("export", files["first"], "-o", tmp_path / "w.safetensors")
    assert done.code == 0
    assert "2 tensors" in done.out
    assert set(load_file(tmp_path / "w.safetensors")) == {"a", "b"}
    assert mvae("export", files["first"], "-o", tmp_path / "w.ckpt", "--strip-prefix", "a", "--json").code == 2
    assert "damaged" in refused("export", files["damaged"], "-o", tmp_path / "x.safetensors")
    assert "must end in" in refused("export", files["first"], "-o", tmp_path / "x.onnx")
    assert mvae("export", files["first"]).code == 2, "without --out"


def shell(*arguments: object, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    command = [sys.executable, "-m", "mvae", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, check=False, **options)


def test_standard_input_and_output(files: dict[str, Path], tmp_path: Path) -> None:
    raw = files["first"].read_bytes()
    assert shell("verify", "-", stdin=raw).returncode == 0
    assert shell("diff", "-", files["first"], stdin=raw).returncode == 0
    done = shell("salvage", "-", "-o", "-", stdin=raw)
    assert done.returncode == 0
    assert b"2 of 2 tensors saved" in done.stderr
    assert torch.load(io.BytesIO(done.stdout), weights_only=True)["epoch"] == 1
    done = shell("export", files["first"], "-o", "-", "--format", "safetensors")
    (tmp_path / "w.safetensors").write_bytes(done.stdout)
    assert set(load_file(tmp_path / "w.safetensors")) == {"a", "b"}


def test_neither_torch_nor_more_than_it_needs_is_imported(files: dict[str, Path]) -> None:
    program = (
        "import sys\nfrom mvae.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'lightning', 'pandas', 'scipy', 'safetensors', 'numpy') if m in sys.modules])"
    )
    for arguments, heavy in (
        (["verify", files["first"]], "[]"),
        (["diff", files["first"], files["first"]], "[]"),
        (["diff", files["first"], files["second"]], "['numpy']"),
        (["salvage", files["cut"], "-o", files["missing"]], "[]"),
        (["export", files["first"], "-o", files["missing"]], "[]"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])},
            check=True,
        )
        assert done.stdout.splitlines()[-1] == heavy, arguments


def test_a_reader_that_stops_listening_is_no_error(files: dict[str, Path]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "mvae", "diff", str(files["first"]), str(files["second"])]
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(write_end)
    assert "Traceback" not in done.stderr


def test_the_bar_shows_only_on_a_terminal_and_past_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for terminal, passed, shown in ((True, 2.0, True), (True, 0.5, False), (False, 2.0, False)):
        error = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", error)
        with _Bar("reading x.ckpt") as bar:
            bar.started -= passed
            bar(1_000_000)
            bar(1_000_000)
            bar.print("a line")
        assert ("reading x.ckpt" in error.getvalue()) is shown


def test_options_and_files_come_in_any_order(
    mvae: Run, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mvae("verify", files["first"], "--json", files["second"]).out.count('"path"') == 2
    monkeypatch.chdir(files["first"].parent)
    Path("-x.ckpt").write_bytes(files["first"].read_bytes())
    done = mvae("verify", "--", "-x.ckpt", "second.ckpt")
    assert (done.code, done.out.count("checksums right")) == (0, 2)
    assert mvae("verify", "-x.ckpt").code == 2
    assert mvae("verify", "first.ckpt", "--js").code == 2, "no option is abbreviated"
