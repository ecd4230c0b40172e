"""The user's ids to indices 0…n-1 and back: sorted ascending, integers by value, strings by code point.

Legend: P rows of a column, n distinct ids.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infodcl_dist.base.errors import UserError

# Distinct ids of single chunks that may wait to be brought together; assumption: some hundred megabytes of strings.
WAITING_IDS = 1 << 23


@contextmanager
def within_text_limit(place: Path) -> Iterator[None]:
    """Around what gathers ids: Arrow's strings have 32-bit offsets, so that distinct ids end at 2 GiB of text.

    Raises:
        UserError: more of them, told as the fault of the file or folder `place`.
    """
    try:
        yield
    except (pa.ArrowCapacityError, pa.ArrowInvalid) as error:
        if isinstance(error, pa.ArrowInvalid) and "offset overflow" not in str(error):
            raise
        raise UserError(f"{place}: more than 2 GiB of distinct ids of one kind; write them as integers") from error


class IdColumn:
    """A column of ids as it is read, chunk by chunk: it keeps four bytes a row and each distinct id once."""

    def __init__(self) -> None:
        self._distinct: pa.Array | None = None
        self._codes: list[np.ndarray] = []
        self._waiting: list[pa.DictionaryArray] = []

    def add(self, chunk: pa.Array) -> None:
        """Appends ids, perhaps encoded already; none is null."""
        coded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        self._waiting.append(coded)
        # As many as are settled already may wait, so that all settling together costs no more than twice the last.
        waiting = sum(len(part.dictionary) for part in self._waiting)
        if waiting > max(WAITING_IDS, 0 if self._distinct is None else len(self._distinct)):
            self._settle()

    def whole(self) -> pa.DictionaryArray:
        """All ids [P], over a dictionary in order of appearance, when at least one chunk was added."""
        self._settle()
        return pa.DictionaryArray.from_arrays(pa.array(np.concatenate(self._codes)), self._distinct)

    def _settle(self) -> None:
        parts = self._waiting
        if self._distinct is not None:
            # What is settled comes first, so that its codes stay.
            parts = [pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._distinct), *parts]
        settled = pa.chunked_array(parts).unify_dictionaries().chunks
        self._distinct = settled[0].dictionary
        self._codes += [part.indices.to_numpy() for part in settled]
        self._waiting = []


def encode(columns: Sequence[pa.DictionaryArray]) -> tuple[pa.Array, list[np.ndarray]]:
    """One catalogue over several columns of ids.

    Where one column is of strings, all are: integers were read only where nothing was lost.

    Returns:
        The distinct ids [n], ascending, and for each column the indices int32 [P].
    """
    kind = pa.string() if any(pa.types.is_string(column.dictionary.type) for column in columns) else pa.int64()
    own = [column.dictionary.cast(kind) for column in columns]
    coded = pa.chunked_array(own, type=kind).dictionary_encode().unify_dictionaries().chunks
    distinct = coded[0].dictionary
    order = pc.sort_indices(distinct).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    codes = [rank[of.indices.to_numpy()][column.indices.to_numpy()] for of, column in zip(coded, columns, strict=True)]
    return distinct.take(pa.array(order)), codes


def compact(ids: pa.Array, columns: Sequence[np.ndarray]) -> tuple[pa.Array, list[np.ndarray]]:
    """The catalogue without the ids that no column of codes uses any more, and the columns in its new indices."""
    used = np.zeros(len(ids), bool)
    for codes in columns:
        used[codes] = True
    index = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return ids.filter(pa.array(used)), [index[codes] for codes in columns]


def are_integers(ids: pa.Array) -> bool:
    """Whether the ids are int64, not strings."""
    return pa.types.is_integer(ids.type)
