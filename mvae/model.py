"""Mult-VAE, a variational autoencoder of the items that a person liked.

D. Liang, R. G. Krishnan, M. D. Hoffman and T. Jebara, "Variational Autoencoders for Collaborative Filtering", WWW 2018.
Equations are cited as in that paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from mvae.layers import sparse
from mvae.layers.adam import Adam
from mvae.layers.processes import no_loss, users_in, weight_of_share
from mvae.metrics import TOP_N, mask_seen, measure


class MultiVAE(L.LightningModule):
    """A variational autoencoder that reads what a user liked and says how likely every item is.

    With `hidden_dims=[600, 200]`: items → 600 → 200 → latent 200 → 600 → items. Twelve tensors.

    A batch is a matrix [batch, items], dense or, where there are many items, as a sparse CSR tensor. The network and
    its loss are the same; with a sparse one, the first layer and the loss leave the zeros out (`mvae.layers`).

    Args:
        num_items: columns of the interaction matrix; fixes the first and the last layer.
        hidden_dims: widths of the encoder's layers. The last is the latent dimension too; the decoder goes back.
        dropout: share of the input items that are hidden from the encoder in training.
        lr: Adam's learning rate at the start; ReduceLROnPlateau halves it when `val_loss` stops falling.
        weight_decay: Adam's L2 penalty.
        kl_max_weight: the largest β (section 2.2.2).
        kl_anneal_steps: optimizer steps over which β grows linearly from 0 to `kl_max_weight`.

    Raises:
        ValueError: a size below 1, no hidden layer, or a dropout outside [0, 1).
    """

    file_name = "multi-vae"

    def __init__(
        self,
        num_items: int,
        hidden_dims: list[int] = [600, 200],  # noqa: B006  (read, never changed)
        dropout: float = 0.5,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        kl_max_weight: float = 0.2,
        kl_anneal_steps: int = 20000,
    ) -> None:
        super().__init__()
        if num_items < 1 or not hidden_dims or min(hidden_dims) < 1:
            raise ValueError(f"{num_items=} and {hidden_dims=}: expected sizes of at least 1 and one hidden layer.")
        if not 0 <= dropout < 1 or kl_anneal_steps < 0:
            raise ValueError(f"{dropout=}, {kl_anneal_steps=}: expected 0 <= dropout < 1 and kl_anneal_steps >= 0.")
        self.save_hyperparameters()
        latent = hidden_dims[-1]
        self.encoder = _layers([num_items, *hidden_dims])
        self.encoder.append(nn.Tanh())
        self.mu = nn.Linear(latent, latent)
        self.logvar = nn.Linear(latent, latent)
        self.decoder = _layers([latent, *hidden_dims[-2::-1], num_items])
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, items] for users with the items `x` [batch, items]: the mean of the posterior decoded."""
        logits: Tensor = self.decoder(self.encode(x)[0])
        return logits

    def score(self, columns: Sequence[int]) -> Tensor:
        """Logits [1, items] for somebody who liked the items of these columns; their order does not matter."""
        x = torch.zeros(1, self.hparams["num_items"], dtype=self.mu.weight.dtype)
        x[0, list(columns)] = 1.0
        logits: Tensor = self(x)
        return logits

    def item_dims(self) -> dict[str, int]:
        """The tensors with something for each item: name → its dimension of items."""
        last = f"decoder.{len(self.decoder) - 1}"
        return {"encoder.0.weight": 1, f"{last}.weight": 0, f"{last}.bias": 0}

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ², each [batch, latent], of the approximate posterior q(z|x) (equation 5)."""
        if x.layout == torch.sparse_csr:
            first = sparse.linear_of_sparse(self.drop_items(sparse.normalized(x)), self._first)
            hidden = self.encoder[1:](first)
        else:
            hidden = self.encoder(self.drop_items(F.normalize(x, dim=1)))
        return self.mu(hidden), self.logvar(hidden)

    def drop_items(self, x: Tensor) -> Tensor:
        """Dropout on the input (section 3.4), drawn for the non-zeros only: a zero that is dropped is a zero."""
        p = self.hparams["dropout"]
        if not self.training or p == 0:
            return x
        if x.layout == torch.sparse_csr:
            return sparse.without_some(x, p)
        rows, columns = x.nonzero(as_tuple=True)
        kept = torch.rand(len(rows), device=x.device) >= p
        rows, columns = rows[kept], columns[kept]
        dropped = torch.zeros_like(x)
        dropped[rows, columns] = x[rows, columns] / (1 - p)
        return dropped

    def sample(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """A draw z = μ + σ·ε, ε ~ N(0, 1): the reparametrisation trick, which lets gradients through (figure 2)."""
        return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)

    @property
    def beta(self) -> float:
        """The weight of the KL term now: β grows linearly with the optimizer steps, then stays (section 2.2.2)."""
        steps = self.hparams["kl_anneal_steps"]
        progress = min(1.0, self.global_step / steps) if steps else 1.0
        return float(self.hparams["kl_max_weight"]) * progress

    @property
    def _first(self) -> nn.Linear:
        return cast(nn.Linear, self.encoder[0])

    def setup(self, stage: str) -> None:
        """Lightning calls it before it makes the optimizer: the first weight is stored as sparse batches read it."""
        if getattr(getattr(self.trainer, "datamodule", None), "layout", None) == torch.sparse_csr:
            sparse.store_by_item(self._first)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has every tensor row by row, however it was trained."""
        weights = checkpoint["state_dict"]
        weights.update({name: weight.contiguous() for name, weight in weights.items()})

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        weight = weight_of_share(len(batch), self.device)  # 1, unless other processes take this step too
        nll, kl = self._loss_terms(batch) if len(batch) else (no_loss(self.parameters()),) * 2
        loss = weight * (nll + self.beta * kl)
        logged = {"train_loss": loss, "train_nll": weight * nll, "train_kl": weight * kl}
        self.log_dict(logged, batch_size=len(batch), sync_dist=True)
        return loss

    def _loss_terms(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms of the loss (equation 7), each the mean over users: reconstruction and KL."""
        mu, logvar = self.encode(batch)
        z, kl = self.sample(mu, logvar), kl_divergence(mu, logvar)
        if batch.layout == torch.sparse_csr:
            return sparse.multinomial_nll_of(self.decoder[:-1](z), cast(nn.Linear, self.decoder[-1]), batch), kl
        return multinomial_nll(self.decoder(z), batch), kl

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log_dict(self._evaluate(batch, "val"), batch_size=users_in(batch), sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log_dict(self._evaluate(batch, "test"), batch_size=users_in(batch), sync_dist=True)

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> dict[str, Tensor]:
        """Loss of the held-out items given the ones shown, and the ranking metrics."""
        fold_in, held_out = batch
        logits = self(fold_in)
        measures = measure(mask_seen(logits, fold_in), held_out, TOP_N)
        loss = multinomial_nll(logits, held_out)
        return {f"{stage}_loss": loss} | {f"{stage}_{name}": values.mean() for name, values in measures.items()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        lr, weight_decay = self.hparams["lr"], self.hparams["weight_decay"]
        # fused: one pass over each tensor instead of six. The same arithmetic, and quicker on a CPU.
        optimizer = Adam(self.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def multinomial_nll(logits: Tensor, x: Tensor) -> Tensor:
    """−Σᵢ xᵢ log πᵢ with π = softmax(logits), the mean over users (equation 2, without its constant).

    Args:
        logits: [batch, items].
        x: [batch, items], how often each item was chosen.

    Returns:
        A scalar, in nats per user.
    """
    # log softmax = logits − logsumexp, summed against x without a second matrix of the size of the logits.
    return (torch.logsumexp(logits, dim=1) * x.sum(dim=1) - (logits * x).sum(dim=1)).mean()


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)), summed over the latent dimensions [batch, latent], the mean over users: a scalar."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(dim=1).mean()


def _layers(widths: list[int]) -> nn.Sequential:
    """Linear layers with tanh between them: modules 0, 2, 4, … are the linear ones."""
    layers: list[nn.Module] = []
    for i, (width_in, width_out) in enumerate(pairwise(widths)):
        if i:
            layers.append(nn.Tanh())
        layers.append(nn.Linear(width_in, width_out))
    return nn.Sequential(*layers)


def _init_weights(module: nn.Module) -> None:
    """The authors' own initialisation: Xavier for the weights, a narrow normal for the biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.trunc_normal_(module.bias, std=0.001)
