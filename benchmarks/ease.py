"""EASE (Steck, WWW 2019) on a dataset folder: a closed-form yardstick, λ chosen by validation, test metrics printed.

    python benchmarks/ease.py DATASET ... [--penalties 50 100 200 ...] [--json FILE]

B = I − P / diag(P) with P = (XᵀX + λI)⁻¹ for the binary training matrix X (M users × N items); X B scores. It takes N²
numbers, so it suits catalogues of some ten thousand items. Metrics, masks and the order of equal scores are the
package's: training items are left out, the item with the lower id comes first.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import linalg, sparse

from infodcl_dist.data.dataset import Dataset, open_dataset
from infodcl_dist.data.rows import CompressedRows
from infodcl_dist.graph.bipartite import tensor_rows
from infodcl_dist.inference.metrics import is_hit, names_of, user_values

METRICS = ("recall", "ndcg")
PENALTIES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
CUTOFFS = (10, 20, 50)
USERS_AT_ONCE = 2048


def ease(x: sparse.csr_matrix, penalty: float) -> np.ndarray:
    """Item-to-item weights B [N, N], float64, of the ridge regression whose diagonal is held at zero."""
    gram = (x.T @ x).toarray()
    gram[np.diag_indices_from(gram)] += penalty
    inverse = linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights: np.ndarray = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def matrix(rows: CompressedRows, items: int) -> sparse.csr_matrix:
    """Pairs as a matrix of ones [M, N]."""
    ones = np.ones(rows.pair_count)
    return sparse.csr_matrix((ones, rows.indices, rows.offsets), shape=(len(rows), items))


def metrics(x: sparse.csr_matrix, weights: np.ndarray, held_out: CompressedRows) -> dict[str, float]:
    """Recall@K and NDCG@K over the users with a held-out item."""
    truth = tensor_rows(held_out)
    of_users = []
    for users in torch.nonzero(truth.degrees).flatten().split(USERS_AT_ONCE):
        known = x[users.numpy()]
        scores = known @ weights
        scores[known.nonzero()] = -np.inf
        ranked = torch.from_numpy(scores).sort(dim=1, descending=True, stable=True).indices[:, : max(CUTOFFS)]
        hits = is_hit(users, ranked, truth)
        of_users.append(user_values(METRICS, CUTOFFS, hits, truth.degrees[users].long()))
    means = torch.cat(of_users).mean(dim=0).tolist()
    return dict(zip(names_of(METRICS, CUTOFFS), means, strict=True))


def best_of(dataset: Dataset, penalties: list[float]) -> dict[str, Any]:
    """The penalty with the largest validation Recall@20, and its metrics."""
    x = matrix(dataset.items_of_users("train"), dataset.items)
    of_penalty = {p: metrics(x, ease(x, p), dataset.items_of_users("valid")) for p in penalties}
    penalty = max(of_penalty, key=lambda p: of_penalty[p]["recall@20"])
    if penalty in (min(penalties), max(penalties)) and len(penalties) > 1:
        print(f"{dataset.name}: λ {penalty:g} is an end of the grid; give --penalties that reach further")
    test = metrics(x, ease(x, penalty), dataset.items_of_users("test"))
    label = f"EASE (λ {penalty:g})"
    names = {"dataset": dataset.name, "checksum": dataset.checksum, "label": label, "penalty": penalty}
    return {**names, "valid": of_penalty[penalty], "test": test}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--penalties", type=float, nargs="+", default=PENALTIES)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    found = [best_of(open_dataset(path), given.penalties) for path in given.datasets]
    columns = [(split, f"{name}@{k}") for split in ("valid", "test") for k in (20, 50) for name in ("recall", "ndcg")]
    print("| data set | λ | " + " | ".join(f"{split} {name}" for split, name in columns) + " |")
    print("| --- | --- |" + " --- |" * len(columns))
    for result in found:
        figures = " | ".join(f"{result[split][name]:.4f}" for split, name in columns)
        print(f"| {result['dataset']} | {result['penalty']:g} | {figures} |")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
