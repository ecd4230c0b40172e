"""Similarity of nodes by the neighbours they share; a row at a time, never a dense square.

R rows (items over their users, or users over their items), C columns they are linked with, S similar pairs of a block.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numba
import numpy as np
import torch
from scipy import sparse

from infodcl_dist.data.rows import row_blocks
from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.parallel.ownership import Span

Measure = Literal["jaccard", "cosine"]
Job = TypeVar("Job")
Result = TypeVar("Result")

# Of one block: additions, which are the entries that a product of sparse matrices holds at most, and places for what
# is kept of its rows; 12 bytes each.
BLOCK_PRODUCTS = 2**25


@dataclass(frozen=True)
class Sets:
    """Every row's set of columns, and every column's set of rows, of which hubs are left out.

    Attributes:
        rows, columns: the two sides; `rows` as they were given, `columns` without the entries of hubs.
        sizes: of the rows' sets, hubs not counted, int64 [R].
        hubs: how many columns were left out.
    """

    rows: Rows
    columns: Rows
    sizes: np.ndarray
    hubs: int

    def products(self, span: Span) -> np.ndarray:
        """Additions that the span's rows before each take, float64 [span + 1]: of a row, the sizes of its columns."""
        offsets, indices = self.rows.offsets.numpy(), self.rows.indices.numpy()
        found: np.ndarray = _products(offsets, indices, self.columns.offsets.numpy(), (span.start, span.stop))
        return found


def build_sets(rows: Rows, columns: Rows, hub_cap: int | None) -> Sets:
    """The sets of two sides of one graph.

    Args:
        rows: for each of R its columns.
        columns: the same pairs from the other side.
        hub_cap: a column with more rows than that is a hub, and counts in no similarity: what nearly all share tells
            little, and costs the square of its rows. None: no column is.
    """
    degrees = columns.degrees
    if hub_cap is None or int(degrees.max()) <= hub_cap:
        return Sets(rows, columns, rows.degrees.numpy().astype(np.int64), 0)
    kept = degrees <= hub_cap
    offsets = torch.zeros_like(columns.offsets)
    torch.cumsum(degrees * kept, 0, out=offsets[1:])
    without = Rows(offsets, columns.indices[kept.repeat_interleave(degrees)])
    sizes = np.bincount(without.indices.numpy(), minlength=len(rows.offsets) - 1)
    return Sets(rows, without, sizes.astype(np.int64), int((~kept).sum()))


def nearest_blocks(sets: Sets, span: Span, k: int, measure: Measure) -> Iterator[tuple[Span, sparse.csr_matrix]]:
    """The k rows most similar to each of `span`, of equally similar ones the lowest; on all of torch's threads.

    Yields:
        (rows of the block, similarities [block, R] > 0 as sparse rows with ascending columns).
    """
    sides = [(side.offsets.numpy(), side.indices.numpy()) for side in (sets.rows, sets.columns)]

    def block(rows: Span) -> tuple[Span, sparse.csr_matrix]:
        counts, columns, values = _nearest(*sides, sets.sizes, (rows.start, rows.stop), (k, measure == "cosine"))
        found = np.arange(k) < counts[:, None]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        shape = (rows.size, len(sets.sizes))
        nearest = sparse.csr_matrix((values[found], columns[found], offsets), shape=shape)
        nearest.sort_indices()
        return rows, nearest

    yield from _in_threads(block, _blocks(sets, span, k), torch.get_num_threads())


def similarity_blocks(sets: Sets, span: Span, measure: Measure) -> Iterator[tuple[Span, sparse.csr_matrix]]:
    """Similarity of rows `span` to all rows, block by block, by sparse products.

    Yields:
        (rows of the block, similarities [block, R] as sparse rows with entries > 0, the diagonal left out).
    """
    columns, count = incidence(sets.columns, len(sets.sizes)), len(sets.columns.offsets) - 1
    for rows in _blocks(sets, span, 1):
        # (Of the hubs that stand in them `columns` has no row.)
        shared = (incidence(_part(sets.rows, rows), count) @ columns).tocoo()
        other = shared.row + rows.start != shared.col
        row, column, common = shared.row[other], shared.col[other], shared.data[other].astype(np.float64)
        sizes = sets.sizes[row + rows.start], sets.sizes[column]
        either = np.sqrt(sizes[0] * sizes[1].astype(np.float64)) if measure == "cosine" else sum(sizes) - common
        shape = (rows.size, len(sets.sizes))
        yield rows, sparse.csr_matrix((common / either, (row, column)), shape=shape)


