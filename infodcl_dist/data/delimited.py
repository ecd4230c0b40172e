"""Text tables with a header: `csv`, `tsv`, and RecBole's `inter`. Arrow reads; Python only finds the line of a fault.

Arrow infers nothing here: a column's type would hang on its first block. Ids come as dictionaries of strings.
"""

import csv
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.columns import MISSING_ID, Columns, find_columns, first_true, integers_where_exact

BLOCK_BYTES = 1 << 20  # Arrow's own default, named here because no line may be longer
csv.field_size_limit(sys.maxsize)  # Python refuses fields over 128 KiB; whoever explains a fault must read past them
ID_TYPE = pa.dictionary(pa.int32(), pa.string())


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
    """Reads columns `user`, `item` (int64 or string), perhaps `rating` (float64) and `time` (int64 or float64), [P].

    Dates become int64 microseconds since 1970.

    Raises:
        UserError: a missing column, a ragged line, a missing id, a rating or time that is no finite number, bytes that
            are no UTF-8; names file and line, or the column.
    """
    header = read_header(path, dialect)
    names = find_columns(path, header, columns)
    types = {"user": ID_TYPE, "item": ID_TYPE, "rating": pa.float64(), "time": pa.string()}
    try:
        table = arrow_csv.read_csv(
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
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _explain(path, dialect, header, names, error) from error
    if dialect.quoted:
        _refuse_open_quote(path, dialect)
    read = {role: table[name] for role, name in names.items()}
    for role in ("user", "item"):
        read[role] = _ids(path, dialect, role, read[role])
    _refuse_second_header(path, dialect, names, read)
    if "rating" in read:
        infinite = pc.invert(pc.fill_null(pc.is_finite(read["rating"]), False))
        if (row := first_true(infinite)) is not None:
            raise UserError(f"{path}:{line_of_row(path, dialect, row)}: the rating is missing or NaN; correct the line")
    if "time" in read:
        read["time"] = _times(path, dialect, header.index(names["time"]), read["time"])
    return pa.table(read)


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
        raise UserError(f"{path}:{line}: is not UTF-8 text; save the file as UTF-8") from None


def line_of_row(path: Path, dialect: Dialect, row: int) -> int:
    """The line, from 1, on which a table's row, from 0, begins. Reads the file again: for messages alone."""
    return next(islice(_rows(path, dialect), row, None))[0]


def _ids(path: Path, dialect: Dialect, role: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionaries of strings to int64 or string [P], looking at each distinct id once."""
    if len(column) == 0:
        return pa.chunked_array([], pa.string())
    chunks = column.unify_dictionaries().chunks
    distinct = chunks[0].dictionary
    missing = pc.is_in(distinct, value_set=pa.array(MISSING_ID))
    if pc.any(missing).as_py():
        row = first_true(pa.chunked_array([missing.take(chunk.indices) for chunk in chunks]))
        raise UserError(f"{path}:{line_of_row(path, dialect, row or 0)}: the {role} id is missing; correct the line")
    if pc.any(broken := pc.match_substring_regex(distinct, r"[\x00\r\n]")).as_py():
        row = first_true(pa.chunked_array([broken.take(chunk.indices) for chunk in chunks]))
        place = f"{path}:{line_of_row(path, dialect, row or 0)}"
        raise UserError(f"{place}: the {role} id holds a line break or a NUL byte; correct the line and its quotes")
    values = integers_where_exact(distinct) if dialect.integers else distinct
    return pa.chunked_array([values.take(chunk.indices) for chunk in chunks])


def _refuse_open_quote(path: Path, dialect: Dialect) -> None:
    """Arrow lets a quote that nobody closes swallow the rest of the file; an odd number of quotes makes us look."""
    with path.open("rb") as stream:
        quotes = sum(block.count(b'"') for block in iter(lambda: stream.read(BLOCK_BYTES), b""))
    if quotes % 2 == 0:
        return
    last = 1
    try:
        for begins, _ in _rows(path, dialect, strict=True):
            last = begins
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise UserError(f"{path}:{last}: a quote opens below this line and never closes; close it") from None


def _refuse_second_header(
    path: Path, dialect: Dialect, names: dict[str, str], read: dict[str, pa.ChunkedArray]
) -> None:
    """Files that were put one behind the other hold their header again, which would pass for a pair of ids."""
    if all(pa.types.is_string(read[role].type) for role in ("user", "item")):
        again = pc.and_(pc.equal(read["user"], names["user"]), pc.equal(read["item"], names["item"]))
        if (row := first_true(again)) is not None:
            raise UserError(f"{path}:{line_of_row(path, dialect, row)}: is the header again; take the line out")


def _times(path: Path, dialect: Dialect, field: int, texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts to int64, else float64, else dates as int64 microseconds."""
    for number in (pa.int64(), pa.float64()):
        try:
            times = texts.cast(number)
        except pa.ArrowInvalid:
            continue
        if pc.all(pc.is_finite(times)).as_py() is not False:
            return times
    try:
        return texts.cast(pa.timestamp("us")).cast(pa.int64())
    except pa.ArrowInvalid as error:
        fault = _first_line(path, dialect, lambda fields: not (_is_number(fields[field]) or _is_date(fields[field])))
        raise UserError(f"{path}:{fault or 2}: the time is neither a number nor a date; correct the line") from error


def _explain(path: Path, dialect: Dialect, header: list[str], names: dict[str, str], error: Exception) -> UserError:
    """What Arrow stumbled over, with its line."""
    if (line_number := _first_line(path, dialect, lambda fields: len(fields) != len(header))) is not None:
        return UserError(f"{path}:{line_number}: not {len(header)} fields as the header has; correct the line")
    if "rating" in names:
        field = header.index(names["rating"])
        if (line_number := _first_line(path, dialect, lambda fields: not _is_number(fields[field]))) is not None:
            return UserError(f"{path}:{line_number}: the rating is no number; correct the line")
    if "straddling" in str(error) and (line_number := _first_line(path, dialect, _fills_a_block)) is not None:
        return _too_long(path, line_number)
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return UserError(f"{path}:{number}: is not UTF-8 text; save the file as UTF-8")
    return UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}); correct the file, or name its --format")


def _too_long(path: Path, line: int) -> UserError:
    return UserError(f"{path}:{line}: the line is longer than {BLOCK_BYTES >> 20} MiB; shorten it, or close its quotes")


def _fills_a_block(fields: list[str]) -> bool:
    return sum(len(field.encode()) + 1 for field in fields) > BLOCK_BYTES


def _first_line(path: Path, dialect: Dialect, is_fault: Callable[[list[str]], bool]) -> int | None:
    return next((line for line, fields in _rows(path, dialect) if is_fault(fields)), None)


def _rows(path: Path, dialect: Dialect, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The first line and the fields of each row below the header; blank lines are none, as for Arrow."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.reader(stream, strict=strict, **_python_dialect(dialect))
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


def _is_date(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return False
    return True
