"""BERT4Rec: what it reads, what it is trained on, and that it learns an order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mvae import BERT4Rec, FitResult, SequencesDataModule, evaluate, fit, load

PADDING, MASK = 20, 21


@pytest.fixture
def model(tiny_bert: Callable[..., BERT4Rec]) -> BERT4Rec:
    return tiny_bert().eval()


def some(rows: int = 8, length: int = 6) -> torch.Tensor:
    return torch.randint(20, (rows, length), generator=torch.Generator().manual_seed(0))


# ---- shapes ----------------------------------------------------------------------------------------------------


def test_shapes(model: BERT4Rec) -> None:
    assert model(some(8, 6)).shape == (8, 20)
    assert model.encode(some(8, 6)).shape == (8, 6, 16)
    assert model.score([3, 1, 2]).shape == (1, 20)
    assert torch.equal(model.score([3, 1, 2]), model(torch.tensor([[3, 1, 2]])))


def test_the_tensors_with_something_for_each_item_are_those_that_it_names() -> None:
    small, large = (BERT4Rec(n, 16, 1).state_dict() for n in (20, 33))
    changed = {name for name in small if small[name].shape != large[name].shape}
    assert changed == set(BERT4Rec(20, 16, 1).item_dims()) == {"item_embedding.weight", "output_bias"}
    assert small["item_embedding.weight"].shape == (22, 16)
    for name, dim in BERT4Rec(20, 16, 1).item_dims().items():
        assert large[name].shape[dim] - small[name].shape[dim] == 13


def test_the_output_is_tied_to_the_embedding(model: BERT4Rec) -> None:
    assert sum(20 in tensor.shape or 22 in tensor.shape for tensor in model.state_dict().values()) == 2
    before = model(some())
    with torch.no_grad():
        hidden = model.projection_norm(torch.nn.functional.gelu(model.projection(model.encode(some())[:, -1])))
        by_hand = hidden @ model.item_embedding.weight[:20].T + model.output_bias
        assert torch.allclose(model.logits(model.encode(some())[:, -1]), by_hand, atol=1e-6)
        model.item_embedding.weight[7] *= 3  # an item that one row reads and every row is scored against
    rows = (some() != 7).all(dim=1)
    changed = (model(some()) - before).abs()[rows] > 1e-6
    assert changed[:, 7].all()
    assert not changed[:, torch.arange(20) != 7].any()


@pytest.mark.parametrize(
    "settings",
    [{"num_items": 0}, {"hidden_dim": 15}, {"num_layers": 0}, {"max_len": 1}, {"mask_prob": 0.0}, {"dropout": 1.0}],
)
def test_impossible_settings_are_refused(tiny_bert: Callable[..., BERT4Rec], settings: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        tiny_bert(**settings)


def test_every_block_begins_with_weights_of_its_own(tiny_bert: Callable[..., BERT4Rec]) -> None:
    state = tiny_bert(num_layers=2).state_dict()
    assert not torch.equal(state["blocks.0.linear1.weight"], state["blocks.1.linear1.weight"])
    assert all(tensor.abs().max() <= 0.04 for name, tensor in state.items() if tensor.dim() > 1)


# ---- what it reads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_padding_is_never_attended(tiny_bert: Callable[..., BERT4Rec], training: bool) -> None:
    model = tiny_bert(dropout=0.0).train(training)
    padded = torch.cat([torch.full((8, 3), PADDING), some()], dim=1)
    before = model(padded)
    assert torch.allclose(before, model(some()), atol=1e-6)  # the same as without any
    with torch.no_grad():
        model.item_embedding.weight[PADDING] = 100.0
    assert torch.equal(model(padded), before)


def test_every_item_is_attended_in_both_directions(model: BERT4Rec) -> None:
    tokens = some(1, 6)
    before = model.encode(tokens)
    for changed in range(6):
        other = tokens.clone()
        other[0, changed] = (other[0, changed] + 1) % 20
        assert ((model.encode(other) - before).abs().amax(dim=2) > 1e-6).all()


def test_order_matters(model: BERT4Rec) -> None:
    assert not torch.allclose(model(some()), model(some().flip(1)), atol=1e-5)


def test_of_a_long_sequence_the_newest_items_are_read(model: BERT4Rec) -> None:
    long = some(8, 30)
    assert torch.equal(model(long), model(long[:, -9:]))  # nine and the mask make max_len


def test_nobody_without_items_breaks_it(model: BERT4Rec) -> None:
    assert model(torch.full((2, 9), PADDING)).isfinite().all()


# ---- what it is trained on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_prob", [0.1, 0.2, 0.6])
def test_a_share_of_the_items_is_masked_and_no_padding(tiny_bert: Callable[..., BERT4Rec], mask_prob: float) -> None:
    model = tiny_bert(mask_prob=mask_prob)
    sequences = torch.cat([torch.full((2000, 40), PADDING), some(2000, 60)], dim=1)
    torch.manual_seed(1)
    masked = model.choose_masked(sequences)
    assert not masked[:, :40].any()
    share = masked[:, 40:].double().mean(dim=0)  # at every position alike
    assert share.mean().item() == pytest.approx(mask_prob, abs=0.01)
    assert share.std().item() == pytest.approx((mask_prob * (1 - mask_prob) / 2000) ** 0.5, rel=0.4)


def test_where_nothing_is_masked_the_newest_item_is(tiny_bert: Callable[..., BERT4Rec]) -> None:
    masked = tiny_bert(mask_prob=1e-9).choose_masked(some())
    assert masked.nonzero().tolist() == [[row, 5] for row in range(8)]


@pytest.mark.filterwarnings("ignore:You are trying")
def test_the_loss_is_that_of_the_masked_items_only(tiny_bert: Callable[..., BERT4Rec]) -> None:
    model = tiny_bert(dropout=0.0)
    torch.manual_seed(3)
    loss = model.training_step(some(), 0)
    torch.manual_seed(3)
    masked = model.choose_masked(some())
    tokens = some().masked_fill(masked, MASK)
    logs = model.logits(model.encode(tokens)).log_softmax(dim=2)
    by_hand = [-logs[row, place, some()[row, place]] for row, place in masked.nonzero().tolist()]
    assert loss.item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-5)
    assert 0 < len(by_hand) < some().numel()


def test_dropout_zeroes_a_share_and_makes_up_for_it(tiny_bert: Callable[..., BERT4Rec]) -> None:
    dropout = tiny_bert(dropout=0.3).dropout
    torch.manual_seed(0)
    dropped = dropout(torch.ones(100_000))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert (dropped == 0).double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(dropout.eval()(torch.ones(5)), torch.ones(5))


# ---- it learns, and comes back ---------------------------------------------------------------------------------


def test_it_learns_a_cycle(trained_bert: FitResult, cycle: SequencesDataModule) -> None:
    found = evaluate(trained_bert.model, cycle.test_dataloader(), ["hr@1", "ndcg@10"])
    assert found["hr@1"] > 0.9
    assert trained_bert.checkpoint.name.startswith("bert4rec-epoch=")


def test_a_loaded_checkpoint_recommends_the_same(trained_bert: FitResult) -> None:
    recommender = load(trained_bert.checkpoint)
    assert type(recommender.model) is BERT4Rec
    assert recommender.vocabulary == [f"item-{i:02d}" for i in range(20)]
    liked = ["item-18", "item-19", "item-00"]
    best = recommender.recommend(liked, top=20)
    assert best[0].item_id == "item-01"
    logits = trained_bert.model.score([18, 19, 0])[0]
    logits[[18, 19, 0]] = float("-inf")
    probability = logits.softmax(dim=0)
    order = probability.argsort(descending=True)[:17].tolist()
    assert [r.item_id for r in best] == [f"item-{i:02d}" for i in order]
    assert [r.probability for r in best] == pytest.approx(probability[order].tolist())
    assert recommender.recommend(liked[::-1], 1) != best[:1]  # the order in which they were liked counts


def test_lightnings_own_loader_needs_no_num_items(trained_bert: FitResult) -> None:
    model = BERT4Rec.load_from_checkpoint(trained_bert.checkpoint, weights_only=True)
    assert model.hparams["num_items"] == 20
    with pytest.raises(RuntimeError, match=r"size mismatch for item_embedding\.weight"):
        BERT4Rec.load_from_checkpoint(trained_bert.checkpoint, num_items=21)


def test_a_run_that_is_resumed_equals_one_that_was_not_interrupted(
    cycle: SequencesDataModule, tiny_bert: Callable[..., BERT4Rec], tmp_path: Path
) -> None:
    whole = fit(cycle, tiny_bert(), out=tmp_path / "whole", max_epochs=4, progress=False)
    first = fit(cycle, tiny_bert(), out=tmp_path / "parts", max_epochs=2, progress=False)
    rest = fit(cycle, tiny_bert(), out=tmp_path / "parts", max_epochs=4, progress=False, ckpt_path=first.checkpoint)
    assert rest.history["train_loss"].tolist() == whole.history["train_loss"].tolist()
    one, other = whole.trainer.model.state_dict(), rest.trainer.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
