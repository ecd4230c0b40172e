"""Facts of a knowledge graph from a text file: `head<TAB>relation<TAB>tail` a line, or RecBole's `.kg` with a header.

Legend: T triples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from infodcl_dist.base.console import progress
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.delimited import BLOCK_BYTES, DIALECTS, ID_TYPE, read_header
from infodcl_dist.data.ids import IdColumn, within_text_limit
from infodcl_dist.data.utf8 import first_line_not_utf8, not_utf8

PARTS = ("head", "relation", "tail")
RECBOLE = ("head_id:token", "relation_id:token", "tail_id:token")


@dataclass(frozen=True)
class Triples:
    """T facts; heads, relations and tails as dictionaries of strings [T] each."""

    heads: pa.DictionaryArray
    relations: pa.DictionaryArray
    tails: pa.DictionaryArray
    has_header: bool
    """Whether the file is RecBole's, whose heads are entities rather than items."""


def read_triples(path: Path) -> Triples:
    """Reads all facts, in the file's order; four bytes a part of each are kept, and each distinct text once.

    Raises:
        UserError: no such file, none of its lines a triple, a line of another width, a part that is empty, or text that
            is not UTF-8; names file and line.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: is empty; give a file of triples")
        header = read_header(path, DIALECTS["inter"])
        has_header = any(":token" in name for name in header)
        if has_header and sorted(header) != sorted(RECBOLE):
            raise UserError(
                f"{path}: its columns are {', '.join(header)}, not {', '.join(RECBOLE)}; correct the header"
            )
        names = [name.partition("_id:")[0] for name in header] if has_header else list(PARTS)
        with within_text_limit(path):
            columns = _read_columns(path, names, has_header)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _explain(path, error) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    for name in PARTS:
        _refuse_empty(path, name, columns[name], columns=names)
    return Triples(columns["head"], columns["relation"], columns["tail"], has_header)


def _read_columns(path: Path, names: list[str], has_header: bool) -> dict[str, pa.DictionaryArray]:
    reader = arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(
            block_size=BLOCK_BYTES, column_names=names, skip_rows=1 if has_header else 0
        ),
        parse_options=arrow_csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, ID_TYPE), strings_can_be_null=False, check_utf8=True
        ),
    )
    columns = {name: IdColumn() for name in PARTS}
    for column in columns.values():
        column.add(pa.array([], pa.string()))  # of a file without triples too there is then a whole
    blocks = -(-path.stat().st_size // BLOCK_BYTES)
    for block in progress(reader, f"reading {path.name}", blocks):
        for name, column in columns.items():
            column.add(block[name])
    read = {name: column.whole() for name, column in columns.items()}
    if len(read["head"]) == 0:
        raise UserError(f"{path}: holds no triple; give lines of head, relation and tail")
    return read


def _refuse_empty(path: Path, name: str, column: pa.DictionaryArray, columns: list[str]) -> None:
    if pc.index(column.dictionary, "").as_py() >= 0:
        field = columns.index(name)
        line = _first_line(path, lambda fields: fields[field] == "")
        raise UserError(f"{path}:{line}: the {name} is empty; correct the line")


def _explain(path: Path, error: Exception) -> UserError:
    """What Arrow stumbled over, with its line."""
    if (line_number := first_line_not_utf8(path)) is not None:
        return not_utf8(path, line_number)
    if (ragged := _first_line(path, lambda fields: len(fields) != len(PARTS))) is not None:
        return UserError(f"{path}:{ragged}: is not head, relation and tail, parted by tabs; correct the line")
    return UserError(f"{path}: cannot be read ({str(error).splitlines()[0][:120]}); correct the file")


def _first_line(path: Path, is_fault: Callable[[list[str]], bool]) -> int | None:
    """The first line that is not blank and has the fault, from 1."""
    with path.open(encoding="utf-8-sig", newline=None) as stream:
        lines = ((number, line.rstrip("\n")) for number, line in enumerate(stream, 1))
        return next((number for number, line in lines if line and is_fault(line.split("\t"))), None)
