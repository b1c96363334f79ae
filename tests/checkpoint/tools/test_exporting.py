"""The weights alone: what others read of them is what was in the checkpoint."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hostile_files import calls, checkpoint, pickle_of, tensor, text
from real_files import Net, special_tensors
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file
from torch import nn

from mvae import FitResult, MultiVAE
from mvae.checkpoint import CheckpointError, Export, export, inspect, load
from mvae.checkpoint.formats.safetensors import CODES
from mvae.checkpoint.formats.zip_writer import ZipWriter


@pytest.fixture
def out(tmp_path: Path) -> Callable[..., Any]:
    """Exports what is given and gives the report and what torch or safetensors read of it."""

    def run(value: Any, ending: str = "safetensors", **options: Any) -> tuple[Export, Any]:
        source = value if isinstance(value, Path) else tmp_path / "source.ckpt"
        if not isinstance(value, Path):
            torch.save(value, source)
        target = tmp_path / f"out.{ending}"
        found = export(source, target, **options)
        assert found.size == target.stat().st_size
        assert str(found)
        json.dumps(found.to_dict(), allow_nan=False)
        return found, load_file(target) if ending == "safetensors" else torch.load(target, weights_only=True)

    return run


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_multivae_as_a_checkpoint_that_still_recommends(trained: FitResult, tmp_path: Path) -> None:
    before = load(trained.checkpoint)
    found = export(trained.checkpoint, tmp_path / "w.ckpt")
    assert found.size < 0.6 * found.size_before
    assert {"optimizer_states", "lr_schedulers", "callbacks"} <= set(found.left_out)
    after = load(tmp_path / "w.ckpt")
    liked = before.vocabulary[:3]
    assert after.recommend(liked) == before.recommend(liked)
    assert (after.vocabulary, after.source) == (before.vocabulary, before.source)
    model = MultiVAE.load_from_checkpoint(tmp_path / "w.ckpt")
    assert model.hparams == before.model.hparams


def test_multivae_as_safetensors_with_its_vocabulary_and_back(trained: FitResult, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    export(trained.checkpoint, path)
    before = load(trained.checkpoint)
    weights = load_file(path)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in before.model.state_dict().items())
    about = metadata(path)
    assert about["format"] == "pt"
    assert json.loads(about["hyper_parameters"]) == dict(before.model.hparams)
    assert json.loads(about["InteractionsDataModule"])["item_ids"] == before.vocabulary
    export(path, tmp_path / "back.ckpt")
    assert load(tmp_path / "back.ckpt").recommend(before.vocabulary[:3]) == before.recommend(before.vocabulary[:3])


def test_real_checkpoints(zoo: dict[str, Path], tmp_path: Path) -> None:
    for name, path in zoo.items():
        if name == "tensors":
            continue
        export(path, tmp_path / "w.safetensors")
        found = load_file(tmp_path / "w.safetensors")
        export(path, tmp_path / "w.ckpt")
        back = torch.load(tmp_path / "w.ckpt", weights_only=True)
        back = next((back[key] for key in ("state_dict", "model", "m") if key in back), back)
        assert set(found) <= set(back)
        assert all(torch.equal(found[key], back[key]) for key in found), name
        if name == "vanished":
            continue  # torch cannot load it
        theirs = torch.load(path, weights_only=False)
        theirs = theirs["m"] if name == "legacy" else theirs
        state = theirs.state_dict() if isinstance(theirs, nn.Module) else theirs.get("state_dict", theirs)
        for key, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, torch.Tensor):
                own = key.replace("_orig_mod.", "").removeprefix("module.")
                assert torch.equal(found[own], value), (name, key)


def test_lightning_loads_what_is_exported(zoo: dict[str, Path], tmp_path: Path) -> None:
    export(zoo["lightning"], tmp_path / "w.ckpt")
    before, after = (Net.load_from_checkpoint(path) for path in (zoo["lightning"], tmp_path / "w.ckpt"))
    assert after.hparams == before.hparams
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_every_type_that_safetensors_has(out: Any, tmp_path: Path) -> None:
    tensors = {name: torch.tensor([[0, 1, 2]]).to(getattr(torch, name)) for name in CODES if name != "float8_e8m0fnu"}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 3), "turned": torch.arange(6.0).reshape(2, 3).t()}
    tensors |= {"view": torch.arange(9)[2:8:2], "expanded": torch.ones(1).expand(4)}
    _, found = out(tensors, key=".")
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert found[name].tolist() == value.tolist(), name
    offsets = [entry.tensor.file_offset or 0 for entry in inspect(tmp_path / "out.safetensors").tensors]
    assert offsets == sorted(offsets)


def test_what_safetensors_cannot_hold_is_named(out: Any) -> None:
    special = special_tensors()
    for name in ("complex128", "sparse", "csr", "quantised", "channels", "meta", "conjugate"):
        with pytest.raises(CheckpointError, match=f"'{name}' is a tensor of .* which safetensors cannot hold"):
            out({"state_dict": {"fine": torch.ones(1), name: special[name]}})
        _, found = out({"state_dict": {name: special[name]}}, "ckpt")
        assert type(found["state_dict"][name]) is type(special[name])


def test_compiled_and_wrapped_names(out: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    state = torch.compile(model).state_dict()
    inside = {f"model._orig_mod.{name}": value for name, value in model.state_dict().items()}
    for value in (state, {"state_dict": state}):
        found, weights = out(value)
        assert set(weights) == {"0.weight", "0.bias"}
        assert found.renamed == {"_orig_mod.0.weight": "0.weight", "_orig_mod.0.bias": "0.bias"}
    assert set(out({"state_dict": inside})[1]) == {"model.0.weight", "model.0.bias"}
    assert set(out({"state_dict": inside}, strip_prefix=["model."])[1]) == {"0.weight", "0.bias"}
    with pytest.raises(CheckpointError, match=r"no tensor's name starts with 'net\."):
        out({"state_dict": inside}, strip_prefix=["net."])
    with pytest.raises(CheckpointError, match="taken or empty"):
        out({"a.x": torch.ones(1), "x": torch.ones(1)}, strip_prefix=["a."])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_weights(out: Any, tmp_path: Path) -> None:
    model = Tied()
    found, weights = out({"state_dict": model.state_dict()})
    assert found.shared == {"head.weight": "embedding.weight"}
    assert set(weights) == {"embedding.weight"}
    again = Tied()
    load_model(again, tmp_path / "out.safetensors")
    assert torch.equal(again.head.weight, model.embedding.weight)
    _, back = out(tmp_path / "out.safetensors", "ckpt")
    again.load_state_dict(back)
    _, copied = out({"state_dict": model.state_dict()}, copy_shared=True)
    assert torch.equal(copied["head.weight"], copied["embedding.weight"])
    _, tied = out({"state_dict": model.state_dict()}, "ckpt")
    assert len({weight.data_ptr() for weight in tied["state_dict"].values()}) == 1


def test_a_small_view_does_not_bring_its_whole_storage(out: Any) -> None:
    flat = torch.arange(100_000.0)
    found, back = out({"state_dict": {"a": flat[10:20], "again": flat[10:20], "t": flat[:6].reshape(2, 3).t()}}, "ckpt")
    assert found.size < 5_000
    state = back["state_dict"]
    assert torch.equal(state["a"], flat[10:20])
    assert state["a"].data_ptr() == state["again"].data_ptr()
    assert torch.equal(state["t"], flat[:6].reshape(2, 3).t())


def test_where_the_weights_are(out: Any) -> None:
    weights = {"w": torch.ones(2)}
    for key in ("model_state_dict", "model", "net"):
        found, back = out({"epoch": 1, key: weights, "optimizer": {"state": {}, "param_groups": []}}, "ckpt")
        assert back.keys() == {"epoch", key}
        assert found.left_out == ["optimizer"]
    assert set(out({"model": {"encoder": weights, "note": "x"}})[1]) == {"encoder.w"}
    _, back = out({"a": [{"b": weights}], "lr": 0.1}, "ckpt", key="a.0.b")
    assert set(back["state_dict"]) == {"w"}
    assert back["lr"] == 0.1
    with pytest.raises(CheckpointError, match="no weights found; the file holds epoch, x"):
        out({"epoch": 1, "x": [weights]})
    with pytest.raises(CheckpointError, match=r"there is no 'a\.c'"):
        out({"a": {"b": weights}}, key="a.c.d")
    with pytest.raises(CheckpointError, match="no tensors under 'a'"):
        out({"a": {"b": 1}}, key="a")


def test_a_whole_module_gives_its_state_dict(out: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ModuleDict({"tied": Tied()}))
    model[0].register_buffer("passing", torch.ones(1), persistent=False)
    for value in (model, {"model": model, "epoch": 1}):
        _, found = out(value, copy_shared=True)
        assert list(found) == sorted(found, key=list(found).index)
        assert set(found) == set(model.state_dict())
        assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_damaged_weights_are_not_exported(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(9)}}, tmp_path / "x.ckpt")
    raw = bytearray((tmp_path / "x.ckpt").read_bytes())
    raw[inspect(bytes(raw)).tensor("w").file_offset or 0] ^= 1
    for ending in ("safetensors", "ckpt"):
        with pytest.raises(CheckpointError, match="damaged: its checksum is wrong"):
            export(bytes(raw), tmp_path / f"out.{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


def test_a_file_from_a_big_endian_machine(tmp_path: Path) -> None:
    weights = torch.tensor([1.0, 2.5, -3.0])
    source = io.BytesIO()
    torch.save({"w": weights}, source)
    raw = io.BytesIO()
    writer = ZipWriter(raw)
    for member in inspect(source.getvalue()).contents.records:
        name = member.name.partition("/")[2]
        content = b"big" if name == "byteorder" else bytes(member.view())
        writer.add(name, len(content), [weights.numpy().byteswap().tobytes() if name == "data/0" else content])
    writer.close()
    export(raw.getvalue(), tmp_path / "w.safetensors")
    assert torch.equal(load_file(tmp_path / "w.safetensors")["w"], weights)


def test_a_sharded_folder_becomes_one_file(tmp_path: Path) -> None:
    state = {"w": torch.arange(24.0).reshape(6, 4), "b": torch.ones(3, dtype=torch.bfloat16)}
    dcp.save({"state_dict": state, "epoch": 3}, checkpoint_id=str(tmp_path / "sharded"), no_dist=True)
    export(tmp_path / "sharded", tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_pieces_are_put_together(tmp_path: Path) -> None:
    whole = torch.arange(24).reshape(6, 4)
    torch.save({"state_dict": {"w": whole, "pieces": [whole[:2], whole[2:, :1], whole[2:, 1:]]}}, tmp_path / "x.ckpt")
    from mvae.checkpoint.formats.stream import Stream, blocks
    from mvae.checkpoint.pickled.values import Tensor

    pieces = inspect(tmp_path / "x.ckpt").tree["state_dict"]["pieces"]
    sharded = Tensor("int64", (6, 4), (), 0, None, kind="sharded")
    sharded.parts = dict(zip(("[0:2, 0:4]", "[2:6, 0:1]", "[2:6, 1:4]"), pieces, strict=True))
    with Stream() as stream:
        raw = b"".join(map(bytes, blocks(stream, sharded)))
        assert raw == whole.numpy().tobytes()
        for spans in (
            ("[0:2, 0:4]",),
            ("[0:2, 0:4]", "[2:7, 0:1]", "[2:6, 1:4]"),
            ("[0:2]", "[2:6, 0:1]", "[2:6, 1:4]"),
        ):
            sharded.parts = dict(zip(spans, pieces, strict=False))
            with pytest.raises(CheckpointError, match="a sharded tensor"):
                list(blocks(stream, sharded))


def test_bad_usage(tmp_path: Path, zoo: dict[str, Path]) -> None:
    path = zoo["lightning"]
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="must end in"):
        export(path, tmp_path / "x.onnx")
    with pytest.raises(CheckpointError, match="must end in"):
        export(path, io.BytesIO())
    with pytest.raises(CheckpointError, match="not overwritten"):
        export(path, path)
    with pytest.raises(CheckpointError, match="does not exist"):
        export(tmp_path / "missing", tmp_path / "x.ckpt")
    stream = io.BytesIO()
    export(path, stream, format="safetensors")
    assert load_file.__module__
    assert stream.getvalue()[8:9] == b"{"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == []


def test_safetensors_to_safetensors_keeps_its_metadata(tmp_path: Path) -> None:
    save_file({"module.a": torch.ones(2)}, tmp_path / "a.safetensors", {"who": "me"})
    export(tmp_path / "a.safetensors", tmp_path / "b.safetensors", strip_prefix=["module."])
    assert metadata(tmp_path / "b.safetensors") == {"who": "me", "format": "pt"}
    assert set(load_file(tmp_path / "b.safetensors")) == {"a"}


def test_hostile_files_end() -> None:
    wide = tensor(shape=b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", stride=b"K\x00K\x00\x86")
    file = checkpoint(pickle_of(b"}", text("w"), wide, b"s"), {"archive/data/0": bytes(16)})
    with pytest.raises(CheckpointError, match="not unfolded"):
        export(file, io.BytesIO(), format="safetensors")
    for ending in ("safetensors", "ckpt"):
        for _, pickle in calls():
            for value in (pickle, pickle_of(b"}(", text("state_dict"), pickle[2:-1], text("w"), tensor(), b"u")):
                with suppress(CheckpointError):
                    target = io.BytesIO()
                    export(checkpoint(value, {"archive/data/0": bytes(16)}), target, format=ending)
                    assert inspect(target.getvalue()).safety.weights_only


@pytest.mark.parametrize("ending", ["bin", "pt", "onnx", ""])
def test_an_ending_that_does_not_say_the_format_is_refused(tmp_path: Path, ending: str) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors or \.ckpt"):
        export(tmp_path / "a.ckpt", tmp_path / f"w.{ending}")
    export(tmp_path / "a.ckpt", tmp_path / f"w.{ending}", format="ckpt")


def test_packed_parameters_are_kept_in_a_ckpt_and_refused_for_safetensors(tmp_path: Path) -> None:
    """A dynamically quantised model keeps its weights in pairs, and loads them by the versions of its modules."""

    def quantised() -> nn.Module:
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, again = quantised(), quantised()
        for number, value in enumerate((model.state_dict(), {"model": model.state_dict(), "epoch": 3})):
            torch.save(value, tmp_path / "q.pt")
            with pytest.raises(CheckpointError, match=r"0\._packed_params\._packed_params, 2\._packed_params"):
                export(tmp_path / "q.pt", tmp_path / "w.safetensors")
            assert not (tmp_path / "w.safetensors").exists()
            found = export(tmp_path / "q.pt", tmp_path / "w.ckpt")
            assert (found.left_out, found.replaced) == ([], [])
            assert "4 tensors and 2 packed values" in str(found)
            back = torch.load(tmp_path / "w.ckpt", weights_only=True)
            again.load_state_dict(back["model"] if number else back)
            x = torch.randn(5, 64)
            assert torch.equal(again(x), model(x))


def test_what_stands_among_the_weights_is_kept_or_named(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"seen": 3}

        def set_extra_state(self, state: Any) -> None:
            self.seen = state["seen"]

    model = Extra(2, 2)
    torch.save({"state_dict": model.state_dict(), "mean": torch.ones(3), "lr": 0.1}, tmp_path / "x.ckpt")
    found = export(tmp_path / "x.ckpt", tmp_path / "w.ckpt")
    assert found.left_out == ["mean"]
    model.load_state_dict(torch.load(tmp_path / "w.ckpt", weights_only=True)["state_dict"])
    assert model.seen == 3
    found = export(tmp_path / "x.ckpt", tmp_path / "w.safetensors")
    assert found.left_out == ["state_dict._extra_state", "mean"]
    assert "state_dict._extra_state" in str(found)


def test_tensors_among_the_settings_are_named_where_they_become_text(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "hyper_parameters": {"prior": torch.ones(3)}}, tmp_path / "x.ckpt")
    assert export(tmp_path / "x.ckpt", tmp_path / "w.safetensors").left_out == ["hyper_parameters.prior"]
    assert export(tmp_path / "x.ckpt", tmp_path / "w.ckpt").left_out == []


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_a_foreign_setting_is_named_whatever_it_is_written_to(tmp_path: Path, ending: str) -> None:
    torch.save({"state_dict": {"w": torch.ones(3)}, "hyper_parameters": {"folder": Path("films")}}, tmp_path / "x.ckpt")
    found = export(tmp_path / "x.ckpt", tmp_path / f"out{ending}")
    assert [replaced.path for replaced in found.replaced] == [("hyper_parameters", "folder")]
    assert "hyper_parameters.folder was pathlib" in str(found)
