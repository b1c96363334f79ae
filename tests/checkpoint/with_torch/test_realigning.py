"""realign(): a checkpoint for another vocabulary, in which every shared item has kept its rows."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvae import FitResult, Interactions, InteractionsDataModule, MultiVAE, fit, load
from mvae.checkpoint import CheckpointError, CheckpointNotFoundError, CheckpointNotSavedError, realign
from mvae.data import DataError

ITEMS = [f"item-{i:02d}" for i in range(60)]
#: Tensors with something for each item, and the dimension it stands in.
DIMS = {"encoder.0.weight": 1, "decoder.2.weight": 0, "decoder.2.bias": 0}


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def other_data(interactions: Interactions) -> InteractionsDataModule:
    """The items in another order, ten of them replaced by ones that are new."""
    names = [f"new-{i}" if i < 10 else ITEMS[i] for i in reversed(range(60))]
    turned = replace(interactions, matrix=interactions.matrix[:, ::-1], item_ids=names, source="other")
    return InteractionsDataModule(turned, batch_size=32)


@settings(max_examples=40)
@given(
    vocabulary=st.lists(st.sampled_from(ITEMS + [f"new-{i}" for i in range(30)]), min_size=1, max_size=80, unique=True)
)
def test_rows_and_moments_of_shared_items_are_carried_over_by_id(trained: FitResult, vocabulary: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = realign(trained.checkpoint, vocabulary, Path(folder, "out.ckpt"), strict=False)
        old, new = read(trained.checkpoint), read(done.path)
    assert done.shared == [item for item in ITEMS if item in vocabulary]
    assert done.new == [item for item in vocabulary if item not in ITEMS]
    assert done.dropped == [item for item in ITEMS if item not in vocabulary]
    for number, name in enumerate(old["state_dict"]):
        pairs = [(old["state_dict"][name], new["state_dict"][name])]
        adam = [c["optimizer_states"][0]["state"][number] for c in (old, new)]
        pairs += [(adam[0][key], adam[1][key]) for key in ("exp_avg", "exp_avg_sq")]
        assert adam[0]["step"] == adam[1]["step"]
        for kind, (before, after) in zip(("weight", "moment", "moment"), pairs, strict=True):
            if name not in DIMS:
                assert torch.equal(before, after)
                continue
            before, after = before.movedim(DIMS[name], 0), after.movedim(DIMS[name], 0)
            assert len(after) == len(vocabulary)
            for row, item in zip(after, vocabulary, strict=True):
                if item in ITEMS:
                    assert torch.equal(row, before[ITEMS.index(item)])
                else:
                    assert row.any() == (kind == "weight")


def test_the_rest_of_the_file_fits_and_stays(trained: FitResult, tmp_path: Path) -> None:
    vocabulary = [*ITEMS[5:], "new"]
    realign(trained.checkpoint, vocabulary, tmp_path / "out.ckpt", source="another set")
    old, new = read(trained.checkpoint), read(tmp_path / "out.ckpt")
    assert list(new) == list(old)
    assert new["hyper_parameters"] == old["hyper_parameters"] | {"num_items": 56}
    assert new["InteractionsDataModule"] == {"item_ids": vocabulary, "source": "another set"}
    for key in ("epoch", "global_step", "pytorch-lightning_version", "hparams_name"):
        assert new[key] == old[key]
    assert new["optimizer_states"][0]["param_groups"] == old["optimizer_states"][0]["param_groups"]
    assert new["callbacks"] == {}
    assert new["lr_schedulers"][0]["best"] == math.inf
    assert new["lr_schedulers"][0]["_last_lr"] == old["lr_schedulers"][0]["_last_lr"]


def test_new_items_get_what_a_new_model_would_have(trained: FitResult, tmp_path: Path) -> None:
    vocabulary = [*ITEMS, *range(2000)]
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        realign(trained.checkpoint, vocabulary, tmp_path / name, seed=seed)
    fresh = [read(tmp_path / name)["state_dict"]["decoder.2.weight"][60:] for name in "abc"]
    assert torch.equal(fresh[0], fresh[1])
    assert not torch.equal(fresh[0], fresh[2])
    bound = math.sqrt(6 / (16 + 2060))  # Xavier, uniform
    assert fresh[0].abs().max() <= bound
    assert fresh[0].std() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_random_numbers_elsewhere_are_not_disturbed(trained: FitResult, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    realign(trained.checkpoint, ITEMS, tmp_path / "out.ckpt")
    assert torch.equal(torch.rand(1), expected)


def test_another_order_of_the_same_items_is_the_same_recommender(trained: FitResult, tmp_path: Path) -> None:
    done = realign(trained.checkpoint, ITEMS[::-1], tmp_path / "out.ckpt")
    before = load(trained.checkpoint).recommend(ITEMS[:5])
    after = load(done.path).recommend(ITEMS[:5])
    assert [r.item_id for r in after] == [r.item_id for r in before]
    assert [r.probability for r in after] == pytest.approx([r.probability for r in before], rel=1e-5)
    assert str(done) == f"{done.path}: 60 items carried over, 0 start afresh, 0 dropped"


def test_it_may_take_the_place_of_the_old_file(trained: FitResult, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(trained.checkpoint.read_bytes())
    realign(path, ITEMS[:40], path)
    assert load(path).vocabulary == ITEMS[:40]
    assert [file.name for file in tmp_path.iterdir()] == ["model.ckpt"]


# --- training goes on


def test_training_goes_on_from_it(trained: FitResult, other_data: InteractionsDataModule, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="10 of its items are not in this data, 10 here are not in it"):
        fit(other_data, trained.model, out=tmp_path, ckpt_path=trained.checkpoint, progress=False)
    done = realign(trained.checkpoint, other_data.item_ids, tmp_path / "realigned.ckpt", source="other")
    model = MultiVAE(**read(done.path)["hyper_parameters"])
    result = fit(other_data, model, out=tmp_path, max_epochs=12, ckpt_path=done.path, progress=False)
    start = read(trained.checkpoint)
    assert result.history["step"].iloc[0] == start["global_step"] + 1
    assert result.history["epoch"].iloc[0] == start["epoch"] + 1
    assert result.history["lr"].iloc[0] == start["optimizer_states"][0]["param_groups"][0]["lr"]
    assert set(result.history.groupby("epoch").size()) == {len(other_data.train_dataloader())}
    assert result.checkpoint != done.path
    assert load(result.checkpoint).vocabulary == other_data.item_ids


def test_it_begins_better_than_a_new_model(
    trained: FitResult, other_data: InteractionsDataModule, tiny_model: Callable[..., MultiVAE], tmp_path: Path
) -> None:
    done = realign(trained.checkpoint, other_data.item_ids, tmp_path / "realigned.ckpt")
    model = MultiVAE(**read(done.path)["hyper_parameters"])
    epochs = read(done.path)["epoch"] + 2
    kept = fit(other_data, model, out=tmp_path / "a", max_epochs=epochs, ckpt_path=done.path, progress=False)
    new = fit(other_data, tiny_model(), out=tmp_path / "b", max_epochs=1, progress=False)
    assert kept.epochs["val_loss"].iloc[0] < new.epochs["val_loss"].iloc[0]


def test_a_file_from_the_middle_of_an_epoch_begins_the_next_one(
    datamodule: InteractionsDataModule,
    other_data: InteractionsDataModule,
    tiny_model: Callable[..., MultiVAE],
    tmp_path: Path,
) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    often = ModelCheckpoint(tmp_path, "step-{step}", every_n_train_steps=1, save_top_k=-1)
    fit(datamodule, tiny_model(), out=tmp_path / "a", max_epochs=2, progress=False, callbacks=[often])
    done = realign(tmp_path / "step-step=3.ckpt", other_data.item_ids, tmp_path / "realigned.ckpt")
    result = fit(
        other_data, tiny_model(), out=tmp_path / "b", max_epochs=2, ckpt_path=done.path, progress=False, seed=3
    )
    assert result.history["step"].tolist() == [4, 5, 6][: len(datamodule.train_dataloader())]
    assert set(result.history["epoch"]) == {1}


# --- what is refused


def refused(path: Path, vocabulary: list[Any], match: str, **options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(CheckpointError, match=match):
            realign(path, vocabulary, Path(folder, "out.ckpt"), **options)
        assert list(Path(folder).iterdir()) == []


def test_too_little_in_common_is_refused_unless_told_otherwise(trained: FitResult, tmp_path: Path) -> None:
    few = [*ITEMS[:29], *range(31)]
    refused(trained.checkpoint, few, r"Of 60 items in the checkpoint and 60 in the new vocabulary 29 are shared\.")
    assert len(realign(trained.checkpoint, few, tmp_path / "out.ckpt", strict=False).shared) == 29
    realign(trained.checkpoint, [*ITEMS[:30], *range(30)], tmp_path / "out.ckpt")
    realign(trained.checkpoint, [*ITEMS, *range(1000)], tmp_path / "out.ckpt")  # all that was learnt is kept
    realign(trained.checkpoint, ITEMS[:3], tmp_path / "out.ckpt")  # nothing is new


def test_ids_of_another_kind_are_named(trained: FitResult, tmp_path: Path) -> None:
    numbers = realign(trained.checkpoint, list(range(60)), tmp_path / "out.ckpt", strict=False).path
    refused(numbers, [str(i) for i in range(60)], "As text 60 would be: the ids are int in the checkpoint and str here")


def test_an_item_twice_is_refused(trained: FitResult) -> None:
    refused(trained.checkpoint, [*ITEMS, ITEMS[0]], "stands twice in the new vocabulary of 61")


def changed(trained: FitResult, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    checkpoint = read(trained.checkpoint)
    change(checkpoint)
    torch.save(checkpoint, path)
    return path


def test_a_file_without_a_vocabulary_takes_one(trained: FitResult, tmp_path: Path) -> None:
    bare = changed(trained, tmp_path / "bare.ckpt", lambda c: c.pop("InteractionsDataModule"))
    refused(bare, ITEMS, "has no item vocabulary .* Pass saved_vocabulary=")
    refused(bare, ITEMS, "a model of 60 items, and its vocabulary has 59", saved_vocabulary=ITEMS[1:])
    realign(bare, ITEMS[:50], tmp_path / "out.ckpt", saved_vocabulary=ITEMS)
    realign(trained.checkpoint, ITEMS[:50], tmp_path / "same.ckpt")
    one, other = (read(tmp_path / name)["state_dict"] for name in ("out.ckpt", "same.ckpt"))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.pop("optimizer_states"), "no optimizer state"),
        (lambda c: c["hyper_parameters"].update(layers=3), "is not a checkpoint of MultiVAE"),
        (lambda c: c["state_dict"].pop("mu.bias"), 'Missing key.* "mu.bias"'),
        (lambda c: c["optimizer_states"][0]["param_groups"][0]["params"].pop(), "The optimizer has 11 tensors"),
    ],
)
def test_other_checkpoints_are_refused(trained: FitResult, tmp_path: Path, change: Any, match: str) -> None:
    refused(changed(trained, tmp_path / "changed.ckpt", change), ITEMS, match)


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError):
        realign(tmp_path / "none.ckpt", ITEMS, tmp_path / "out.ckpt")


def test_where_it_cannot_be_written_it_says_so(trained: FitResult, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointNotSavedError):
        realign(trained.checkpoint, ITEMS, tmp_path / "file" / "out.ckpt")


# --- the other model


def test_bert4rec_keeps_the_rows_of_shared_items_and_of_the_special_tokens(
    trained_bert: FitResult, tmp_path: Path
) -> None:
    cycle = [f"item-{i:02d}" for i in range(20)]
    vocabulary = ["new-a", *cycle[3:][::-1], "new-b"]
    done = realign(trained_bert.checkpoint, vocabulary, tmp_path / "out.ckpt")
    old, new = read(trained_bert.checkpoint), read(done.path)
    assert new["SequencesDataModule"] == {"item_ids": vocabulary, "source": "made-up"}
    adam = [c["optimizer_states"][0]["state"] for c in (old, new)]
    for number, name in enumerate(old["state_dict"]):
        pairs = [(old["state_dict"][name], new["state_dict"][name])]
        pairs += [(adam[0][number][key], adam[1][number][key]) for key in ("exp_avg", "exp_avg_sq")]
        for before, after in pairs:
            if name not in ("item_embedding.weight", "output_bias"):
                assert torch.equal(before, after)
                continue
            assert torch.equal(after[1:18], before[3:20].flip(0))
            if name == "item_embedding.weight":
                assert torch.equal(after[19:], before[20:])  # padding and mask
    assert not adam[1][0]["exp_avg"][[0, 18]].any()
    best = load(done.path).recommend(["item-16", "item-17", "item-18"], 1)
    assert best[0].item_id == "item-19"


def test_bert4rec_goes_on_with_more_items(trained_bert: FitResult, cycle_ratings: Any, tmp_path: Path) -> None:
    from mvae import SequencesDataModule

    more = cycle_ratings.assign(item_id=cycle_ratings["item_id"].replace({"item-05": "a-new-item"}))
    data = SequencesDataModule(Interactions.from_ratings(more), more, batch_size=32, max_len=10)
    done = realign(trained_bert.checkpoint, data.item_ids, tmp_path / "out.ckpt")
    model = type(trained_bert.model)(**read(done.path)["hyper_parameters"])
    epochs = read(done.path)["epoch"] + 3
    result = fit(data, model, out=tmp_path, ckpt_path=done.path, max_epochs=epochs, progress=False)
    assert load(result.checkpoint).vocabulary == data.item_ids
    assert result.epochs["val_hr@10"].iloc[0] > 0.9
