"""BERT4Rec, which reads a person's items in order and guesses the masked ones.

F. Sun, J. Liu, J. Wu, C. Pei, X. Lin, W. Ou and P. Jiang, "BERT4Rec: Sequential Recommendation with Bidirectional
Encoder Representations from Transformer", CIKM 2019. Sections are cited as in that paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from mvae.layers.processes import no_loss, users_in, weight_of_share
from mvae.metrics import NEXT_ITEM, mask_seen, measure


class BERT4Rec(L.LightningModule):
    """A transformer that reads what a user liked in order, in both directions, and fills in what is masked.

    Tokens are the items' columns, 0 … `num_items` − 1, then one for padding and one for the mask. Sequences are
    padded on the left, so that the newest item always stands at the last position.

    Args:
        num_items: columns of the interaction matrix; the embedding has a row for each.
        hidden_dim: d, the width of the embedding and of all blocks.
        num_layers: L, transformer blocks.
        num_heads: h, heads of the self-attention; they divide `hidden_dim`.
        max_len: N, the longest sequence it sees, the mask included; of a longer one the newest items.
        mask_prob: ρ, the share of the items that are masked in training.
        dropout: share of a sub-layer's outputs that are zeroed in training.
        lr: Adam's learning rate at the start; ReduceLROnPlateau halves it when `val_loss` stops falling.
        weight_decay: Adam's L2 penalty.

    Raises:
        ValueError: a size below 1, heads that do not divide the width, or a share outside its range.
    """

    file_name = "bert4rec"

    def __init__(
        self,
        num_items: int,
        hidden_dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        max_len: int = 50,
        mask_prob: float = 0.2,
        dropout: float = 0.2,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"num_items": num_items, "hidden_dim": hidden_dim, "num_layers": num_layers, "num_heads": num_heads}
        if min(sizes.values()) < 1 or hidden_dim % num_heads or max_len < 2:
            raise ValueError(f"{sizes}, {max_len=}: expected sizes of at least 1, num_heads that divide hidden_dim.")
        if not (0 < mask_prob < 1 and 0 <= dropout < 1):
            raise ValueError(f"{mask_prob=}, {dropout=}: expected 0 < mask_prob < 1 and 0 <= dropout < 1.")
        self.save_hyperparameters()
        self.padding, self.mask_token = num_items, num_items + 1
        self.item_embedding = nn.Embedding(num_items + 2, hidden_dim)
        self.position_embedding = nn.Embedding(max_len, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = _Dropout(dropout)
        self.blocks = nn.ModuleList(_block(hidden_dim, num_heads, dropout) for _ in range(num_layers))
        self.projection = nn.Linear(hidden_dim, hidden_dim)
        self.projection_norm = nn.LayerNorm(hidden_dim)
        self.output_bias = nn.Parameter(torch.zeros(num_items))
        self.apply(_init_weights)

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits [batch, items] for the item that comes next: a mask is put at the end, and filled in (section 3.6).

        Args:
            sequences: [batch, length] of int64, columns in time order, padded on the left.
        """
        mask = sequences.new_full((len(sequences), 1), self.mask_token)
        tokens = torch.cat([sequences, mask], dim=1)[:, -self.hparams["max_len"] :]
        return self.logits(self.encode(tokens)[:, -1])

    def score(self, columns: Sequence[int]) -> Tensor:
        """Logits [1, items] for somebody who liked the items of these columns in this order, the newest last."""
        logits: Tensor = self(torch.tensor([list(columns)], device=self.output_bias.device))
        return logits

    def item_dims(self) -> dict[str, int]:
        """The tensors with something for each item: name → its dimension of items."""
        return {"item_embedding.weight": 0, "output_bias": 0}

    def encode(self, tokens: Tensor) -> Tensor:
        """What the last block says of each position (sections 3.3 and 3.4).

        Args:
            tokens: [batch, length] of int64, length ≤ `max_len`.

        Returns:
            [batch, length, hidden_dim].
        """
        positions = self.position_embedding.weight[-tokens.shape[1] :]  # the last one is that of the newest item
        hidden: Tensor = self.dropout(self.norm(self.item_embedding(tokens) + positions))
        for block in self.blocks:
            hidden = block(hidden, src_key_padding_mask=tokens == self.padding)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[…, items] from [… , hidden_dim]: the output is the item embedding once more (section 3.5)."""
        hidden = self.projection_norm(F.gelu(self.projection(hidden)))
        return F.linear(hidden, self.item_embedding.weight[: self.hparams["num_items"]], self.output_bias)

    def choose_masked(self, sequences: Tensor) -> Tensor:
        """Which items are masked (the cloze task, section 3.6): a share `mask_prob` of them, never the padding.

        Where chance picks none, the newest one is masked, so that every sequence has something to fill in. (The paper
        adds sequences with only the newest masked, as that is what will be asked.)

        Args:
            sequences: [batch, length] of int64.

        Returns:
            [batch, length] of bool.
        """
        masked: Tensor = torch.rand(sequences.shape, device=sequences.device) < self.hparams["mask_prob"]
        masked &= sequences != self.padding
        masked[:, -1] |= ~masked.any(dim=1)
        return masked

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        batch = batch[:, (batch != self.padding).any(dim=0)]  # columns of nothing but padding cost time
        masked = self.choose_masked(batch)
        weight = weight_of_share(int(masked.sum()), self.device)  # 1, unless other processes take this step too
        loss = weight * (self._cloze_loss(batch, masked) if len(batch) else no_loss(self.parameters()))
        self.log("train_loss", loss, batch_size=len(batch), sync_dist=True)
        return loss

    def _cloze_loss(self, batch: Tensor, masked: Tensor) -> Tensor:
        """Cross-entropy of the masked items, the mean over them (equation 8)."""
        hidden = self.encode(batch.masked_fill(masked, self.mask_token))
        return F.cross_entropy(self.logits(hidden[masked]), batch[masked])

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        self.log_dict(self._evaluate(batch, "val"), batch_size=users_in(batch), sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        self.log_dict(self._evaluate(batch, "test"), batch_size=users_in(batch), sync_dist=True)

    def _evaluate(self, batch: tuple[Tensor, Tensor, Tensor], stage: str) -> dict[str, Tensor]:
        """Loss of the next item, and the ranking metrics (section 4.2, but over all items not seen)."""
        sequences, seen, held_out = batch
        logits = self(sequences)
        measures = measure(mask_seen(logits, seen), held_out, NEXT_ITEM)
        loss = F.cross_entropy(logits, held_out.argmax(dim=1))
        return {f"{stage}_loss": loss} | {f"{stage}_{name}": values.mean() for name, values in measures.items()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        lr, weight_decay = self.hparams["lr"], self.hparams["weight_decay"]
        optimizer = torch.optim.Adam(self.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def _block(hidden_dim: int, num_heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    """One transformer block: self-attention, then a feed-forward net four times as wide with GELU (section 3.3)."""
    block = nn.TransformerEncoderLayer(hidden_dim, num_heads, 4 * hidden_dim, dropout, "gelu", batch_first=True)
    # The paper drops outputs of sub-layers only. PyTorch also drops inside, which costs a third of a step on a CPU.
    block.dropout.p = block.self_attn.dropout = 0.0
    block.dropout1, block.dropout2 = _Dropout(dropout), _Dropout(dropout)
    return block


class _Dropout(nn.Dropout):
    """Dropout by `torch.rand`: PyTorch's own draws through MKL where that is, so elsewhere other numbers come."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * ((torch.rand_like(x) >= self.p) / (1 - self.p))


def _init_weights(module: nn.Module) -> None:
    """Every matrix from a normal with σ = 0.02, cut off at 2σ; biases 0 (section 4.3)."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() > 1:
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
