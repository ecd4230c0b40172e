"""Files that are parts of one table, as Spark and its like write a folder of them.

Legend: P rows of all parts together.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.columns import REQUIRED, Columns, find_columns, way_out
from infodcl_dist.data.delimited import DIALECTS, read_header
from infodcl_dist.data.ids import IdColumn
from infodcl_dist.data.number_columns import TIME_KIND
from infodcl_dist.data.parquet_table import open_parquet
from infodcl_dist.data.readers import detect_format, read_interactions

# A name that speaks of a split, as `x_train.csv`: such files are no parts of a table that is split again.
SPLIT_WORD = re.compile(r"(?<![a-z])(train|training|test|valid|val|validation|dev)(?![a-z])", re.IGNORECASE)
# What tells parts of one writer apart: numbers, perhaps an identifier.
NUMBERS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+")


def may_be_parts(files: Sequence[Path]) -> bool:
    """Whether files are parts of one table, by their names: these differ in numbers alone, and speak of no split."""
    return len({NUMBERS.sub("", file.name) for file in files}) == 1 and not SPLIT_WORD.search(files[0].stem)


def read_parts(files: Sequence[Path], format: str | None, columns: Columns) -> tuple[pa.Table, str, list[int]]:
    """Reads files one after another to the table [P] that their concatenation would be; a part may have no rows.

    Returns:
        The table as `readers.read_interactions` has it, the format, and each part's number of rows.

    Raises:
        UserError: a part that cannot be read, or whose format, columns or types are not the first one's; no rows.
    """
    is_guess, format = format is None, _common_format(files, format)
    _refuse_unlike(files, format, columns)
    ids: dict[str, _Ids] = {}
    numbers: dict[str, list[pa.Array]] = {}
    rows: list[int] = []
    timed: tuple[Path, bytes] | None = None  # the first part that has times, and what they are
    for file in files:
        part = read_interactions(file, format, columns, is_guess=is_guess)
        rows.append(part.num_rows)
        if part.num_rows == 0:
            continue
        kind = (part.schema.metadata or {}).get(TIME_KIND, b"")
        timed = timed or (file, kind)
        if kind != timed[1]:
            raise UserError(
                f"{file}: the times are written otherwise than in {timed[0].name}; write them alike, {way_out('time')}"
            )
        for role in part.column_names:
            if role not in REQUIRED:
                numbers.setdefault(role, []).extend(part[role].chunks)
            elif role in ids:
                ids[role].add(part[role].chunk(0))
            else:
                ids[role] = _Ids(part[role].chunk(0))
    if not ids:
        raise UserError(f"{files[0].parent}: no part holds a pair of a user and an item; give files with interactions")
    whole = {role: column.whole() for role, column in ids.items()}
    return pa.table(whole | {role: _joined(chunks) for role, chunks in numbers.items()}), format, rows


class _Ids:
    """Ids of several parts: of integers while all are, else of strings; a part's integers were exact as text."""

    def __init__(self, first: pa.DictionaryArray) -> None:
        self._column, self._are_text = IdColumn(), pa.types.is_string(first.dictionary.type)
        self._column.add(first)

    def add(self, ids: pa.DictionaryArray) -> None:
        if pa.types.is_string(ids.dictionary.type) and not self._are_text:
            so_far = self._column.whole()
            self._column, self._are_text = IdColumn(), True
            self._column.add(_as_text(so_far))
        self._column.add(_as_text(ids) if self._are_text else ids)

    def whole(self) -> pa.DictionaryArray:
        return self._column.whole()


def _as_text(ids: pa.DictionaryArray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(ids.indices, ids.dictionary.cast(pa.string()))


def _joined(chunks: list[pa.Array]) -> pa.ChunkedArray:
    """Numbers of several parts; whole times of one become fractions where another has such."""
    types = {chunk.type for chunk in chunks}
    return pa.chunked_array(chunks if len(types) == 1 else [chunk.cast(pa.float64(), safe=False) for chunk in chunks])


def _common_format(files: Sequence[Path], format: str | None) -> str:
    """The format that was named, or the one that every part has by itself."""
    found = [detect_format(file) for file in files]
    if format is not None:
        return format
    if "adjacency" in found:  # a guess that only a whole file can bear out
        where = files[found.index("adjacency")]
        raise UserError(f"{where}: seems to hold lists of items; if all parts do, say --format adjacency")
    for file, own in zip(files, found, strict=True):
        if own != found[0]:
            raise UserError(
                f"{file}: seems to be {own}, where {files[0].name} is {found[0]}; parts of one table are alike: "
                "correct it, name their --format, or give one file"
            )
    return found[0]


def _refuse_unlike(files: Sequence[Path], format: str, columns: Columns) -> None:
    """Refuses a part whose columns, or whose types of those that are read, are others than the first one's."""
    if format != "parquet" and format not in DIALECTS:
        return
    first = _fields(files[0], format)
    for file in files[1:]:
        own = _fields(file, format)
        if [name for name, _ in own] != [name for name, _ in first]:
            here, there = (", ".join(name for name, _ in fields) for fields in (own, first))
            raise UserError(
                f"{file}: has the columns {here}, where {files[0].name} has {there}; parts of one table have the same: "
                "correct it, or give one file, or files named train, test and valid"
            )
        if own == first:
            continue
        is_read = find_columns(files[0], [name for name, _ in first], columns).values()
        for (name, kind), (_, wanted) in zip(own, first, strict=True):
            if kind != wanted and name in is_read:
                raise UserError(
                    f"{file}: column {name!r} is {kind}, where {files[0].name} has {wanted}; write all parts alike"
                )


def _fields(file: Path, format: str) -> list[tuple[str, pa.DataType | None]]:
    """Names and, in Parquet, types; of codes the type of what they stand for, since their width may differ."""
    if format in DIALECTS:
        return [(name, None) for name in read_header(file, DIALECTS[format])]
    with open_parquet(file) as opened:
        return [
            (field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
            for field in opened.schema_arrow
        ]
