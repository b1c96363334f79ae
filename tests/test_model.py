"""MultiVAE: the tensors, the loss against slow references, and what each hyperparameter does."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mvae import Interactions, InteractionsDataModule, MultiVAE
from mvae.callbacks import History
from mvae.checkpoint import ExactResume
from mvae.data.generated import synthetic
from mvae.model import kl_divergence, multinomial_nll

SHAPES = {
    "encoder.0.weight": (600, 6807),
    "encoder.0.bias": (600,),
    "encoder.2.weight": (200, 600),
    "encoder.2.bias": (200,),
    "mu.weight": (200, 200),
    "mu.bias": (200,),
    "logvar.weight": (200, 200),
    "logvar.bias": (200,),
    "decoder.0.weight": (600, 200),
    "decoder.0.bias": (600,),
    "decoder.2.weight": (6807, 600),
    "decoder.2.bias": (6807,),
}


def some_users(batch: int = 6, items: int = 60, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(batch, items, generator=generator) < 0.2).float()
    x[:, 0] = 1  # nobody is empty
    return x


# ---- the tensors -----------------------------------------------------------------------------------------------


def test_the_state_dict_has_the_twelve_tensors_in_order() -> None:
    with torch.device("meta"):
        model = MultiVAE(6807)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == SHAPES
    assert list(model.state_dict()) == list(SHAPES)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_the_documents_network_has_8_497_007_parameters() -> None:
    with torch.device("meta"):
        model = MultiVAE(6807)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 8_497_007


@pytest.mark.parametrize(
    ("hidden_dims", "encoder", "decoder"),
    [
        ([7], [(7, 9)], [(9, 7)]),
        ([8, 4], [(8, 9), (4, 8)], [(8, 4), (9, 8)]),
        ([8, 6, 4], [(8, 9), (6, 8), (4, 6)], [(6, 4), (8, 6), (9, 8)]),
    ],
)
def test_the_decoder_goes_back_the_way_the_encoder_came(hidden_dims: list, encoder: list, decoder: list) -> None:
    weights = {name: tuple(w.shape) for name, w in MultiVAE(9, hidden_dims).state_dict().items() if w.ndim == 2}
    latent = hidden_dims[-1]
    assert [shape for name, shape in weights.items() if name.startswith("encoder")] == encoder
    assert [shape for name, shape in weights.items() if name.startswith("decoder")] == decoder
    assert weights["mu.weight"] == weights["logvar.weight"] == (latent, latent)


def test_weights_start_as_in_the_authors_code() -> None:
    model = MultiVAE(500)
    bound = math.sqrt(6 / (500 + 600))
    weight = model.encoder[0].weight.detach()
    assert bound * 0.99 < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    biases = torch.cat([p.detach() for name, p in model.named_parameters() if name.endswith("bias")])
    assert biases.std().item() == pytest.approx(0.001, rel=0.1)


def test_tanh_stands_after_every_encoder_layer_and_before_the_last_decoder_layer() -> None:
    model = MultiVAE(9, [8, 4])
    assert [type(layer).__name__ for layer in model.encoder] == ["Linear", "Tanh", "Linear", "Tanh"]
    assert [type(layer).__name__ for layer in model.decoder] == ["Linear", "Tanh", "Linear"]


# ---- hyperparameters -------------------------------------------------------------------------------------------


def test_seven_hyperparameters_are_saved_with_the_documents_defaults() -> None:
    with torch.device("meta"):
        model = MultiVAE(6807)
    assert dict(model.hparams) == {
        "num_items": 6807,
        "hidden_dims": [600, 200],
        "dropout": 0.5,
        "lr": 0.001,
        "weight_decay": 0.0,
        "kl_max_weight": 0.2,
        "kl_anneal_steps": 20000,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_items": 0},
        {"num_items": -3},
        {"hidden_dims": []},
        {"hidden_dims": [8, 0]},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"dropout": float("nan")},
        {"kl_anneal_steps": -1},
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments: dict) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name}=.*expected"):
        MultiVAE(**{"num_items": 9, "hidden_dims": [8, 4]} | arguments)


def at_step(model: MultiVAE, step: int) -> MultiVAE:
    """The model, told that it is ``step`` optimizer steps old; Lightning keeps that number in the Trainer."""
    return type("Stepped", (MultiVAE,), {"global_step": step})(**model.hparams)


@given(step=st.integers(0, 100_000), steps=st.integers(0, 50_000), most=st.floats(0, 10))
def test_beta_grows_linearly_and_stays(step: int, steps: int, most: float) -> None:
    beta = at_step(MultiVAE(3, [2], kl_max_weight=most, kl_anneal_steps=steps), step).beta
    assert beta == pytest.approx(most if step >= steps else most * step / steps)


@pytest.mark.parametrize(("step", "beta"), [(0, 0.0), (245, 0.00245), (10_000, 0.1), (20_000, 0.2), (106_820, 0.2)])
def test_beta_of_the_documents_run(step: int, beta: float) -> None:
    assert at_step(MultiVAE(3), step).beta == pytest.approx(beta)


def test_without_annealing_beta_is_at_its_maximum_from_the_start() -> None:
    assert at_step(MultiVAE(3, kl_anneal_steps=0), 0).beta == 0.2


def test_adam_and_a_scheduler_that_halves_on_val_loss() -> None:
    chosen = MultiVAE(9, [8, 4], lr=0.02, weight_decay=0.003).configure_optimizers()
    optimizer, scheduler = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.Adam)
    assert (group["lr"], group["weight_decay"], group["betas"], group["eps"]) == (0.02, 0.003, (0.9, 0.999), 1e-8)
    assert len(group["params"]) == 12
    assert type(scheduler) is torch.optim.lr_scheduler.ReduceLROnPlateau
    assert (scheduler.factor, scheduler.mode) == (0.5, "min")
    assert chosen["lr_scheduler"]["monitor"] == "val_loss"


# ---- the loss --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1_000), batch=st.integers(1, 5), items=st.integers(1, 12), scale=st.sampled_from([1, 80]))
def test_the_likelihood_equals_log_softmax_term_by_term(seed: int, batch: int, items: int, scale: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, items, generator=generator, dtype=torch.float64) * scale
    x = torch.randint(0, 3, (batch, items), generator=generator).double()
    slow = 0.0
    for user in range(batch):
        top = max(logits[user].tolist())
        total = top + math.log(sum(math.exp(value - top) for value in logits[user].tolist()))
        slow -= sum(x[user, i].item() * (logits[user, i].item() - total) for i in range(items))
    assert multinomial_nll(logits, x).item() == pytest.approx(slow / batch, abs=1e-9)


def test_the_likelihood_equals_torchs_cross_entropy() -> None:
    x = some_users()
    logits = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    reference = torch.nn.functional.cross_entropy(logits, x, reduction="sum") / len(x)
    assert multinomial_nll(logits, x).item() == pytest.approx(reference.item(), rel=1e-5)


def test_a_user_with_nothing_adds_nothing_to_the_likelihood() -> None:
    assert multinomial_nll(torch.randn(1, 5), torch.zeros(1, 5)).item() == 0.0


@given(seed=st.integers(0, 1_000), batch=st.integers(1, 5), latent=st.integers(1, 8))
def test_the_divergence_equals_that_of_torchs_distributions(seed: int, batch: int, latent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mu, logvar = torch.randn(2, batch, latent, generator=generator, dtype=torch.float64) * 2
    posterior = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    reference = torch.distributions.kl_divergence(posterior, prior).sum(dim=1).mean()
    assert kl_divergence(mu, logvar).item() == pytest.approx(reference.item(), rel=1e-9)


def test_the_divergence_of_the_prior_from_itself_is_zero() -> None:
    assert kl_divergence(torch.zeros(3, 4), torch.zeros(3, 4)).item() == 0.0


def test_the_training_loss_is_likelihood_plus_beta_times_divergence(
    tiny_model: Callable[..., MultiVAE], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = at_step(tiny_model(dropout=0.0, kl_max_weight=3.0), 5)  # half of kl_anneal_steps: β is 1.5
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(model, "log_dict", lambda values, batch_size, sync_dist: logged.update(values))
    x = some_users()
    torch.manual_seed(7)
    loss = model.training_step(x, 0)
    mu, logvar = model.encode(x)
    torch.manual_seed(7)
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
    expected = multinomial_nll(model.decoder(z), x) + 1.5 * kl_divergence(mu, logvar)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert set(logged) == {"train_loss", "train_nll", "train_kl"}
    assert logged["train_loss"].item() == pytest.approx((logged["train_nll"] + 1.5 * logged["train_kl"]).item())


def test_gradients_reach_all_twelve_tensors(tiny_model: Callable[..., MultiVAE]) -> None:
    model = at_step(tiny_model(), 10)
    model.log_dict = lambda *_, **__: None
    model.training_step(some_users(), 0).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_sample_has_the_mean_and_spread_it_is_given(tiny_model: Callable[..., MultiVAE]) -> None:
    mu, logvar = torch.tensor([2.0, -1.0]).expand(40_000, 2), torch.tensor([0.0, math.log(9)]).expand(40_000, 2)
    torch.manual_seed(0)
    z = tiny_model().sample(mu, logvar)
    assert z.mean(dim=0).tolist() == pytest.approx([2, -1], abs=0.06)
    assert z.std(dim=0).tolist() == pytest.approx([1, 3], rel=0.03)


# ---- the input -------------------------------------------------------------------------------------------------


def test_dropout_hides_items_and_keeps_the_expectation(tiny_model: Callable[..., MultiVAE]) -> None:
    model = tiny_model(dropout=0.3).train()
    x = torch.tensor([[0.0, 2.0, 0.0, 1.0]]).repeat(20_000, 1)
    torch.manual_seed(0)
    dropped = model.drop_items(x)
    assert dropped.mean(dim=0).tolist() == pytest.approx([0, 2, 0, 1], abs=0.05)
    kept = dropped[:, 1] > 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.02)
    assert dropped[kept, 1].unique().tolist() == pytest.approx([2 / 0.7])
    both = (kept & (dropped[:, 3] > 0)).float().mean().item()
    assert both == pytest.approx(0.49, abs=0.02)  # each item is drawn for itself


def test_dropout_never_adds_an_item_and_leaves_the_batch_alone(tiny_model: Callable[..., MultiVAE]) -> None:
    x = some_users()
    before = x.clone()
    dropped = tiny_model(dropout=0.5).train().drop_items(x)
    assert (dropped[x == 0] == 0).all()
    assert torch.equal(x, before)


@pytest.mark.parametrize(("training", "dropout"), [(False, 0.5), (True, 0.0)])
def test_without_training_or_dropout_nothing_is_hidden(
    tiny_model: Callable[..., MultiVAE], training: bool, dropout: float
) -> None:
    x = some_users()
    assert torch.equal(tiny_model(dropout=dropout).train(training).drop_items(x), x)


@torch.no_grad()
def test_in_eval_mode_the_answer_is_always_the_same(tiny_model: Callable[..., MultiVAE]) -> None:
    model, x = tiny_model().eval(), some_users()
    assert torch.equal(model(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


@torch.no_grad()
def test_the_answer_is_the_posterior_mean_decoded(tiny_model: Callable[..., MultiVAE]) -> None:
    model, x = tiny_model().eval(), some_users()
    mu, _ = model.encode(x)
    assert torch.equal(model(x), model.decoder(mu))
    assert model(x).shape == x.shape


@torch.no_grad()
@pytest.mark.parametrize("factor", [0.01, 3.0, 1000.0])
def test_the_input_is_normalised_so_that_its_scale_does_not_matter(
    tiny_model: Callable[..., MultiVAE], factor: float
) -> None:
    model, x = tiny_model().eval(), some_users()
    assert torch.allclose(model(x * factor), model(x), atol=1e-6)
    assert not torch.allclose(model(x), model(x.roll(1, dims=1)), atol=1e-3)


@torch.no_grad()
def test_the_encoder_sees_vectors_of_length_one(tiny_model: Callable[..., MultiVAE]) -> None:
    model, seen = tiny_model().eval(), []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(some_users())
    assert seen[0].norm(dim=1).tolist() == pytest.approx([1.0] * 6)


@torch.no_grad()
def test_a_user_with_nothing_gets_finite_scores(tiny_model: Callable[..., MultiVAE]) -> None:
    assert tiny_model().eval()(torch.zeros(1, 60)).isfinite().all()


# ---- validation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["val", "test"])
@torch.no_grad()
def test_validation_scores_the_hidden_items_given_the_shown_ones(
    tiny_model: Callable[..., MultiVAE], interactions: Interactions, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mvae import evaluate

    datamodule = InteractionsDataModule(interactions)
    model = tiny_model().eval()
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(
        model, "log_dict", lambda values, batch_size, sync_dist: logged.update(values, batch_size=batch_size)
    )
    loader = getattr(datamodule, f"{stage}_dataloader")()
    ((fold_in, held_out),) = list(loader)
    (model.validation_step if stage == "val" else model.test_step)((fold_in, held_out), 0)
    assert logged.pop("batch_size") == len(fold_in)
    assert logged.pop(f"{stage}_loss").item() == pytest.approx(multinomial_nll(model(fold_in), held_out).item())
    assert {k: v.item() for k, v in logged.items()} == pytest.approx(
        {f"{stage}_{name}": value for name, value in evaluate(model, loader).items()}
    )


# ---- dense and sparse batches ----------------------------------------------------------------------------------


def trained(
    tmp_path: Path, layout: torch.layout, steps: int, ckpt_path: Path | None = None
) -> tuple[list[float], Path]:
    """The losses of a run on batches of this layout, and its checkpoint."""
    data = InteractionsDataModule(synthetic(200, 300, interactions_per_user=12), batch_size=32)
    data.layout = layout
    torch.manual_seed(3)
    model = MultiVAE(300, [16, 8], kl_anneal_steps=20)
    history = History()
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        callbacks=[history, ExactResume()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    trainer.save_checkpoint(tmp_path / f"{layout}-{steps}.ckpt")
    return list(history.table["train_loss"]), tmp_path / f"{layout}-{steps}.ckpt"


DENSE, SPARSE = torch.strided, torch.sparse_csr


def test_dense_and_sparse_batches_train_alike_for_fifty_steps(tmp_path: Path) -> None:
    dense, _ = trained(tmp_path, DENSE, 50)
    sparse, _ = trained(tmp_path, SPARSE, 50)
    assert len(dense) == 50
    assert sparse == pytest.approx(dense, rel=1e-5)


@pytest.mark.parametrize(("before", "after"), [(DENSE, SPARSE), (SPARSE, DENSE)], ids=["dense first", "sparse first"])
def test_a_run_resumes_with_the_other_kind_of_batches(
    tmp_path: Path, before: torch.layout, after: torch.layout
) -> None:
    straight, _ = trained(tmp_path, DENSE, 25)
    _, saved = trained(tmp_path, before, 10)
    resumed, _ = trained(tmp_path, after, 25, saved)
    assert resumed == pytest.approx(straight[10:], rel=1e-5)


def test_a_checkpoint_does_not_show_which_batches_it_was_trained_on(tmp_path: Path) -> None:
    shapes = []
    for layout in (DENSE, SPARSE):
        checkpoint = torch.load(trained(tmp_path, layout, 3)[1], weights_only=True)
        state = checkpoint["optimizer_states"][0]["state"]
        moments = {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}
        tensors = checkpoint["state_dict"] | moments
        shapes.append({name: (tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in tensors.items()})
    assert shapes[0] == shapes[1]
