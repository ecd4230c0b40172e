"""The rows of one channel as batches take them: gathered from a matrix that may be mapped, and scaled on the way.

N items, B items asked for, F width.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scaling:
    """What makes a column's mean 0 and its variance 1."""

    mean: np.ndarray  # float64 [F]
    deviation: np.ndarray  # float64 [F], > 0; 1 where all are equal


@dataclass(frozen=True)
class ItemRows:
    """A row an item. Those of items without one are NaN throughout, and stay so."""

    matrix: np.ndarray  # float [N, F], perhaps mapped: only the rows asked for are read
    missing: int = 0  # items without a row
    scaling: Scaling | None = None  # applied to what is taken; the matrix stays as it is

    @property
    def shape(self) -> tuple[int, int]:
        """N, F."""
        return self.matrix.shape[0], self.matrix.shape[1]

    def __getitem__(self, items: np.ndarray) -> np.ndarray:
        """Rows of `items`, integers [B], float32 [B, F]."""
        rows = np.asarray(self.matrix[items], dtype=np.float32)
        if self.scaling is None:
            return rows
        return (rows - self.scaling.mean.astype(np.float32)) / self.scaling.deviation.astype(np.float32)
