"""Text files of integer ids, `user item` or `user item item …` a line, read by array arithmetic with no loop a line.

Legend: C bytes of a chunk, K tokens in it, P pairs.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from infodcl_dist.base.console import progress
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.ids import IdColumn
from infodcl_dist.data.utf8 import not_utf8

BOM = b"\xef\xbb\xbf"
CHUNK_BYTES = 1 << 25  # assumption: the dozen temporary arrays of a chunk stay below a gigabyte
MAX_DIGITS = 18  # 10^18 - 1 is the longest run of nines below 2^63

_SPACE, _DIGIT, _OTHER = 0, 1, 2
_KIND = np.full(256, _OTHER, np.uint8)
_KIND[list(b" \t\r\n\f\v")] = _SPACE
_KIND[list(b"0123456789")] = _DIGIT


def read_integer_lines(path: Path, *, adjacency: bool, is_guess: bool = False) -> pa.Table:
    """Reads a file of whitespace-separated ids ≥ 0 to `user` and `item`, dictionaries of int64 [P], in its order.

    Args:
        path: the file; blank lines are skipped.
        adjacency: a line is a user and any number of its items, none included; otherwise exactly one item.
        is_guess: whether adjacency was found by the first lines, so that no user may open two: such lines could hold
            anything, as `user item time`.

    Raises:
        UserError: a token that is no id ≥ 0, a line of another width, or a user's second line; names file and line.
    """
    users, items, first_line = IdColumn(), IdColumn(), 1
    openers, widths = [np.empty(0, np.int64)], set[int]()
    for column in (users, items):
        column.add(pa.array([], pa.int64()))
    for chunk in progress(_chunks(path), f"reading {path.name}"):
        _refuse_lone_returns(path, chunk, first_line)
        ids, line = _parse(path, chunk, first_line)
        opens_line = np.diff(line, prepend=-1) != 0
        per_line = np.bincount(line) if len(line) else np.empty(0, np.int64)
        if not adjacency and (ragged := np.flatnonzero((per_line != 2) & (per_line != 0))).size:
            raise _ragged(path, first_line + int(ragged[0]), int(per_line[ragged[0]]))
        if adjacency and is_guess:
            openers.append(ids[opens_line])
            widths.update(np.unique(per_line))
        users.add(pa.array(np.repeat(ids[opens_line], per_line[per_line > 0] - 1)))
        items.add(pa.array(ids[~opens_line]))
        first_line += chunk.count(b"\n")
    if not widths <= {0, 2}:  # lines of `user item` are the same in both formats
        _refuse_second_line(path, np.concatenate(openers))
    return pa.table({"user": users.whole(), "item": items.whole()})


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes in pieces that end at a line's end, without the byte order mark."""
    with path.open("rb") as stream:
        if stream.read(len(BOM)) != BOM:
            stream.seek(0)
        while block := stream.read(CHUNK_BYTES):
            yield block + (b"" if block.endswith(b"\n") else stream.readline())


def _parse(path: Path, chunk: bytes, first_line: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a chunk, int64 [K], and the line of each, counted from 0 within the chunk, int64 [K]."""
    codes = np.frombuffer(chunk, np.uint8)
    kind = _KIND[codes]
    strange = kind == _OTHER
    if strange.any():
        raise _no_id(path, chunk, int(strange.argmax()), first_line)
    edges = np.diff(kind.view(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    line = np.searchsorted(np.flatnonzero(codes == ord("\n")), starts)
    lengths = ends - starts
    if (long := np.flatnonzero(lengths > MAX_DIGITS)).size:
        raise UserError(f"{path}:{first_line + line[long[0]]}: an id has more than {MAX_DIGITS} digits; shorten it")
    ids = np.zeros(len(starts), np.int64)
    for place in range(int(lengths.max(initial=0))):
        has_digit = lengths > place
        ids[has_digit] = ids[has_digit] * 10 + (codes[starts[has_digit] + place] - ord("0"))
    return ids, line


def _refuse_lone_returns(path: Path, chunk: bytes, first_line: int) -> None:
    """A carriage return between ids is white space here, and would make one line of two."""
    if chunk.count(b"\r") != chunk.count(b"\r\n") and (lone := re.search(rb"\d[ \t\f\v]*\r[ \t\r\f\v]*\d", chunk)):
        line = first_line + chunk.count(b"\n", 0, lone.start())
        raise UserError(f"{path}:{line}: a carriage return stands between ids; end lines with a line feed")


def _refuse_second_line(path: Path, openers: np.ndarray) -> None:
    """Refuses a user that opens two of the lines that are not blank, [lines]."""
    _, firsts = np.unique(openers, return_index=True)
    if len(firsts) == len(openers):
        return
    second = int(np.delete(np.arange(len(openers)), firsts)[0])
    with path.open("rb") as stream:
        filled = (number for number, line in enumerate(stream, 1) if line.removeprefix(BOM).strip())
        line_number = next(islice(filled, second, None))
    raise UserError(
        f"{path}:{line_number}: user {openers[second]} opens a line again, so these may be no lists of items; "
        "say --format adjacency if they are, or write a table with a header"
    )


def _no_id(path: Path, chunk: bytes, position: int, first_line: int) -> UserError:
    """Names the token around a byte that belongs in no id."""
    line_number = first_line + chunk.count(b"\n", 0, position)
    begin = chunk.rfind(b"\n", 0, position) + 1
    try:
        line = chunk[begin:].partition(b"\n")[0].decode()
    except UnicodeDecodeError:
        return not_utf8(path, line_number)
    offset = len(chunk[begin:position].decode())
    token = next(found[0] for found in re.finditer(r"\S+", line) if found.end() > offset)
    if re.fullmatch(r"-\d+", token):
        return UserError(f"{path}:{line_number}: negative id {token}; ids of this format start at 0")
    return UserError(
        f"{path}:{line_number}: {token[:40]!r} is no integer id; correct it, or give a table with a header (csv, tsv)"
    )


def _ragged(path: Path, line: int, width: int) -> UserError:
    return UserError(
        f"{path}:{line}: {width} fields in place of `user item`; correct the line, "
        "or say --format adjacency where items follow their user on one line"
    )
