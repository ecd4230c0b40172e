"""How unequal counts are."""

import numpy as np


def gini(counts: np.ndarray) -> float:
    """0 when all are equal, near 1 when one has all; 0 too when there is nothing to have."""
    ascending = np.sort(counts).astype(np.float64)
    total = ascending.sum()
    ranks = np.arange(1, len(ascending) + 1)
    return float((2 * ranks - len(ascending) - 1) @ ascending / (len(ascending) * total)) if total > 0 else 0.0
