"""One contestant: a process that trains whenever it is told to, and says how long each step took.

    python contestants.py NAME DATA.npz      (DATA: a CSR matrix of users × items, as `scipy.sparse.save_npz` writes it)

Each line on standard input is a turn: it trains for an epoch over DATA, and answers with one JSON object: `seconds` a
step, and the `peak` of memory so far in MB. Between two turns it sleeps, so that contestants do not disturb each other.

All train the same network (600 and 200 wide, dropout 0.5, batches of 128 users, Adam at 1e-3) by the settings that each
library has for it. Where a library's encoder has one layer less than the specimen's, the table says so.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

BATCH, HIDDEN, LATENT = 128, 600, 200

Turn = Callable[[], list[float]]
"""Trains for an epoch; the seconds of each step (or of the mean step, where only the epoch can be timed)."""


def main() -> None:
    name, path = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    turn = CONTESTANTS[name](sp.load_npz(path).tocsr())
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        seconds = turn()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        print(json.dumps({"seconds": seconds, "peak": peak}), file=answers, flush=True)


def mean_of_an_epoch(users: int, epoch: Callable[[], Any]) -> list[float]:
    """Time a whole epoch, and divide by its steps."""
    began = time.perf_counter()
    epoch()
    return [(time.perf_counter() - began) / -(-users // BATCH)]


# ---- the floor -------------------------------------------------------------------------------------------------


def floor(matrix: sp.csr_matrix) -> Turn:
    """What no step can do without: the last layer's three products as `nn.Linear` computes them, and fused Adam."""
    import torch
    import torch.nn.functional as F

    items = matrix.shape[1]
    sizes = [(HIDDEN, items), (items, HIDDEN)]
    parameters = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.Adam(parameters, fused=True)
    hidden, gradient, bias = torch.randn(BATCH, HIDDEN), torch.randn(BATCH, items), torch.zeros(items)
    weight = parameters[1].detach()
    wide, narrow = torch.empty(items, HIDDEN), torch.empty(BATCH, HIDDEN)

    def turn() -> list[float]:
        seconds = []
        for _ in range(60):
            began = time.perf_counter()
            F.linear(hidden, weight, bias)
            torch.mm(gradient.t(), hidden, out=wide)
            torch.mm(gradient, weight, out=narrow)
            optimizer.step()
            seconds.append(time.perf_counter() - began)
        return seconds

    return turn


# ---- this package ----------------------------------------------------------------------------------------------


def ours(matrix: sp.csr_matrix, **trainer_options: Any) -> Turn:
    """`fit`, with everything that it does: history, exact resuming, validation, the best checkpoint."""
    import torch

    from mvae import Interactions, InteractionsDataModule, MultiVAE, fit

    users, items = matrix.shape
    data = InteractionsDataModule(
        Interactions(matrix, user_ids=list(range(users)), item_ids=list(range(items))),
        batch_size=BATCH,
        num_val_users=100,
        num_test_users=100,
    )
    torch.manual_seed(0)
    model = MultiVAE(items)

    def epoch() -> list[float]:
        clock = _clock()
        with tempfile.TemporaryDirectory() as folder:
            fit(data, model, out=folder, max_epochs=1, progress=False, callbacks=[clock], **trainer_options)
        return _steps(clock.times)

    return epoch


def ours_bf16(matrix: sp.csr_matrix) -> Turn:
    """The same with `precision="bf16-mixed"`."""
    return ours(matrix, precision="bf16-mixed")


def _clock() -> Any:
    from lightning.pytorch.callbacks import Callback

    class Clock(Callback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_batch_start(self, *_: Any) -> None:
            self.times.append(time.perf_counter())

    return Clock()


def _steps(times: list[float]) -> list[float]:
    """Seconds from one step's beginning to the next one's, without the first few, which ask for memory."""
    return [after - before for before, after in pairwise(times)][5:]


# ---- what a tutorial would write -------------------------------------------------------------------------------


def plain_lightning(matrix: sp.csr_matrix) -> Turn:
    """A LightningModule of a tutorial: rows from a data set, dense dropout, log_softmax, Adam as it comes."""
    import lightning as L
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return int(matrix.shape[0])

        def __getitem__(self, row: int) -> torch.Tensor:
            return torch.from_numpy(matrix[row].toarray()[0])

    class Plain(L.LightningModule):
        def __init__(self, items: int) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)
            self.encoder = nn.Sequential(nn.Linear(items, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, LATENT), nn.Tanh())
            self.mu, self.logvar = nn.Linear(LATENT, LATENT), nn.Linear(LATENT, LATENT)
            self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, items))

        def training_step(self, x: torch.Tensor, batch_idx: int) -> torch.Tensor:
            hidden = self.encoder(self.dropout(F.normalize(x)))
            mu, logvar = self.mu(hidden), self.logvar(hidden)
            logits = self.decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
            nll = -(F.log_softmax(logits, dim=1) * x).sum(dim=1).mean()
            kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(dim=1).mean()
            loss = nll + 0.2 * kl
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    torch.manual_seed(0)
    model = Plain(matrix.shape[1])
    loader = torch.utils.data.DataLoader(Rows(), BATCH, shuffle=True)

    def turn() -> list[float]:
        clock = _clock()
        trainer = L.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, callbacks=[clock],
        )  # fmt: skip
        trainer.fit(model, loader)
        return _steps(clock.times)

    return turn


