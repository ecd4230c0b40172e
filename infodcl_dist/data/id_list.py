"""A list of the user's own ids in a file, as indices of a catalogue."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.parquet_table import PARQUET


def read_id_list(file: Path, ids: pa.Array) -> np.ndarray:
    """The distinct users of a text file of ids, one a line, or of a Parquet file's column `user` or `id`.

    Args:
        file: `*.parquet` or `*.pq`, or text in UTF-8; empty lines mean nothing, nor does white space around an id that
            the catalogue has without it.
        ids: the catalogue's ids, int64 or string [n].

    Returns:
        Indices into `ids`, int64, ascending.

    Raises:
        UserError: the file cannot be read, is empty, or holds an id that the catalogue has not; names file and line.
    """
    listed, unit, first = _listed(file, "user")
    wanted = np.flatnonzero(_is_filled(listed).to_numpy(zero_copy_only=False))
    if not wanted.size:
        raise UserError(f"{file}: holds no id; give at least one")
    found = _found(listed.take(pa.array(wanted)), ids)
    if found.null_count:
        unknown = int(wanted[pc.is_null(found).to_numpy(zero_copy_only=False).argmax()])
        raise UserError(f"{file}: {unit} {unknown + first}: {listed[unknown]} is not in the data set; take it out")
    return np.unique(found.to_numpy()).astype(np.int64)


def read_known_ids(file: Path, ids: pa.Array, kind: str) -> tuple[np.ndarray, int]:
    """As `read_id_list`, but ids that the catalogue has not are counted: (indices, distinct ids not known).

    Raises:
        UserError: the file cannot be read.
    """
    listed = _listed(file, kind)[0].unique()
    found = _found(listed.filter(_is_filled(listed)), ids)
    return np.sort(found.drop_null().to_numpy()).astype(np.int64), found.null_count


def indices_of(some: pa.Array, ids: pa.Array) -> pa.Array:
    """Where each of some ids stands in the catalogue's, null where it does not; int32 [len(some)].

    Compared as text, so that nothing is guessed of what is no number.
    """
    return pc.index_in(some.cast(pa.string()), value_set=ids.cast(pa.string()))


def _found(listed: pa.Array, ids: pa.Array) -> pa.Array:
    """As `indices_of`, of an id as it stands, else without the white space around it."""
    return pc.coalesce(indices_of(listed, ids), indices_of(pc.utf8_trim_whitespace(listed), ids))


def _is_filled(listed: pa.Array) -> pa.Array:
    return pc.not_equal(pc.utf8_trim_whitespace(listed), "")


def _listed(file: Path, kind: str) -> tuple[pa.Array, str, int]:
    """The ids of a file as text, what they are counted by, and the first one's number."""
    return (_from_parquet(file, kind), "row", 0) if file.suffix.lower() in PARQUET else (_from_text(file), "line", 1)


def _from_text(file: Path) -> pa.Array:
    try:
        # Not `splitlines`: it also splits at what may be part of an id, such as U+2028.
        return pa.array(re.split(r"\r?\n", file.read_bytes().decode("utf-8-sig")), pa.string())
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
