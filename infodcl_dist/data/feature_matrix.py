"""A .npy matrix of features: row k belongs to the item whose id is k.

Legend: H rows of the file, F width.
"""

from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.ids import are_integers

KEPT_AS = {"float16": "float16", "float32": "float32", "float64": "float32"}


class FeatureMatrix:
    """See `features.FeatureFile`. The file is mapped.

    Raises:
        UserError: it is no matrix of floats.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._matrix = _map(path)
        self.dtype = KEPT_AS[self._matrix.dtype.name]
        self.width: int = self._matrix.shape[1]

    def __len__(self) -> int:
        return len(self._matrix)

    def rows_of(self, item_ids: pa.Array) -> np.ndarray:
        """The row of each item, int64 [n]; -1 for ids that are no row's number."""
        if not are_integers(item_ids):
            return np.full(len(item_ids), -1)
        ids = item_ids.to_numpy()
        return np.where((ids >= 0) & (ids < len(self)), ids, -1)

    def check_items(self, item_ids: pa.Array) -> None:
        """Ids must be integers from 0, and no row may stand behind the largest: it would be of other data.

        Raises:
            UserError: names the file, and what of the ids or of its height does not fit.
        """
        if not are_integers(item_ids):
            raise UserError(
                f"{self.path}: its row k belongs to item k, but the item ids are strings; give integer ids, or a "
                "Parquet file with a column id"
            )
        smallest, expected = item_ids[0].as_py(), item_ids[-1].as_py() + 1
        if smallest < 0:
            raise UserError(f"{self.path}: its row k belongs to item k, but there is an item {smallest}; shift the ids")
        if len(self) > expected:
            raise UserError(
                f"{self.path}: {len(self)} rows, more than {expected} (row k belongs to item k, the largest item is "
                f"{expected - 1}); cut it, or give a Parquet file with a column id"
            )

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """All rows, some at a time; what float32 cannot hold becomes infinite."""
        for start in range(0, len(self), rows):
            with np.errstate(over="ignore"):
                yield self._matrix[start : start + rows].astype(self.dtype)


def _map(path: Path) -> np.ndarray:
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check --item-features") from None
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path}: cannot be read as .npy ({str(error).splitlines()[0]}); save it with numpy.save, or as .parquet"
        ) from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or 0 in matrix.shape:
        raise UserError(f"{path}: has shape {getattr(matrix, 'shape', '(an archive)')}, not (items, width); reshape it")
    if matrix.dtype.name not in KEPT_AS:
        raise UserError(f"{path}: holds {matrix.dtype.name}, not one of {', '.join(KEPT_AS)}; cast it")
    return matrix