def raw_pytorch(matrix: sp.csr_matrix) -> Turn:
    """The authors' loop in PyTorch, without Lightning: a batch cut from CSR at once, dense layers, Adam as it comes."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.manual_seed(0)
    items = matrix.shape[1]
    encoder = nn.Sequential(nn.Dropout(0.5), nn.Linear(items, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, LATENT), nn.Tanh())
    mu_of, logvar_of = nn.Linear(LATENT, LATENT), nn.Linear(LATENT, LATENT)
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, items))
    optimizer = torch.optim.Adam(nn.ModuleList([encoder, mu_of, logvar_of, decoder]).parameters(), lr=1e-3)

    def turn() -> list[float]:
        seconds = []
        for rows in _batches(matrix):
            began = time.perf_counter()
            x = torch.from_numpy(matrix[rows].toarray())
            hidden = encoder(F.normalize(x))
            mu, logvar = mu_of(hidden), logvar_of(hidden)
            logits = decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
            nll = -(F.log_softmax(logits, dim=1) * x).sum(dim=1).mean()
            kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(dim=1).mean()
            optimizer.zero_grad()
            (nll + 0.2 * kl).backward()
            optimizer.step()
            seconds.append(time.perf_counter() - began)
        return seconds[5:]

    return turn


def _batches(matrix: sp.csr_matrix) -> Iterator[np.ndarray]:
    order = np.random.default_rng(0).permutation(matrix.shape[0])
    for start in range(0, len(order) - BATCH + 1, BATCH):
        yield order[start : start + BATCH]


# ---- other libraries -------------------------------------------------------------------------------------------


def irspack(matrix: sp.csr_matrix) -> Turn:
    """irspack 0.5.2, `MultVAERecommender` (JAX): one tanh layer of 600 before μ and log σ², and 200 latent numbers."""
    from irspack.recommenders.multvae import MultVAERecommender

    model = MultVAERecommender(
        matrix, dim_z=LATENT, enc_hidden_dims=HIDDEN, dec_hidden_dims=HIDDEN, dropout_p=0.5, l2_regularizer=0.0,
        kl_anneal_goal=0.2, anneal_end_epoch=80, minibatch_size=BATCH, learning_rate=1e-3, train_epochs=1,
    )  # fmt: skip
    model.start_learning()
    return lambda: mean_of_an_epoch(matrix.shape[0], model.run_epoch)


def cornac(matrix: sp.csr_matrix) -> Turn:
    """Cornac 3.0.1, `VAECF` (PyTorch): one tanh layer of 600, 200 latent numbers."""
    from cornac.data import Dataset
    from cornac.models.vaecf.vaecf import VAE, learn

    rows = sp.coo_matrix(matrix)
    triples = zip(rows.row.tolist(), rows.col.tolist(), rows.data.tolist(), strict=True)
    data = Dataset.build(list(triples))
    model = VAE(LATENT, [data.matrix.shape[1], HIDDEN], "tanh", "mult")

    def epoch() -> None:
        learn(model, data, n_epochs=1, batch_size=BATCH, learn_rate=1e-3, beta=0.2, verbose=False)

    return lambda: mean_of_an_epoch(matrix.shape[0], epoch)


def recbole(matrix: sp.csr_matrix) -> Turn:
    """RecBole 1.2.1, `MultiVAE` (PyTorch): one tanh layer of 600, 128 latent numbers were its default, 200 here."""
    import logging
    from pathlib import Path

    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    logging.disable(logging.INFO)
    folder = Path(tempfile.mkdtemp())
    (folder / "made").mkdir()
    rows = sp.coo_matrix(matrix)
    with open(folder / "made" / "made.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\n")
        file.writelines(f"{user}\t{item}\n" for user, item in zip(rows.row, rows.col, strict=True))
    settings = {
        "data_path": str(folder), "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id",
        "load_col": {"inter": ["user_id", "item_id"]}, "eval_args": {"split": {"RS": [1, 0, 0]}, "mode": "full"},
        "mlp_hidden_size": [HIDDEN], "latent_dimension": LATENT, "dropout_prob": 0.5, "anneal_cap": 0.2,
        "train_batch_size": BATCH, "learning_rate": 1e-3, "use_gpu": False, "epochs": 1, "train_neg_sample_args": None,
        "checkpoint_dir": str(folder), "show_progress": False, "benchmark_filename": None,
    }  # fmt: skip
    config = Config(model="MultiVAE", dataset="made", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train_data, *_ = data_preparation(config, create_dataset(config))
    model = get_model("MultiVAE")(config, train_data.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "MultiVAE")(config, model)

    def epoch() -> None:
        trainer._train_epoch(train_data, 0)

    return lambda: mean_of_an_epoch(matrix.shape[0], epoch)


CONTESTANTS: dict[str, Callable[[sp.csr_matrix], Turn]] = {
    "floor": floor,
    "fit": ours,
    "fit bf16": ours_bf16,
    "plain Lightning": plain_lightning,
    "raw PyTorch": raw_pytorch,
    "irspack": irspack,
    "Cornac": cornac,
    "RecBole": recbole,
}

if __name__ == "__main__":
    main()
