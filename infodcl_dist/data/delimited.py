"""Text tables with a header: `csv`, `tsv`, and RecBole's `inter`. Arrow reads; Python only finds the line of a fault.

Arrow infers nothing here: a column's type would hang on its first block. Ids come as dictionaries of strings.
"""

import csv
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from infodcl_dist.base.console import progress
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.columns import (
    BROKEN_ID,
    MISSING_ID,
    REQUIRED,
    Columns,
    find_columns,
    first_true,
    integers_where_exact,
    way_out,
)
from infodcl_dist.data.ids import IdColumn
from infodcl_dist.data.number_columns import TIME_KIND, NumberColumn, TimeColumn, parse_times
from infodcl_dist.data.utf8 import first_line_not_utf8, not_utf8

BLOCK_BYTES = 1 << 20  # Arrow's own default, named here because no line may be longer
csv.field_size_limit(sys.maxsize)  # Python refuses fields over 128 KiB; whoever explains a fault must read past them
ID_TYPE = pa.dictionary(pa.int32(), pa.string())
COLUMNS = {"user": IdColumn, "item": IdColumn, "rating": NumberColumn, "time": TimeColumn}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How the fields of a line are told apart, and whether ids that look like integers are integers."""

    delimiter: str
    quoted: bool = True
    integers: bool = True


DIALECTS = {
    "csv": Dialect(delimiter=","),
    "tsv": Dialect(delimiter="\t"),
    # RecBole's `token` is a string whatever it looks like, and knows no quotes.
    "inter": Dialect(delimiter="\t", quoted=False, integers=False),
}


def read_delimited(path: Path, dialect: Dialect, columns: Columns) -> pa.Table:
    """Reads columns `user`, `item` (dictionaries of int64 or string), perhaps `rating` (float64) and `time` (int64 or
    float64), [P].

    Dates become int64 microseconds since 1970.

    Raises:
        UserError: a missing column, a ragged line, a missing id, a rating or time that is no finite number, bytes that
            are no UTF-8; names file and line, or the column.
    """
    header = read_header(path, dialect)
    names = find_columns(path, header, columns)
    made: dict[str, Any] = {role: COLUMNS[role]() for role in names}
    try:
        for block in progress(_blocks(path, dialect, names), f"reading {path.name}", _block_count(path)):
            for role, name in names.items():
                made[role].add(block[name])
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _explain(path, dialect, header, names, error) from error
    if dialect.quoted:
        _refuse_open_quote(path, dialect)
    read = {role: column.whole() for role, column in made.items()}
    for role in REQUIRED:
        read[role] = _checked_ids(path, dialect, role, read[role])
    _refuse_second_header(path, dialect, names, read)
    if "rating" in read:
        infinite = pc.invert(pc.fill_null(pc.is_finite(read["rating"]), False))
        if (row := first_true(infinite)) is not None:
            line = line_of_row(path, dialect, row)
            raise UserError(f"{path}:{line}: the rating is missing or NaN; correct the line, {way_out('rating')}")
    if "time" in read and read["time"] is None:
        raise _no_time(path, dialect, header.index(names["time"]))
    return pa.table(read, metadata={TIME_KIND: made["time"].kind} if "time" in made else None)


def _blocks(path: Path, dialect: Dialect, names: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """The file's columns, a block of lines at a time; the first may be without lines."""
    types = {"user": ID_TYPE, "item": ID_TYPE, "rating": pa.float64(), "time": pa.string()}
    reader = arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=arrow_csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char='"' if dialect.quoted else False,
            newlines_in_values=dialect.quoted,
        ),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=list(names.values()),
            column_types={name: types[role] for role, name in names.items()},
        ),
    )
    yield pa.RecordBatch.from_pylist([], reader.schema)
    yield from reader


