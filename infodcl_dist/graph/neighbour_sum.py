"""Sums of neighbours' rows, the one product of propagation: an embedding bag over compressed rows, without values.

R rows, S rows that they are neighbours of, C columns, E edges.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Literal

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.parallel.ownership import Span

Precision = Literal["float32", "bfloat16"]
ROW_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Columns of bfloat16 rows that a GPU sums at once, as float32: 128 bytes a row, what its memory brings at a time.
COLUMNS_AT_ONCE = 32


def neighbour_sum(values: Tensor, rows: Rows) -> Tensor:
    """For each row the sum of its neighbours among `values` [S, C], [R, C]; of bfloat16 values a float32 sum.

    torch's embedding bag of bfloat16 rows adds in float32 and then rounds the sum to bfloat16, on a CPU as on a GPU.
    """
    if rows.offsets.shape[0] == 1 or rows.indices.shape[0] == 0:
        kind = torch.float32 if values.dtype == torch.bfloat16 else values.dtype
        return values.new_zeros(rows.offsets.shape[0] - 1, values.shape[1], dtype=kind)
    if values.dtype != torch.bfloat16:
        return _bags(values, rows)
    if values.device.type == "cpu":
        return _sum_of_halves(values, rows)
    chunks = values.split(COLUMNS_AT_ONCE, dim=1)
    return torch.cat([_bags(chunk.float(), rows) for chunk in chunks], dim=1)


def part_of(rows: Rows, span: Span) -> Rows:
    """Some of the rows; views, but for their offsets."""
    offsets = rows.offsets[span.start : span.stop + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return Rows(offsets - first, rows.indices[first:last])


def inverse_root(degrees: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """1/√degree of each row as a column [R, 1]; 0 for a row without neighbours."""
    degrees = degrees.to(dtype)
    return torch.where(degrees > 0, degrees.clamp(min=1).rsqrt(), 0.0)[:, None]


def rows_to_gather(count: int, columns: int, precision: Precision, device: torch.device) -> Tensor:
    """Uninitialized rows [count, columns] that will be gathered from.

    On a CPU NumPy's memory: it asks the system for large pages, torch does not. Gathers of 256 bytes from 2.5 GB take a
    third less time then.
    """
    kind = ROW_TYPES[precision]
    if device.type != "cpu":
        return torch.empty(count, columns, dtype=kind, device=device)
    if precision == "float32":
        return torch.from_numpy(np.empty((count, columns), np.float32))
    return torch.from_numpy(np.empty((count, columns), np.uint16)).view(kind)


def _bags(values: Tensor, rows: Rows) -> Tensor:
    return embedding_bag(rows.indices, values, rows.offsets, mode="sum", include_last_offset=True)


def _sum_of_halves(values: Tensor, rows: Rows) -> Tensor:
    """Of bfloat16 values on a CPU, on all of torch's threads, each of which takes as many edges."""
    bits, offsets, indices = values.contiguous().view(torch.uint16).numpy(), rows.offsets.numpy(), rows.indices.numpy()
    sums = np.empty((len(offsets) - 1, values.shape[1]), np.float32)
    threads = torch.get_num_threads()
    shares = np.searchsorted(offsets, np.linspace(0, len(indices), threads + 1)[1:-1])
    bounds = [0, *(min(int(row), len(sums)) for row in shares), len(sums)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: _add_halves(bits, offsets, indices, sums, part), pairwise(bounds)))
    return torch.from_numpy(sums)


@numba.njit(cache=True, nogil=True)
def _add_halves(bits, offsets, indices, sums, span):  # type: ignore[no-untyped-def]  # numba types it
    """A bfloat16 number is the upper half of a float32 one."""
    for row in range(span[0], span[1]):
        total = sums[row]
        total[:] = 0
        for edge in range(offsets[row], offsets[row + 1]):
            halves = bits[indices[edge]]
            for column in range(len(total)):
                total[column] += np.uint32(np.uint32(halves[column]) << np.uint32(16)).view(np.float32)
