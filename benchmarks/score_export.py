"""Scores exported embeddings with NumPy alone: an independent check of what `infodcl-dist evaluate` prints.

    python benchmarks/score_export.py DATASET EXPORT [--split test] [--at 20]

Reads the Parquet splits of DATASET and users.npy, items.npy of EXPORT; shares no code with the package. Training items
are left out of every ranking and equal scores rank by item index.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def items_of_users(split: Path) -> dict[int, set[int]]:
    table = pq.read_table(split)
    found: dict[int, set[int]] = {}
    for user, item in zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True):
        found.setdefault(user, set()).add(item)
    return found


def score(dataset: Path, export: Path, split: str, at: int) -> dict[str, float]:
    users, items = np.load(export / "users.npy"), np.load(export / "items.npy")
    train, held_out = items_of_users(dataset / "train"), items_of_users(dataset / split)
    discount = 1.0 / np.log2(np.arange(2, at + 2))
    recalls, ndcgs = [], []
    for user, wanted in held_out.items():
        scores = items @ users[user]
        scores[list(train.get(user, ()))] = -np.inf
        ranked = np.lexsort((np.arange(len(scores)), -scores))[:at]
        hits = np.array([item in wanted for item in ranked.tolist()])
        recalls.append(hits.sum() / len(wanted))
        ndcgs.append((hits * discount).sum() / discount[: min(at, len(wanted))].sum())
    return {f"recall@{at}": float(np.mean(recalls)), f"ndcg@{at}": float(np.mean(ndcgs)), "users": len(held_out)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("export", type=Path)
    parser.add_argument("--split", default="test", choices=["valid", "test"])
    parser.add_argument("--at", type=int, default=20)
    arguments = parser.parse_args()
    print(json.dumps(score(arguments.dataset, arguments.export, arguments.split, arguments.at)))


if __name__ == "__main__":
    main()
