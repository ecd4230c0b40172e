"""One file of interactions to one Arrow table, whatever its format, or a message that names the line."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.columns import COMMON_NAMES, Columns, find_columns, first_true
from infodcl_dist.data.delimited import DIALECTS, line_of_row, read_delimited, read_header
from infodcl_dist.data.integer_lines import read_integer_lines

FORMATS = ("pairs", "adjacency", "csv", "tsv", "inter", "parquet")
BY_EXTENSION = {".csv": "csv", ".tsv": "tsv", ".inter": "inter", ".parquet": "parquet", ".pq": "parquet"}
HEAD_BYTES = 1 << 16  # assumption: enough lines to tell pairs from adjacency


def read_interactions(path: Path, format: str | None = None, columns: Columns | None = None) -> pa.Table:
    """Reads a file to a table of P rows in the file's order.

    Args:
        path: the file.
        format: one of `FORMATS`; None finds it by the extension and the first lines.
        columns: the names of the columns, for the formats that name them.

    Returns:
        `user` and `item`, int64 or string, never null; where the file has them `rating`, float64 and finite, and
        `time`, int64 or float64 and finite.

    Raises:
        UserError: anything the file's owner must correct; names the file and the line, or the column.
    """
    format = format or detect_format(path)
    columns = columns or Columns()
    try:
        if path.stat().st_size == 0:
            raise _empty(path)
        if format in DIALECTS:
            return read_delimited(path, DIALECTS[format], columns)
        if format == "parquet":
            return _read_parquet(path, columns)
        if columns.named:
            role = next(iter(columns.named))
            raise UserError(f"{path}: format {format} has no named columns; leave --{role}-column out")
        return read_integer_lines(path, adjacency=format == "adjacency")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def detect_format(path: Path) -> str:
    """The format of a file, by its extension, else by its first lines.

    A file of integers is `adjacency` when its lines differ from `user item` and no user opens two of them.

    Raises:
        UserError: the file is missing, empty or unreadable.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not head.strip():
        raise _empty(path)
    if head.startswith(b"PAR1"):
        return "parquet"
    return BY_EXTENSION.get(path.suffix.lower()) or _format_of_text(path, head)


def place_of_row(path: Path, format: str, row: int) -> str:
    """`file:line` of a table's row, from 0 (`file: row n` in Parquet). Reads the file again: for messages alone."""
    if format == "parquet":
        return f"{path}: row {row}"
    if format in DIALECTS:
        return f"{path}:{line_of_row(path, DIALECTS[format], row)}"
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            row -= max(len(line.split()) - 1, 0)
            if row < 0:
                return f"{path}:{number}"
    return f"{path}"


def _empty(path: Path) -> UserError:
    return UserError(f"{path}: is empty; give a file with interactions")


def _format_of_text(path: Path, head: bytes) -> str:
    first, *_ = head.removeprefix(b"\xef\xbb\xbf").splitlines()
    if b":token" in first:
        return "inter"
    for format in ("tsv", "csv"):
        header = read_header(path, DIALECTS[format])
        if len(header) > 1 and not any(name.strip().isdigit() for name in header):
            return format
    if b"," in first:
        return "csv"
    if len(head) == HEAD_BYTES:  # the last line may be cut
        head = head[: head.rfind(b"\n")]
    lines = [line.split() for line in head.splitlines() if line.strip()]
    users = {line[0] for line in lines}
    return "adjacency" if len(users) == len(lines) and any(len(line) != 2 for line in lines) else "pairs"


def _read_parquet(path: Path, columns: Columns) -> pa.Table:
    """The Parquet form of `read_interactions`."""
    try:
        file = pq.ParquetFile(path)
        names = find_columns(path, file.schema_arrow.names, columns)
        table = file.read(columns=list(names.values()))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        fault = str(error).splitlines()[0][:120]
        raise UserError(f"{path}: cannot be read as Parquet ({fault}); it may be cut short: make it again") from error
    read = {}
    for role, name in names.items():
        column = table[name]
        if (row := first_true(pc.is_null(column, nan_is_null=True))) is not None:
            raise UserError(f"{path}: row {row}: column {name!r} is null or NaN; correct the row")
        read[role] = _as_ids(path, name, column) if role in ("user", "item") else _as_numbers(path, name, column, role)
    return pa.table({role: read[role] for role in COMMON_NAMES if role in read})


def _as_ids(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not texts and not pa.types.is_integer(kind):
        raise UserError(f"{path}: column {name!r} is {kind}, which is no id; cast it to int64 or string")
    if texts:
        _refuse_bad_utf8(path, name, column)
    try:
        ids = column.cast(pa.string() if texts else pa.int64())
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: column {name!r} holds ids beyond int64; cast it to string") from error
    if texts and (row := first_true(pc.equal(ids, ""))) is not None:
        raise UserError(f"{path}: row {row}: column {name!r} is empty; correct the row")
    return ids


def _refuse_bad_utf8(path: Path, name: str, column: pa.ChunkedArray) -> None:
    """Parquet's writers need not check their strings, and Arrow does so only when it is told to."""
    first = 0
    for chunk in column.chunks:
        try:
            chunk.validate(full=True)
        except (pa.ArrowInvalid, pa.ArrowIndexError) as error:
            raise UserError(
                f"{path}: rows {first} to {first + len(chunk) - 1}: column {name!r} holds text that is not UTF-8; "
                "write it as UTF-8"
            ) from error
        first += len(chunk)


def _as_numbers(path: Path, name: str, column: pa.ChunkedArray, role: str) -> pa.ChunkedArray:
    kind = column.type
    if role == "time" and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise UserError(f"{path}: column {name!r} is {kind}, which is no {role}; cast it to a number")
    exact_integer = role == "time" and pa.types.is_integer(kind)
    try:
        # A rating beyond 2^53 may be rounded; a time may not.
        numbers = column.cast(pa.int64() if exact_integer else pa.float64(), safe=exact_integer)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: column {name!r} holds a {role} beyond int64; correct it") from error
    if not exact_integer and (row := first_true(pc.invert(pc.is_finite(numbers)))) is not None:
        raise UserError(f"{path}: row {row}: column {name!r} is not finite; correct the row")
    return numbers
