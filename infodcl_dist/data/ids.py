"""The user's ids to indices 0…n-1 and back: sorted ascending, integers by value, strings by code point.

Legend: P rows of a column, n distinct ids.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def encode(columns: Sequence[pa.Array | pa.ChunkedArray]) -> tuple[pa.Array, list[np.ndarray]]:
    """One catalogue over several columns of ids.

    Where one column is of strings, all are: integers were read only where nothing was lost.

    Returns:
        The distinct ids [n], ascending, and for each column the indices int32 [P].
    """
    kind = pa.string() if any(pa.types.is_string(column.type) for column in columns) else pa.int64()
    chunks = [chunk.cast(kind) for column in columns for chunk in getattr(column, "chunks", [column])]
    # Chunk by chunk: one array of strings holds 2 GB at most.
    coded = pa.chunked_array(chunks, type=kind).dictionary_encode().unify_dictionaries().chunks
    distinct = coded[0].dictionary
    order = pc.sort_indices(distinct).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    codes = np.concatenate([rank[chunk.indices.to_numpy()] for chunk in coded])
    ends = np.cumsum([len(column) for column in columns])[:-1]
    return distinct.take(pa.array(order)), np.split(codes, ends)


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
