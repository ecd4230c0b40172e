"""Features of items that a user brings: a row an item, checked, and put into the catalogue's order as it is read.

Legend: H rows of a file, N items of the catalogue, F width. A file is read once, in blocks, never held whole.

An item without a row has one that is wholly NaN. Any other row is finite.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from infodcl_dist.base.array_file import create_mapped
from infodcl_dist.base.console import log, progress
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.feature_matrix import FeatureMatrix
from infodcl_dist.data.feature_table import FeatureTable
from infodcl_dist.data.parquet_table import PARQUET

CHUNK_BYTES = 1 << 23  # of rows as they are kept; Arrow holds some ten times that while it decodes lists


class FeatureFile(Protocol):
    """A file of feature rows, opened and checked as far as that goes without reading them.

    Attributes:
        path: of the file.
        dtype: in which rows are kept, `float16` or `float32`.
        width: F.
    """

    path: Path
    dtype: str
    width: int

    def __len__(self) -> int:
        """H."""

    def rows_of(self, item_ids: pa.Array) -> np.ndarray:
        """The row of each item, int64 [n]; -1 where there is none."""

    def check_items(self, item_ids: pa.Array) -> None:
        """Refuses a file whose rows cannot belong to these items, before any filter takes items out."""

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """All rows in the file's order, [at most `rows`, F] at a time, in `dtype`."""


def open_features(files: Mapping[str, Path]) -> dict[str, FeatureFile]:
    """Opens each file, Parquet or .npy by its extension.

    Raises:
        UserError: a file that cannot be read or is of another kind or shape, or doubled ids.
    """
    return {
        name: FeatureTable(file) if file.suffix.lower() in PARQUET else FeatureMatrix(file)
        for name, file in files.items()
    }


def have_features(features: Mapping[str, FeatureFile], item_ids: pa.Array) -> np.ndarray:
    """Which items have a row in any of the files, bool [n]. Reads the files: a row that is wholly NaN is none.

    Raises:
        UserError: a row holds NaN beside numbers, or infinity.
    """
    found = np.zeros(len(item_ids), bool)
    for file in features.values():
        is_filled = np.zeros(len(file), bool)
        for span, _, empty in _blocks(file):
            is_filled[span] = ~empty
        rows = file.rows_of(item_ids)
        found |= (rows >= 0) & is_filled[rows]
    return found


def write_features(out: Path, name: str, file: FeatureFile, item_ids: pa.Array) -> int:
    """Writes a .npy matrix [N, F] of the file's dtype, a row an item, and returns how many items have none.

    Args:
        out: the .npy file to write.
        name: of the channel, for the log.
        file: where the rows come from; all of them are checked.
        item_ids: the catalogue's ids [N].

    Raises:
        UserError: a row holds NaN beside numbers, or infinity; or no item has a row.
        OSError: there is no room.
    """
    row_of_item = file.rows_of(item_ids)
    item_of_row = np.full(len(file), -1)
    has_row = row_of_item >= 0
    item_of_row[row_of_item[has_row]] = np.flatnonzero(has_row)
    written = create_mapped(out, (len(item_ids), file.width), file.dtype)
    for span, block, empty in _blocks(file):
        items = item_of_row[span]
        written[items[items >= 0]] = block[items >= 0]
        has_row[items[empty & (items >= 0)]] = False
    written[~has_row] = np.nan
    written.flush()
    missing = int((~has_row).sum())
    if missing == len(item_ids):
        raise UserError(f"{file.path}: has no row for any item of the data; give rows by the same ids")
    outside = int((item_of_row < 0).sum())
    log.info(
        "feature %s: %s of %s items have no row; %s rows belong to no item and are left out",
        *(name, f"{missing:,}", f"{len(item_ids):,}", f"{outside:,}"),
    )
    return missing


def _blocks(file: FeatureFile) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """All rows, some at a time: which those are, the rows [R, F], and which of them are wholly NaN, bool [R]."""
    at_once = max(1, CHUNK_BYTES // (file.width * np.dtype(file.dtype).itemsize))
    done = 0
    for block in progress(file.blocks(at_once), f"reading {file.path.name}", -(-len(file) // at_once)):
        yield slice(done, done + len(block)), block, _wholly_nan(file, block, done)
        done += len(block)


def _wholly_nan(file: FeatureFile, block: np.ndarray, first_row: int) -> np.ndarray:
    """Which rows of a block are wholly NaN, bool [R]; refuses what is neither that nor finite."""
    finite = np.isfinite(block).all(axis=1)
    if finite.all():
        return ~finite
    empty = np.isnan(block).all(axis=1)
    if (wrong := ~(finite | empty)).any():
        raise UserError(
            f"{file.path}: row {first_row + int(wrong.argmax())} holds NaN or infinity (kept as {file.dtype}); "
            "correct the row, or make it NaN throughout for an item without one"
        )
    return empty
