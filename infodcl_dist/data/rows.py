"""Pairs as compressed rows, in arrays that may be mapped from files.

R rows (users, or items), P pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infodcl_dist.base.array_file import ArrayFile, open_array

FINGERPRINT_PAIRS = 1 << 20  # looked at at once; assumption: some fifty megabytes of temporary arrays


@dataclass(frozen=True)
class CompressedRows:
    """Row r's columns are indices[offsets[r] : offsets[r + 1]], ascending and none twice."""

    offsets: np.ndarray  # [R + 1]
    indices: np.ndarray  # [P], of the same type: int32 below 2³¹ pairs, else int64

    def __len__(self) -> int:
        """R."""
        return len(self.offsets) - 1

    @property
    def pair_count(self) -> int:
        """P."""
        return len(self.indices)

    @property
    def degrees(self) -> np.ndarray:
        """Pairs a row, [R]."""
        return np.diff(self.offsets)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each pair, int32 [P] each, by (row, column)."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.degrees), np.asarray(self.indices, np.int32)


def index_type(pair_count: int) -> type[np.signedinteger]:
    """The type of offsets and indices alike, as `embedding_bag` wants them."""
    return np.int32 if pair_count < 2**31 else np.int64


def compress(rows: np.ndarray, columns: np.ndarray, row_count: int) -> CompressedRows:
    """Compressed rows of pairs that are sorted by (row, column) and distinct; integers [P] each."""
    kind = index_type(len(columns))
    return CompressedRows(
        offsets_of(np.bincount(rows, minlength=row_count), len(columns)), columns.astype(kind, copy=False)
    )


def offsets_of(degrees: np.ndarray, pair_count: int) -> np.ndarray:
    """Offsets [R + 1] of rows with so many pairs each [R]."""
    offsets = np.zeros(len(degrees) + 1, index_type(pair_count))
    np.cumsum(degrees, out=offsets[1:])
    return offsets


def row_blocks(before: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Where blocks of rows start and stop that weigh at most `limit`, or are one row; in order, they hold all rows.

    Args:
        before: what the rows before each weigh, ascending [R + 1]: offsets, or a part of them.
        limit: in the same unit; may lie beyond what the array's type holds.
    """
    start = 0
    while start < len(before) - 1:
        # In the array's own type, for which NumPy makes no copy of all of it; and within that type.
        end = before.dtype.type(min(before[start].item() + limit, before[-1].item()))
        stop = max(int(np.searchsorted(before, end, side="right")) - 1, start + 1)
        yield start, stop
        start = stop


def transpose(rows: CompressedRows, column_count: int) -> CompressedRows:
    """The same pairs from the columns' side; a counting sort."""
    from scipy import sparse

    # SciPy sorts values along; the smallest there are.
    values = np.broadcast_to(np.int8(1), rows.pair_count)
    matrix = sparse.csr_matrix((values, rows.indices, rows.offsets), shape=(len(rows), column_count)).tocsc()
    kind = index_type(rows.pair_count)
    return CompressedRows(matrix.indptr.astype(kind, copy=False), matrix.indices.astype(kind, copy=False))


def first_unlike(rows: CompressedRows, turned: CompressedRows) -> int | None:
    """The first row of `turned` that is not what `transpose` makes of `rows`; None when all are.

    Looks at sums over all pairs that do not hang on their order; other pairs have other sums but for a chance of about
    2⁻⁶⁴. Only where they differ the rows are transposed.
    """
    ascend = bool((turned.degrees >= 0).all())
    if ascend and _fingerprint(rows, len(turned)) == _fingerprint(turned, len(turned), is_turned=True):
        return None
    expected = transpose(rows, len(turned))
    for row in range(len(turned)):
        own, wanted = (of.indices[of.offsets[row] : of.offsets[row + 1]] for of in (turned, expected))
        if not np.array_equal(own, wanted):
            return row
    return None


def _fingerprint(rows: CompressedRows, column_count: int, *, is_turned: bool = False) -> tuple[int, int]:
    """How many pairs, and the sum of a hash of each (SplitMix64's, modulo 2⁶⁴); the same of either side's rows."""
    total, kind = 0, rows.offsets.dtype.type
    for start in range(0, rows.pair_count, FINGERPRINT_PAIRS):
        columns = np.asarray(rows.indices[start : start + FINGERPRINT_PAIRS], np.int64)
        stop = start + len(columns)
        # Looked for in the offsets' own type: for a Python int NumPy would make an int64 copy of all of them.
        first = np.searchsorted(rows.offsets, kind(start), side="right") - 1
        last = np.searchsorted(rows.offsets, kind(stop))
        within = np.clip(rows.offsets[first : last + 1], start, stop)
        own = np.repeat(np.arange(first, last), np.diff(within))
        keys = columns * column_count + own if is_turned else own * column_count + columns
        mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total += int(np.sum(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64))
    return rows.pair_count, total % 2**64


def map_rows(offsets: Path, indices: Path) -> CompressedRows:
    """Rows whose arrays are mapped from `.npy` files, and shared by all processes of a host that map them.

    A process that wrote into them would write into a copy of its own.
    """
    return CompressedRows(*(np.load(file, mmap_mode="c", allow_pickle=False) for file in (offsets, indices)))


@dataclass(frozen=True)
class StoredRows:
    """Compressed rows in `.npy` files, of which spans are read; see `array_file`."""

    offsets: ArrayFile  # [R + 1]
    indices: ArrayFile  # [P]

    def __len__(self) -> int:
        """R."""
        return self.offsets.shape[0] - 1

    @property
    def pair_count(self) -> int:
        """P."""
        return self.indices.shape[0]

    def degrees(self, start: int, stop: int) -> np.ndarray:
        """Pairs of each row of a span, [stop − start]."""
        return np.diff(self.offsets.read(start, stop + 1))

    def read(self, start: int, stop: int) -> CompressedRows:
        """The rows of a span, its first row the first."""
        offsets = self.offsets.read(start, stop + 1)
        return CompressedRows(offsets - offsets[0], self.indices.read(int(offsets[0]), int(offsets[-1])))


def stored_rows(offsets: Path, indices: Path) -> StoredRows:
    """Rows in files, of which nothing but the headers is read yet."""
    return StoredRows(open_array(offsets), open_array(indices))
