"""Do two sets of item rows mean the same? Their nearest neighbours, and how their geometries align.

    python benchmarks/neighbour_overlap.py FIRST.npy SECOND.npy [--nearest 20]

Rows of different origin cannot be compared number by number. Prints the mean share of an item's nearest items (by
cosine) that both rows name, the same when the second rows are shuffled, linear CKA (Kornblith et al., 2019: 1 when one
is a rotation and scaling of the other), and some facts of each.
"""

import argparse
from pathlib import Path

import numpy as np


def nearest(rows: np.ndarray, count: int) -> np.ndarray:
    """The `count` items most similar to each by cosine, [N, count]."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argpartition(-similarity, count, axis=1)[:, :count]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Mean share of each row's entries that stand in the other's too."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(first, second, strict=True)]))


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Centered kernel alignment of the two Gram matrices."""
    a, b = (rows - rows.mean(axis=0) for rows in (first, second))
    return float(np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--nearest", type=int, default=20)
    given = parser.parse_args()
    first, second = (np.load(file).astype(np.float64) for file in (given.first, given.second))
    neighbours = nearest(first, given.nearest), nearest(second, given.nearest)
    shuffled = np.random.default_rng(0).permutation(len(second))
    print(f"items {len(first):,}; nearest {given.nearest}")
    print(f"shared nearest items      {overlap(*neighbours):.3f}")
    print(f"the same, second shuffled {overlap(neighbours[0], nearest(second[shuffled], given.nearest)):.3f}")
    print(f"linear CKA                {linear_cka(first, second):.3f}")
    for name, rows in ((given.first, first), (given.second, second)):
        variances = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
        directions = int(np.searchsorted(np.cumsum(variances) / variances.sum(), 0.9)) + 1
        norms = np.linalg.norm(rows, axis=1)
        print(
            f"{name.name}: width {rows.shape[1]}, norm of a row {norms.mean():.3f} ± {norms.std():.3f}, "
            f"90 % of the variance in {directions} directions"
        )


if __name__ == "__main__":
    main()
