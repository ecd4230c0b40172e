"""Feature matrices a user brings: one row an item, checked, and gathered into the catalogue's order.

Legend: H rows of the file, N items of the catalogue, D width. Files are mapped, never loaded whole.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from infodcl_dist.base.console import progress
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.ids import are_integers

RESERVED_NAMES = ("knowledge", "social")  # the channels that are computed
DTYPES = ("float16", "float32", "float64")
CHUNK_BYTES = 1 << 26  # assumption: large enough for the disk, small beside any matrix that matters


def open_features(files: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Maps each file [H, D] after checking its name, kind and shape.

    Raises:
        UserError: a name that is no identifier or is reserved, or a file that is no matrix of floats.
    """
    for name in files:
        if not (name.isidentifier() and name.isascii()):
            raise UserError(f"--item-features {name}=…: the name must be of letters, digits and underscores")
        if name in RESERVED_NAMES:
            raise UserError(f"--item-features {name}=…: {name} is a computed channel; choose another name")
    return {name: _open(file) for name, file in files.items()}


def check_rows(files: Mapping[str, Path], matrices: Mapping[str, np.ndarray], item_ids: pa.Array) -> None:
    """Checks that row k can belong to the item with id k: integer ids, and one row for each up to the largest.

    Raises:
        UserError: names the file, its height and the height expected.
    """
    for name, matrix in matrices.items():
        if not are_integers(item_ids):
            raise UserError(
                f"{files[name]}: its row k belongs to item k, but the item ids are strings; give integer ids"
            )
        smallest, expected = item_ids[0].as_py(), item_ids[-1].as_py() + 1
        if smallest < 0:
            raise UserError(
                f"{files[name]}: its row k belongs to item k, but there is an item {smallest}; shift the ids"
            )
        if len(matrix) != expected:
            raise UserError(
                f"{files[name]}: {len(matrix)} rows in place of {expected} (row k belongs to item k, the largest item "
                f"is {expected - 1}); give a row for each item"
            )


def write_features(out: Path, source: Path, matrix: np.ndarray, item_ids: pa.Array) -> None:
    """Writes the rows `matrix[item_ids]` [N, D] to a .npy file of the same dtype, after checking every row [H, D].

    Raises:
        UserError: a row holds NaN or infinity.
    """
    for rows in _row_ranges(matrix, f"checking {source.name}"):
        finite = np.isfinite(matrix[rows]).all(axis=1)
        if not finite.all():
            raise UserError(f"{source}: row {rows.start + int(finite.argmin())} holds NaN or infinity; correct the row")
    ids = item_ids.to_numpy()
    written = np.lib.format.open_memmap(out, mode="w+", dtype=matrix.dtype, shape=(len(ids), matrix.shape[1]))
    for rows in _row_ranges(written, f"writing {out.name}"):
        written[rows] = matrix[ids[rows]]
    written.flush()


def _open(file: Path) -> np.ndarray:
    try:
        matrix = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; check --item-features") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{file}: cannot be read as .npy ({str(error).splitlines()[0]}); save it with numpy.save"
        ) from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or 0 in matrix.shape:
        raise UserError(f"{file}: has shape {getattr(matrix, 'shape', '(an archive)')}, not (items, width); reshape it")
    if matrix.dtype.name not in DTYPES:
        raise UserError(f"{file}: holds {matrix.dtype.name}, not one of {', '.join(DTYPES)}; cast it")
    return matrix


def _row_ranges(matrix: np.ndarray, description: str) -> Iterator[slice]:
    step = max(1, CHUNK_BYTES // (matrix.shape[1] * matrix.itemsize))
    starts = range(0, len(matrix), step)
    return (slice(start, min(start + step, len(matrix))) for start in progress(starts, description, len(starts)))
