"""What is recommended to all users together: coverage, Gini and popularity. No sum over users gives these.

N items, C cutoffs, U users, K list length.
"""

import numpy as np
import torch
from torch import Tensor

from infodcl_dist.parallel.collectives import sum_over_ranks

EXPOSURES = ("coverage", "gini", "popularity")


class Exposure:
    """Counts, for each cutoff, how often each item is recommended: int64 [C, N] a rank."""

    def __init__(self, cutoffs: tuple[int, ...], item_count: int, device: torch.device) -> None:
        self._cutoffs = cutoffs
        self._counts = torch.zeros(len(cutoffs), item_count, dtype=torch.int64, device=device)

    def add(self, items: Tensor) -> None:
        """Adds lists int64 [U, K] of the largest cutoff; item −1 is none."""
        for row, k in enumerate(self._cutoffs):
            listed = items[:, :k].reshape(-1)
            self._counts[row] += torch.bincount(listed[listed >= 0], minlength=self._counts.shape[1])

    def values(self, popularity: Tensor) -> dict[str, float]:
        """Every exposure at every cutoff, of all ranks' lists; a collective, the same on every rank.

        - `coverage@k`: share of the catalogue that is in somebody's first k.
        - `gini@k`: of how often the items of the whole catalogue are recommended.
        - `popularity@k`: training interactions of a recommended item, mean over all places of all lists.

        Args:
            popularity: training interactions of each item, int [N].
        """
        totals = sum_over_ranks(self._counts)
        recommended = totals.sum(dim=1).clamp(min=1)
        found = {
            "coverage": (totals > 0).double().mean(dim=1).tolist(),
            "gini": [gini(counts) for counts in totals.cpu().numpy()],
            "popularity": ((totals * popularity.long()).sum(dim=1).double() / recommended).tolist(),
        }
        return {f"{name}@{k}": found[name][c] for name in EXPOSURES for c, k in enumerate(self._cutoffs)}


def gini(counts: np.ndarray) -> float:
    """How unequal they are: 0 when all are equal, near 1 when one has all; 0 too when there is nothing to have."""
    ascending = np.sort(counts).astype(np.float64)
    total = ascending.sum()
    ranks = np.arange(1, len(ascending) + 1)
    return float((2 * ranks - len(ascending) - 1) @ ascending / (len(ascending) * total)) if total > 0 else 0.0
