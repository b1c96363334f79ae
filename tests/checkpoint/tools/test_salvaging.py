"""What a broken file still holds: all of it, nothing wrong in it, and torch loads it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
import zipfile
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from hostile_files import bombs, calls, checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from salvaged import Known, all_right, contents, rescued, saved, training

from mvae.checkpoint import CheckpointError, Salvage, inspect, salvage
from mvae.checkpoint.tools.value_changes import value_changes
from mvae.errors import NothingToSaveError

CASES = 5_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 250


@pytest.fixture(scope="module")
def raw() -> bytes:
    return saved(training())


@pytest.fixture(scope="module")
def known(raw: bytes) -> Known:
    return contents(raw)


def attempt(raw: bytes) -> tuple[Salvage, bytes] | None:
    """None if there is nothing to save, and it says so."""
    try:
        return rescued(raw)
    except CheckpointError as error:
        if "nothing to save" in str(error) or "is not a checkpoint" in str(error):
            return None
        raise


def test_a_whole_file_comes_back_whole(raw: bytes, known: Known) -> None:
    found, out = rescued(raw)
    all_right(found, out, known)
    assert found.complete
    assert (found.notes, found.unchecked, found.replaced) == ([], [], [])
    assert value_changes(inspect(raw).tree, inspect(out).tree) == []
    back = torch.load(io.BytesIO(out), weights_only=True)["state_dict"]
    assert back["tied"] is back["layer.3.weight"]


def test_every_real_checkpoint_loads_weights_only_afterwards(zoo: dict[str, Path], tmp_path: Path) -> None:
    for name, path in zoo.items():
        found = salvage(path, tmp_path / "out.ckpt")
        assert not found.lost, name
        assert found.complete is not any(replaced.lost for replaced in found.replaced)
        assert inspect(tmp_path / "out.ckpt").safety.weights_only
        torch.load(tmp_path / "out.ckpt", weights_only=True)
        before = contents(path.read_bytes()) if name not in ("tensors",) else {}
        after = contents((tmp_path / "out.ckpt").read_bytes()) if name not in ("tensors",) else {}
        assert set(before.values()) <= set(after.values()), name


def test_cut_at_every_fiftieth(raw: bytes, known: Known) -> None:
    kept = []
    for part in range(50):
        rescue = attempt(raw[: len(raw) * part // 50])
        if rescue is None:
            continue
        found, out = rescue
        all_right(found, out, known)
        torch.load(io.BytesIO(out), weights_only=True)
        assert "cut off" in found.notes[0]
        kept.append(len(found.kept))
    assert kept == sorted(kept), "more of the file is never less"
    assert kept[-1] == len(known)


def test_the_report_says_how_much_of_what(raw: bytes) -> None:
    at = inspect(raw).tensor("optimizer_states.0.state.2.exp_avg").file_offset
    found, _ = rescued(raw[: (at or 0) + 10])
    assert found.sections["weights"] == (15, 15)
    assert found.sections["optimizer exp_avg"] == (0, 12)
    assert "cut off: 10 of 48 bytes are left" in found.text(everything=True)
    assert "weights: 15 of 15" in str(found)


def test_a_tensor_that_is_lost_leaves_a_gap(raw: bytes) -> None:
    layers = [torch.ones(3), torch.zeros(3), torch.ones(2)]
    listed = saved({"list": layers, "tuple": tuple(layers), "dict": {"x": layers[1], "y": 1}})
    broken = bytearray(listed)
    broken[inspect(listed).tensor("list.1").file_offset or 0] ^= 1
    found, out = rescued(bytes(broken))
    back = torch.load(io.BytesIO(out), weights_only=True)
    assert back["list"][1] is None
    assert back["tuple"][1] is None
    assert back["dict"] == {"y": 1}
    assert [(lost.name, lost.why) for lost in found.lost] == [
        (name, "damaged: its checksum is wrong") for name in ("list.1", "tuple.1", "dict.x")
    ]
    alone = bytearray(saved(torch.ones(5)))
    alone[inspect(bytes(alone)).tensors[0].tensor.file_offset or 0] ^= 1
    with pytest.raises(CheckpointError, match="nothing to save"):
        rescued(bytes(alone))


def test_a_damaged_pickle_is_nothing_to_save(raw: bytes) -> None:
    broken = bytearray(raw)
    broken[raw.index(b"layer.7")] ^= 4  # would only change a name
    with pytest.raises(CheckpointError, match=r"nothing to save: .*damaged"):
        rescued(bytes(broken))


def test_without_checksums_it_says_so(known: Known) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        raw = saved(training())
    finally:
        torch.serialization.set_crc32_options(True)
    for broken in (raw, raw[: len(raw) * 3 // 4]):
        found, out = rescued(broken)
        all_right(found, out, known)
        assert found.unchecked == found.kept
        assert "no checksum" in str(found)


def test_other_formats(known: Known) -> None:
    value = training()
    old = saved(value, _use_new_zipfile_serialization=False)
    found, out = rescued(old[:-200])  # torch writes the storages in an order of chance
    all_right(found, out, known)
    assert 0 < len(found.kept) < len(known)
    with pytest.raises(CheckpointError, match="nothing to save"):
        rescued(old[:1000])
    weights = {f"w{i}": torch.full((10,), float(i)) for i in range(9)}
    file = save_safetensors(weights)
    found, out = rescued(file[:-100])
    assert (len(found.kept), len(found.lost)) == (6, 3)
    back = torch.load(io.BytesIO(out), weights_only=True)
    assert all(torch.equal(back[name], weights[name]) for name in found.kept)
    with pytest.raises(CheckpointError):
        rescued(file[:100])


def test_the_input_is_never_overwritten_and_nothing_is_left_behind(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(raw[:-100])
    (tmp_path / "link.ckpt").symlink_to(path)
    for out in (path, tmp_path / "link.ckpt"):
        with pytest.raises(CheckpointError, match="not overwritten"):
            salvage(path, out)
    with pytest.raises(CheckpointError, match="nothing to save"):
        salvage(raw[:900], tmp_path / "new" / "out.ckpt")
    with pytest.raises(CheckpointError, match="is a folder"):
        salvage(tmp_path, tmp_path / "out.ckpt")
    with pytest.raises(CheckpointError):
        salvage(path, tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link.ckpt", "x.ckpt"]
    assert path.read_bytes() == raw[:-100]


def test_hostile_files_end() -> None:
    for pickle in [pickle for _, pickle in calls()] + [pickle for _, pickle in islice(bombs(5), 8)]:
        for broken in (checkpoint(pickle), checkpoint(pickle)[:-30]):
            with suppress(CheckpointError):
                _, out = rescued(broken)
                assert inspect(out).safety.weights_only
                torch.load(io.BytesIO(out), weights_only=True)
    many_headers = b"PK\3\4" + b"\0" * 22 + b"\1\0\0\0x"
    with pytest.raises(CheckpointError):
        rescued(many_headers * 20_000)


@given(st.data())
@settings(max_examples=CASES, deadline=None)
def test_cut_anywhere_flipped_anywhere(raw: bytes, known: Known, data: st.DataObject) -> None:
    broken = bytearray(raw[: data.draw(st.sampled_from([len(raw), data.draw(st.integers(1, len(raw)))]))])
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] ^= 1 << data.draw(st.integers(0, 7))
    rescue = attempt(bytes(broken))
    if rescue is not None:
        all_right(*rescue, known)


@given(st.data())
@settings(max_examples=CASES, deadline=None)
def test_one_flipped_bit_costs_at_most_one_storage(raw: bytes, known: Known, data: st.DataObject) -> None:
    start = raw.index(b"PK\7\b")  # the pickle is before it
    at = data.draw(st.integers(start, len(raw) - 1))
    broken = bytearray(raw)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    found, out = rescued(bytes(broken))
    all_right(found, out, known)
    assert len(found.lost) <= 2, "the tied tensor has two names, and a parameter two moments"


def test_it_says_what_the_new_file_is_good_for(raw: bytes) -> None:
    def cut_at(name: str) -> Salvage:
        return rescued(raw[: inspect(raw).tensor(name).file_offset])[0]

    found = cut_at("optimizer_states.0.state.2.exp_avg")
    assert next(iter(found.sections)) == "weights"
    assert "All 15 weights are whole; the optimizer's state is not" in str(found)
    assert f"optimizer_states.0: {len(found.lost)} of 24 tensors lost" in str(found)
    assert found.lost[-1].name not in str(found)
    assert found.lost[-1].name in found.text(everything=True)
    assert "weights are lost" in str(cut_at("layer.5.weight"))
    assert rescued(raw)[0].consequence == ""


def test_what_safetensors_lost_is_counted() -> None:
    found, _ = rescued(save_safetensors({f"w{i}": torch.full((10,), float(i)) for i in range(9)})[:-100])
    assert found.sections == {"weights": (6, 9)}
    assert "3 of the model's 9 weights" in str(found)


def test_the_error_about_a_file_that_is_cut_off_points_to_salvage(raw: bytes) -> None:
    old = saved(training(), _use_new_zipfile_serialization=False)
    for broken in (raw[:-500], old[:-100], save_safetensors({"w": torch.ones(50)})[:-10]):
        with pytest.raises(CheckpointError, match="mvae salvage"):
            inspect(broken)
        assert "mvae salvage" not in str(attempt(broken))


class Trained(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss = self.layers(batch[0]).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.01)


def train(folder: Path, epochs: int, ckpt_path: Path | None = None) -> tuple[L.Trainer, Path]:
    saver = L.pytorch.callbacks.ModelCheckpoint(folder, "{epoch}", "loss")
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[saver],
    )  # fmt: skip
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 4)), batch_size=2)
    trainer.fit(Trained(), data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, Path(saver.best_model_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(tmp_path_factory.mktemp("run"), 1)[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("lost", "kept"),
    [
        ("optimizer_states.0.state.5.exp_avg_sq", [0, 1, 2, 3, 4]),
        ("optimizer_states.0.state.1.exp_avg", [0, 2, 3, 4, 5]),
        ("cut at optimizer_states.0.state.1.exp_avg", []),
        ("callbacks", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_training_goes_on_from_what_was_salvaged(run: Path, tmp_path: Path, lost: str, kept: list[int]) -> None:
    file = inspect(run)
    name = next(entry.name for entry in file.tensors if entry.name.startswith(lost.removeprefix("cut at ")))
    at = file.tensor(name).file_offset or 0
    broken = bytearray(run.read_bytes())
    if lost.startswith("cut"):
        del broken[at:]
    else:
        broken[at] ^= 1
    found = salvage(bytes(broken), tmp_path / "out.ckpt")
    state = torch.load(tmp_path / "out.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    assert list(state) == kept
    assert all(len(moments) == 3 for moments in state.values())
    assert ("training goes on from the new file" in found.consequence) == (lost != "callbacks")
    resume = {fact.name: fact for fact in inspect(tmp_path / "out.ckpt").facts}["resume"]
    assert resume.value["resumable"]
    trainer, _ = train(tmp_path, 2, tmp_path / "out.ckpt")
    assert trainer.global_step == 8


def test_a_salvage_that_saves_nothing_is_a_failure_and_writes_no_file(tmp_path: Path) -> None:
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as policy:  # as stable-baselines3 writes
        policy.writestr("data", "{}")
        policy.writestr("pytorch_variables.pth", saved({}))
        policy.writestr("policy.pth", saved({"w": torch.randn(100, 100)}))
        policy.writestr("policy.optimizer.pth", saved({"w": torch.randn(100, 100)}))
    whole = nested.getvalue()
    for broken, why in (
        (whole[: len(whole) * 6 // 10], "a zip of other files, which begins with 'data'"),
        (saved({}), "neither a tensor nor a value"),
        (saved({"state_dict": {"w": torch.ones(50)}})[:600], "neither a tensor nor a value|data.pkl"),
    ):
        with pytest.raises(NothingToSaveError, match=f"nothing to save: .*({why})"):
            salvage(broken, tmp_path / "out.ckpt")
        (tmp_path / "broken.zip").write_bytes(broken)
        command = [sys.executable, "-m", "mvae", "salvage", "broken.zip", "-o", "out.ckpt"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert "nothing to save" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["broken.zip"]


def test_an_optimizers_state_alone_says_what_of_it_is_lost() -> None:
    layer = torch.nn.Linear(20, 20)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(20)).sum().backward()
    optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    whole = buffer.getvalue()
    found = str(salvage(whole[: len(whole) // 2], io.BytesIO()))
    assert "Adam step: " in found
    assert "  the file: " in found


class Label(NamedTuple):
    """A key that is an object."""

    name: str


def test_an_object_that_is_a_key_and_becomes_text_is_a_loss() -> None:
    raw = io.BytesIO()
    torch.save({"table": {Label("x"): 0.5}, "state_dict": {"w": torch.ones(3)}}, raw)
    found, _ = rescued(raw.getvalue())
    assert not found.lost
    assert not found.complete
