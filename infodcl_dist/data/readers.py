"""One file of interactions to one Arrow table, whatever its format, or a message that names the line."""

import re
from pathlib import Path

import pyarrow as pa

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.columns import Columns
from infodcl_dist.data.delimited import DIALECTS, line_of_row, read_delimited, read_header
from infodcl_dist.data.ids import within_text_limit
from infodcl_dist.data.integer_lines import BOM, read_integer_lines
from infodcl_dist.data.parquet_table import read_parquet

FORMATS = ("pairs", "adjacency", "csv", "tsv", "inter", "parquet")
BY_EXTENSION = {".csv": "csv", ".tsv": "tsv", ".inter": "inter", ".parquet": "parquet", ".pq": "parquet"}
# What packed files begin with: gzip, bzip2, xz, Zstandard, zip.
PACKED = re.compile(rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|PK\x03\x04")
HEAD_BYTES = 1 << 16  # assumption: enough lines to tell pairs from adjacency


def read_interactions(
    path: Path, format: str | None = None, columns: Columns | None = None, *, is_guess: bool = False
) -> pa.Table:
    """Reads a file to a table of P rows in the file's order.

    Args:
        path: the file.
        format: one of `FORMATS`; None finds it by the extension and the first lines.
        columns: the names of the columns, for the formats that name them.
        is_guess: whether the format was found by `detect_format`, so that the rest of the file is held against it.

    Returns:
        `user` and `item`, dictionaries of int64 or string, never null; where the file has them `rating`, float64 and
        finite, and `time`, int64 or float64 and finite.

    Raises:
        UserError: anything the file's owner must correct; names the file and the line, or the column.
    """
    is_guess = is_guess or format is None
    format = format or detect_format(path)
    columns = columns or Columns()
    try:
        if path.stat().st_size == 0:
            raise _empty(path)
        with path.open("rb") as stream:
            _refuse_packed(path, stream.read(16))
        if format in DIALECTS:
            with within_text_limit(path):
                return read_delimited(path, DIALECTS[format], columns)
        if format == "parquet":
            return read_parquet(path, columns)
        if columns.named:
            role = next(iter(columns.named))
            raise UserError(f"{path}: format {format} has no named columns; leave --{role}-column out")
        return read_integer_lines(path, adjacency=format == "adjacency", is_guess=is_guess)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def read_pairs(path: Path) -> pa.Table:
    """Reads `user` and `item` alone from a file in any format; what its ratings and times hold does not matter.

    Raises:
        UserError: see `read_interactions`.
    """
    format = detect_format(path)
    columns = Columns(rating="", time="", have_options=False) if names_columns(format) else None
    return read_interactions(path, format, columns, is_guess=True)


def detect_format(path: Path) -> str:
    """The format of a file, by its extension, else by its first lines.

    A file of integers is `adjacency` when its lines differ from `user item` and no user opens two of them; only its
    beginning is looked at, so whoever reads it on this word is to look at the rest (`is_guess`).

    Raises:
        UserError: the file is missing, empty, compressed or unreadable.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES + len(BOM)).removeprefix(BOM)[:HEAD_BYTES]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not head.strip():
        raise _empty(path)
    _refuse_packed(path, head)
    if head.startswith(b"PAR1"):
        return "parquet"
    return BY_EXTENSION.get(path.suffix.lower()) or _format_of_text(path, head)


def names_columns(format: str) -> bool:
    """Whether files of a format have a name for each column."""
    return format in DIALECTS or format == "parquet"


def is_data(header: list[str]) -> bool:
    """Whether a first line is no header: no column's name is a number."""
    return any(name.strip().isdigit() for name in header)


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


def _refuse_packed(path: Path, head: bytes) -> None:
    """Else its bytes would pass for text in a strange encoding."""
    if PACKED.match(head):
        raise UserError(f"{path}: is compressed; decompress it first, and give the file that comes out")


def _format_of_text(path: Path, head: bytes) -> str:
    if re.fullmatch(rb"[\d\s]*", head):
        return _format_of_integers(head)
    first, *_ = head.splitlines()
    if b":token" in first:
        return "inter"
    for format in ("tsv", "csv"):
        header = read_header(path, DIALECTS[format])
        if len(header) > 1 and not is_data(header):
            return format
    return "csv" if b"," in first else _format_of_integers(head)


def _format_of_integers(head: bytes) -> str:
    if len(head) == HEAD_BYTES:  # the last line may be cut
        head = head[: head.rfind(b"\n")]
    lines = [line.split() for line in head.splitlines() if line.strip()]
    users = {line[0] for line in lines}
    return "adjacency" if len(users) == len(lines) and any(len(line) != 2 for line in lines) else "pairs"