def _part(rows: Rows, span: Span) -> Rows:
    offsets = rows.offsets[span.start : span.stop + 1]
    return Rows(offsets - offsets[0], rows.indices[offsets[0] : offsets[-1]])


def incidence(rows: Rows, columns: int) -> sparse.csr_matrix:
    """The 0/1 matrix [R, columns] of compressed rows, float32."""
    indices, offsets = rows.indices.numpy(), rows.offsets.numpy()
    values = np.ones(len(indices), dtype=np.float32)
    return sparse.csr_matrix((values, indices, offsets), shape=(len(offsets) - 1, columns))


def _blocks(sets: Sets, span: Span, kept: int) -> Iterator[Span]:
    """Spans of rows with at most `BLOCK_PRODUCTS` additions and places, `kept` a row; or of one row."""
    costs = sets.products(span) + kept * np.arange(span.size + 1)
    for start, stop in row_blocks(costs, BLOCK_PRODUCTS):
        yield Span(span.start + start, span.start + stop)


def _in_threads(work: Callable[[Job], Result], jobs: Iterable[Job], count: int) -> Iterator[Result]:
    """Results in the order of the jobs, of which two a thread are begun or done beyond those that were taken.

    (`Executor.map` begins all at once: before a slow consumer all results would pile up.)
    """
    begun: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count) as threads:
        try:
            for job in jobs:
                if len(begun) == 2 * count:
                    yield begun.popleft().result()
                begun.append(threads.submit(work, job))
            while begun:
                yield begun.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)  # when nobody wants the rest


@numba.njit(cache=True)
def _products(offsets, indices, column_offsets, span):  # type: ignore[no-untyped-def]  # numba types it
    """What `Sets.products` gives; by a loop, which makes no array of the graph's size."""
    first, last = span
    before = np.zeros(last - first + 1)  # float64: the sums pass float32's 2²⁴ long before they are large
    for row in range(first, last):
        products = 0.0
        for column in indices[offsets[row] : offsets[row + 1]]:
            products += column_offsets[column + 1] - column_offsets[column]
        before[row - first + 1] = before[row - first] + products
    return before


@numba.njit(cache=True, nogil=True)
def _nearest(rows, columns, sizes, span, choices):  # type: ignore[no-untyped-def]  # numba types it
    """Of each row of a span how many are near, at most k, which they are, and how similar, best first.

    One counter a row is enough: a row's neighbours are counted, compared, and their counters set back to 0.
    """
    (offsets, indices), (column_offsets, column_indices), (first, last) = rows, columns, span
    k, is_cosine = choices
    shared = np.zeros(len(sizes), np.int32)
    touched = np.empty(len(sizes), np.int32)
    counts = np.zeros(last - first, np.int64)
    nearest = np.empty((last - first, k), np.int32)
    similarity = np.empty((last - first, k), np.float64)
    for row in range(first, last):
        others = 0
        for column in indices[offsets[row] : offsets[row + 1]]:
            for other in column_indices[column_offsets[column] : column_offsets[column + 1]]:
                if shared[other] == 0:
                    touched[others] = other
                    others += 1
                shared[other] += 1
        for other in touched[:others]:
            common, product = float(shared[other]), float(sizes[row]) * float(sizes[other])
            shared[other] = 0
            either = np.sqrt(product) if is_cosine else float(sizes[row] + sizes[other]) - common
            if other != row:
                mine = row - first
                counts[mine] = _insert(nearest[mine], similarity[mine], counts[mine], other, common / either)
    return counts, nearest, similarity


@numba.njit(cache=True, nogil=True)
def _insert(nearest, similarity, kept, other, value):  # type: ignore[no-untyped-def]
    """Puts a row where it belongs in a list of at most k, best first, and returns how long the list is then."""
    place = kept
    while place > 0:
        before, at = similarity[place - 1], nearest[place - 1]
        if before > value or (before == value and at < other):
            break
        if place < len(nearest):
            similarity[place], nearest[place] = before, at
        place -= 1
    if place == len(nearest):
        return kept
    similarity[place], nearest[place] = value, other
    return min(kept + 1, len(nearest))