def _block_count(path: Path) -> int:
    return -(-path.stat().st_size // BLOCK_BYTES) + 1


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """The names in the first line that is not blank; a line ends with LF, CR LF or CR.

    Raises:
        UserError: the line is no UTF-8, or is too long.
    """
    with path.open("rb") as stream:
        head = stream.read(BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf")
    above = re.match(rb"[\r\n]*", head)[0]  # type: ignore[index]  # an empty match is one too
    line = 1 + len(re.findall(rb"\r\n|\r|\n", above))
    first = re.match(rb"[^\r\n]*", head[len(above) :])[0]  # type: ignore[index]
    if len(first) + len(above) == BLOCK_BYTES:
        raise _too_long(path, line)
    try:
        return next(csv.reader([first.decode()], **_python_dialect(dialect)), [])
    except UnicodeDecodeError:
        raise not_utf8(path, line) from None


def line_of_row(path: Path, dialect: Dialect, row: int) -> int:
    """The line, from 1, on which a table's row, from 0, begins. Reads the file again: for messages alone."""
    return next(islice(_rows(path, dialect), row, None))[0]


def _checked_ids(path: Path, dialect: Dialect, role: str, ids: pa.DictionaryArray) -> pa.DictionaryArray:
    """Ids of strings as ids of int64 or string [P], looking at each distinct one once."""

    def refuse(faulty: pa.Array, what: str) -> None:
        if pc.any(faulty).as_py():
            row = int(np.argmax(faulty.to_numpy(zero_copy_only=False)[ids.indices.to_numpy()]))
            raise UserError(f"{path}:{line_of_row(path, dialect, row)}: the {role} id {what}")

    distinct = ids.dictionary
    refuse(pc.is_in(distinct, value_set=pa.array(MISSING_ID)), "is missing; correct the line")
    broken = pc.match_substring_regex(distinct, BROKEN_ID)
    refuse(broken, "holds a line break or a NUL byte; correct the line and its quotes")
    values = integers_where_exact(distinct) if dialect.integers else distinct
    return pa.DictionaryArray.from_arrays(ids.indices, values)


def _refuse_open_quote(path: Path, dialect: Dialect) -> None:
    """A quote that nobody closes swallows rows, up to the next quote or the end of the file, and Arrow lets it.

    Arrow and `csv` tell fields apart alike. Only a row over several lines can have swallowed others; in strict mode
    `csv` refuses one whose quote is never closed, or is followed by more than a delimiter.
    """
    if not _holds_quote(path):
        return
    lines: list[str] = []  # of the row that is being read

    def taken(stream: Iterable[str]) -> Iterator[str]:
        for line in stream:
            lines.append(line)
            yield line

    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        # One line more, so that a quote in the last one has something to swallow.
        reader = csv.reader(taken(chain(stream, ["\n"])), **_python_dialect(dialect))
        for _ in reader:
            if len(lines) > 1 and not _is_strict(lines, dialect):
                begins = reader.line_num - len(lines) + 1
                raise UserError(
                    f"{path}:{begins}: a quote that opens in this row never closes, or closes before its field ends; "
                    "close it, and double the quotes inside a field"
                )
            lines.clear()


def _holds_quote(path: Path) -> bool:
    with path.open("rb") as stream:
        return any(b'"' in block for block in iter(lambda: stream.read(BLOCK_BYTES), b""))


def _is_strict(lines: list[str], dialect: Dialect) -> bool:
    """Whether the lines of a row are as `csv` would have them at its strictest."""
    try:
        next(csv.reader(lines, strict=True, **_python_dialect(dialect)))
    except csv.Error:
        return False
    return True


def _refuse_second_header(
    path: Path, dialect: Dialect, names: dict[str, str], read: dict[str, pa.DictionaryArray]
) -> None:
    """Files that were put one behind the other hold their header again, which would pass for a pair of ids."""
    if all(pa.types.is_string(read[role].dictionary.type) for role in REQUIRED):
        codes = {role: pc.index(read[role].dictionary, names[role]).as_py() for role in REQUIRED}
        again = pc.and_(*(pc.equal(read[role].indices, code) for role, code in codes.items()))
        if (row := first_true(again)) is not None:
            raise UserError(f"{path}:{line_of_row(path, dialect, row)}: is the header again; take the line out")


def _no_time(path: Path, dialect: Dialect, field: int) -> UserError:
    kinds = set()

    def is_fault(fields: list[str]) -> bool:
        kinds.add(parse_times(pa.array([fields[field]]))[1])
        return "" in kinds or len(kinds) > 1

    line = _first_line(path, dialect, is_fault)
    fault = "is neither a number nor a date" if "" in kinds else "is written otherwise than those above"
    return UserError(f"{path}:{line}: the time {fault}; correct the line, {way_out('time')}")


def _explain(path: Path, dialect: Dialect, header: list[str], names: dict[str, str], error: Exception) -> UserError:
    """What Arrow stumbled over, with its line."""
    if (line_number := _first_line(path, dialect, lambda fields: len(fields) != len(header))) is not None:
        return UserError(f"{path}:{line_number}: not {len(header)} fields as the header has; correct the line")
    if "rating" in names:
        field = header.index(names["rating"])
        if (line_number := _first_line(path, dialect, lambda fields: not _is_number(fields[field]))) is not None:
            return UserError(f"{path}:{line_number}: the rating is no number; correct the line, {way_out('rating')}")
    if "straddling" in str(error) and (line_number := _first_line(path, dialect, _fills_a_block)) is not None:
        return _too_long(path, line_number)
    if (line_number := first_line_not_utf8(path)) is not None:
        return not_utf8(path, line_number)
    return UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}); correct the file, or name its --format")


def _too_long(path: Path, line: int) -> UserError:
    return UserError(f"{path}:{line}: the line is longer than {BLOCK_BYTES >> 20} MiB; shorten it, or close its quotes")


def _fills_a_block(fields: list[str]) -> bool:
    return sum(len(field.encode()) + 1 for field in fields) > BLOCK_BYTES


def _first_line(path: Path, dialect: Dialect, is_fault: Callable[[list[str]], bool]) -> int | None:
    return next((line for line, fields in _rows(path, dialect) if is_fault(fields)), None)


def _rows(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """The first line and the fields of each row below the header; blank lines are none, as for Arrow."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.reader(stream, **_python_dialect(dialect))
        seen_header, begins = False, 1
        for fields in reader:
            if fields and seen_header:
                yield begins, fields
            seen_header = seen_header or bool(fields)
            begins = reader.line_num + 1


def _python_dialect(dialect: Dialect) -> dict:
    return {"delimiter": dialect.delimiter, "quoting": csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
