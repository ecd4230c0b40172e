"""A list of the user's own ids in a file, as indices of a catalogue."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infodcl_dist.base.errors import UserError


def read_id_list(file: Path, ids: pa.Array, kind: str = "user") -> np.ndarray:
    """The distinct ids of a text file, one a line, or of a Parquet file's column `kind` or `id`.

    Args:
        file: `*.parquet`, or text in UTF-8; empty lines mean nothing.
        ids: the catalogue's ids, int64 or string [n].
        kind: `user` or `item`.

    Returns:
        Indices into `ids`, int64, ascending.

    Raises:
        UserError: the file cannot be read, is empty, or holds an id that the catalogue has not; names file and line.
    """
    listed, unit = (_from_parquet(file, kind), "row") if file.suffix == ".parquet" else (_from_text(file), "line")
    wanted = np.flatnonzero(pc.not_equal(listed, "").to_numpy(zero_copy_only=False))
    if not wanted.size:
        raise UserError(f"{file}: holds no id; give at least one")
    found = indices_of(listed.take(pa.array(wanted)), ids)
    if found.null_count:
        unknown = int(wanted[pc.is_null(found).to_numpy(zero_copy_only=False).argmax()])
        raise UserError(f"{file}: {unit} {unknown + 1}: {listed[unknown]} is not in the data set; take it out")
    return np.unique(found.to_numpy()).astype(np.int64)


def read_known_ids(file: Path, ids: pa.Array, kind: str) -> tuple[np.ndarray, int]:
    """As `read_id_list`, but ids that the catalogue has not are counted: (indices, distinct ids not known).

    Raises:
        UserError: the file cannot be read.
    """
    listed = (_from_parquet(file, kind) if file.suffix == ".parquet" else _from_text(file)).unique()
    found = indices_of(listed.filter(pc.not_equal(listed, "")), ids)
    return np.sort(found.drop_null().to_numpy()).astype(np.int64), found.null_count


def indices_of(some: pa.Array, ids: pa.Array) -> pa.Array:
    """Where each of some ids stands in the catalogue's, null where it does not; int32 [len(some)].

    Compared as text, so that nothing is guessed of what is no number.
    """
    return pc.index_in(some.cast(pa.string()), value_set=ids.cast(pa.string()))


def _from_text(file: Path) -> pa.Array:
    try:
        return pa.array([line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()], pa.string())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as lines of UTF-8 ({error}); give one id a line") from error


def _from_parquet(file: Path, kind: str) -> pa.Array:
    try:
        table = pq.ParquetFile(file)
        column = next((name for name in (kind, "id") if name in table.schema_arrow.names), None)
        if column is None:
            raise UserError(f"{file}: has no column {kind} or id; rename the column of ids")
        return table.read(columns=[column])[column].cast(pa.string()).combine_chunks().fill_null("")
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
