"""load(): a checkpoint file becomes a model that recommends, or one sentence that says why not."""

from __future__ import annotations

import io
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mvae import CheckpointError, FitResult, InteractionsDataModule, MultiVAE, load
from mvae.checkpoint import plain
from mvae.errors import CheckpointNotFoundError
from mvae.metrics import mask_seen


@pytest.fixture(scope="module")
def good(trained: FitResult) -> dict:
    return torch.load(trained.checkpoint, weights_only=True)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[object], Path]:
    def save(content: object) -> Path:
        path = tmp_path / "some.ckpt"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        return path

    return save


def refusal(path: Path, **options: bool) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert len(message) < 500
    return message


# ---- what is loaded --------------------------------------------------------------------------------------------


def test_the_model_and_its_vocabulary_come_back(trained: FitResult, datamodule: InteractionsDataModule) -> None:
    model, vocabulary, source = load(trained.checkpoint)
    assert vocabulary == datamodule.item_ids
    assert source == "made-up"
    assert dict(model.hparams) == dict(trained.model.hparams)
    before = trained.model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_model_is_ready_to_answer(trained: FitResult) -> None:
    model = load(str(trained.checkpoint)).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_it_answers_as_before_it_was_saved(trained: FitResult) -> None:
    x = (torch.rand(20, 60, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    with torch.no_grad():
        assert torch.equal(load(trained.checkpoint).model(x), trained.model(x))


def test_recommendations_are_the_models_best_items_that_are_not_liked_already(trained: FitResult) -> None:
    liked = ["item-03", "item-17", "item-40"]
    x = torch.zeros(1, 60)
    x[0, [3, 17, 40]] = 1
    with torch.no_grad():
        probability = mask_seen(trained.model(x), x).softmax(dim=1)[0]
    expected = [(f"item-{i:02d}", probability[i].item()) for i in probability.argsort(descending=True)[:5].tolist()]
    assert load(trained.checkpoint).recommend(liked, top=5) == expected


def test_probabilities_fall_and_add_up_to_one_over_what_is_not_liked(trained: FitResult) -> None:
    best = load(trained.checkpoint).recommend(["item-00", "item-01", "item-00"], top=1_000)
    assert len(best) == 58
    probabilities = [r.probability for r in best]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert not {"item-00", "item-01"} & {r.item_id for r in best}


@pytest.mark.parametrize(("liked", "said"), [([], "none was given"), (["item-00", "item-99"], "'item-99' is not")])
def test_an_unknown_item_and_no_item_at_all_are_refused(trained: FitResult, liked: list, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        load(trained.checkpoint).recommend(liked)


@pytest.mark.parametrize("top", [0, -1])
def test_fewer_than_one_recommendation_is_refused(trained: FitResult, top: int) -> None:
    with pytest.raises(ValueError, match=f"top is {top}"):
        load(trained.checkpoint).recommend(["item-00"], top)


def test_who_likes_everything_is_recommended_nothing(trained: FitResult) -> None:
    recommender = load(trained.checkpoint)
    assert recommender.recommend(recommender.vocabulary) == []


def test_a_file_written_the_old_way_is_loaded_too(trained: FitResult, good: dict, tmp_path: Path) -> None:
    torch.save(good, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    loaded = load(tmp_path / "old.ckpt").model
    assert torch.equal(loaded.mu.weight, trained.model.mu.weight)


def test_the_loaded_model_does_not_hang_on_the_file(trained: FitResult, saved: Callable, good: dict) -> None:
    path = saved(good)
    model = load(path).model
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(model.mu.weight, trained.model.mu.weight)


# ---- what is refused -------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_a_file_not_found_error_that_speaks_of_save_last(tmp_path: Path) -> None:
    message = refusal(tmp_path / "last.ckpt")
    assert "There is no file" in message
    assert "save_last=True" in message
    with pytest.raises(CheckpointNotFoundError):
        load(tmp_path / "last.ckpt")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "last.ckpt")


def test_a_folder_is_answered_with_the_function_for_folders(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert "is a folder" in message
    assert "get_latest_checkpoint" in message


def zip_without_a_pickle() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photos/cat.txt", "a cat")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"user,item\n1,2\n", "is not a checkpoint"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is not a checkpoint"),
        (bytes(1000), "is not a checkpoint"),
        (zip_without_a_pickle(), "zip file without a 'data.pkl'"),
        (pickle.dumps({"state_dict": {}, "hyper_parameters": {}}), "plain pickle"),
    ],
    ids=["empty", "text", "picture", "zeros", "zip", "pickle"],
)
@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_is_no_checkpoint_is_said_to_be_none(
    saved: Callable, content: bytes, said: str, weights_only: bool
) -> None:
    message = refusal(saved(content), weights_only=weights_only)
    assert said in message
    assert "weights_only=False" not in message


@pytest.mark.parametrize("share", [0.002, 0.3, 0.9, 0.9999])
def test_a_file_that_is_cut_off_is_said_to_be_cut_off(trained: FitResult, saved: Callable, share: float) -> None:
    whole = trained.checkpoint.read_bytes()
    assert "cut off" in refusal(saved(whole[: int(len(whole) * share)]))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "a list"),
        (torch.ones(3), "a Tensor"),
        ({"model": {}, "step": 3}, "the keys model, step"),
        ({"state_dict": {}}, "the keys state_dict"),
    ],
)
def test_a_file_without_hyperparameters_is_no_lightning_checkpoint(
    saved: Callable, content: object, found: str
) -> None:
    message = refusal(saved(content))
    assert "is not a Lightning checkpoint with saved hyperparameters" in message
    assert found in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hyper_parameters": {"vocab_size": 3}}, "unexpected keyword argument 'vocab_size'"),
        ({"hyper_parameters": {}}, "missing 1 required positional argument: 'num_items'"),
        ({"hyper_parameters": [1]}, "must be a mapping"),
        ({"hyper_parameters": {"num_items": 0}}, "num_items=0"),
        ({"state_dict": {"transformer.weight": torch.ones(3)}}, "Missing key(s)"),
        ({"state_dict": [1]}, "'list' object"),
        ({"state_dict": {"mu.weight": "text"}}, "'str' object"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(saved: Callable, good: dict, change: dict, said: str) -> None:
    message = refusal(saved(good | change))
    assert "is not a checkpoint of MultiVAE" in message
    assert said in message


def test_weights_of_another_number_of_items_are_refused_with_both_sizes(saved: Callable, good: dict) -> None:
    message = refusal(saved(good | {"hyper_parameters": good["hyper_parameters"] | {"num_items": 70}}))
    assert "[16, 60]" in message
    assert "[16, 70]" in message


def test_a_checkpoint_without_a_vocabulary_says_how_to_load_the_model_alone(saved: Callable, good: dict) -> None:
    message = refusal(saved({key: value for key, value in good.items() if key != "InteractionsDataModule"}))
    assert "no item vocabulary" in message
    assert "MultiVAE.load_from_checkpoint" in message


def test_a_vocabulary_is_found_under_the_name_of_any_data_module(saved: Callable, good: dict) -> None:
    renamed = {("MyFilms" if key == "InteractionsDataModule" else key): value for key, value in good.items()}
    assert load(saved(renamed)).vocabulary == [f"item-{i:02d}" for i in range(60)]


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        ({"item_ids": ["a", "b"]}, "60 items and a vocabulary of 2"),
        ({"item_ids": ["a"] * 60}, "vocabulary of 60, 1 of them different"),
        ({}, "no item vocabulary"),
        ({"item_ids": None}, "not as this package's data module saves it"),
        ({"item_ids": [[1]] * 60}, "not as this package's data module saves it"),
        ([1, 2], "no item vocabulary"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(saved: Callable, good: dict, vocabulary: object, said: str) -> None:
    assert said in refusal(saved(good | {"InteractionsDataModule": vocabulary}))


# ---- weights_only ----------------------------------------------------------------------------------------------


class Trap:
    """Says in a file that ``os.mkdir`` is to be called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_the_cure_that_a_refusal_names_works(saved: Callable, good: dict, tmp_path: Path) -> None:
    path = saved(good | {"where": tmp_path})
    assert "`mvae plain FILE -o OUT`" in refusal(path)
    plain(path, tmp_path / "plain.ckpt")
    assert load(tmp_path / "plain.ckpt").vocabulary == load(path, weights_only=False).vocabulary


def test_a_file_that_would_run_code_is_refused_and_nothing_runs(saved: Callable, good: dict, tmp_path: Path) -> None:
    path = saved(good | {"extra": Trap(tmp_path / "ran")})
    message = refusal(path)
    assert "weights_only=True) refuses" in message
    assert ".mkdir" in message
    assert "mvae inspect" in message
    assert not (tmp_path / "ran").exists()
    load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # so the file was what it seemed


@pytest.mark.parametrize(("value", "named"), [(np.float32(0.001), "numpy"), (pathlib.PurePosixPath("x"), "pathlib")])
def test_a_harmless_type_that_torch_does_not_know_is_named_and_can_be_allowed(
    saved: Callable, good: dict, value: object, named: str
) -> None:
    path = saved(good | {"hyper_parameters": good["hyper_parameters"] | {"lr": value}})
    assert named in refusal(path)
    assert load(path, weights_only=False).model.hparams["lr"] == value


def test_lightnings_own_loader_takes_the_file_safely_too(trained: FitResult) -> None:
    model = MultiVAE.load_from_checkpoint(trained.checkpoint, weights_only=True)
    assert torch.equal(model.mu.weight, load(trained.checkpoint).model.mu.weight)
