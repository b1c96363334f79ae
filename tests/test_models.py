"""The registry: which model goes with which data, and which one a file is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mvae import BERT4Rec, FitResult, InteractionsDataModule, MultiVAE, SequencesDataModule, fit
from mvae.models import KINDS, Kind, kind_of, model_class


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.model.__name__)
def test_every_model_says_which_dimension_is_the_items(kind: tuple) -> None:
    made = [kind.model(n, **kind.settings) for n in (7, 11)]
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in made]
    assert {name for name in shapes[0] if shapes[0][name] != shapes[1][name]} == set(made[0].item_dims())
    for name, dim in made[0].item_dims().items():
        one, other = list(shapes[0][name]), list(shapes[1][name])
        assert other[dim] - one[dim] == 4
        assert one[:dim] + one[dim + 1 :] == other[:dim] + other[dim + 1 :]
    assert made[0].score([1, 4]).shape == (1, 7)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.model.__name__)
def test_a_file_is_known_by_its_hyperparameters(kind: tuple) -> None:
    assert model_class(dict(kind.model(7).hparams)) is kind.model


def test_fit_makes_the_model_for_the_data(
    datamodule: InteractionsDataModule, cycle: SequencesDataModule, tmp_path: Path
) -> None:
    for data, kind in ((datamodule, MultiVAE), (cycle, BERT4Rec)):
        result = fit(data, out=tmp_path / kind.__name__, max_epochs=1, progress=False)
        assert type(result.model) is kind
        assert result.checkpoint.name.startswith(kind.file_name + "-epoch=00-val_loss=")
        assert type(data).__name__ in torch.load(result.checkpoint, weights_only=True)


def test_a_model_and_other_data_are_refused_before_anything_is_made(
    datamodule: InteractionsDataModule, cycle: SequencesDataModule, tiny_bert: Callable, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=r"BERT4Rec and InteractionsDataModule .* expects SequencesDataModule"):
        fit(datamodule, tiny_bert(), out=tmp_path / "a")
    with pytest.raises(TypeError, match=r"MultiVAE and SequencesDataModule .* expects InteractionsDataModule"):
        fit(cycle, MultiVAE(20), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_subclasses_count(trained: FitResult, datamodule: InteractionsDataModule) -> None:
    class Mine(MultiVAE):
        pass

    assert kind_of(datamodule, Mine(60)).model is MultiVAE


def test_two_models_may_learn_from_the_same_data(
    datamodule: InteractionsDataModule, cycle: SequencesDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Third(MultiVAE):
        pass

    kinds = (Kind(Third, InteractionsDataModule, {}), *KINDS)
    monkeypatch.setattr("mvae.models.KINDS", kinds)
    assert kind_of(datamodule, Third(60)).model is Third
    assert kind_of(datamodule, MultiVAE(60)).model is MultiVAE
    with pytest.raises(TypeError, match="do not go together"):
        kind_of(cycle, Third(60))
