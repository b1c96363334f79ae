"""The README's table: how well Mult-VAE ranks on MovieLens-100K, beside Popularity and EASE.

    python -m benchmarks.quality                      three splits × three seeds, the README's table
    python -m benchmarks.quality --splits 10          more splits: the numbers depend on who is held out

Ratings ≥ 4, users with at least 5, 100 validation and 200 test users, 80 % folded in. Each training is selected by
its lowest ``val_loss``; the test users are looked at once, at the end. EASE's λ is chosen on the validation users.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from mvae import EASE, Interactions, InteractionsDataModule, MultiVAE, Popularity, evaluate, fit, load_movielens
from mvae.training import SMALL_DATA

#: What is trained: name → hyperparameters of MultiVAE, and whether PyTorch's own initialisation is put back.
VARIANTS: dict[str, tuple[dict[str, float], bool]] = {
    "as fit() trains it": (SMALL_DATA, False),
    "the class's own β (0.2 over 20,000 steps), no weight decay": ({}, False),
    "the same, with PyTorch's own initialisation": ({}, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    interactions = Interactions.from_ratings(load_movielens("100k"))
    rows = []
    for split in range(options.splits):
        datamodule = InteractionsDataModule(interactions, num_val_users=100, num_test_users=200, seed=split)
        for name, model in (("EASE", best_ease(datamodule)), ("Popularity", Popularity().fit(datamodule.train))):
            rows.append({"model": name, "split": split} | evaluate(model, datamodule.test_dataloader()))
        for name, (hyperparameters, plain_init) in VARIANTS.items():
            for seed in range(options.seeds):
                start = time.perf_counter()
                scores = train(datamodule, hyperparameters, plain_init, seed)
                rows.append({"model": f"Mult-VAE, {name}", "split": split, "seed": seed} | scores)
                took = time.perf_counter() - start
                print(f"split {split} seed {seed} {name}: {scores['ndcg@100']:.4f} in {took:.0f} s", flush=True)
    report(pd.DataFrame(rows))


def train(datamodule: InteractionsDataModule, hyperparameters: dict, plain_init: bool, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    model = MultiVAE(datamodule.num_items, **hyperparameters)
    if plain_init:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    with tempfile.TemporaryDirectory() as folder:
        result = fit(datamodule, model, out=Path(folder), seed=seed, progress=False)
    return evaluate(result.model, datamodule.test_dataloader())


def best_ease(datamodule: InteractionsDataModule) -> EASE:
    """λ by NDCG@100 on the validation users."""
    models = [EASE(l2).fit(datamodule.train) for l2 in (100, 200, 300, 500, 1000)]
    return max(models, key=lambda model: evaluate(model, datamodule.val_dataloader())["ndcg@100"])


def report(table: pd.DataFrame) -> None:
    """Mean over splits and seeds; ± is the standard deviation over the splits' means."""
    print("\n| model | NDCG@100 | Recall@20 | Recall@50 |\n|---|---|---|---|")
    order = table.groupby("model")["ndcg@100"].mean().sort_values(ascending=False).index
    for name in order:
        cells = []
        for metric in ("ndcg@100", "recall@20", "recall@50"):
            means = table[table["model"] == name].groupby("split")[metric].mean().tolist()
            spread = statistics.stdev(means) if len(means) > 1 else 0.0
            cells.append(f"{statistics.mean(means):.4f} ± {spread:.3f}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
