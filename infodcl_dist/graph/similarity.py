"""Jaccard similarity of nodes by the neighbours they share, as blocked sparse products; never a dense square.

R nodes on one side (items over their users, or users over their items), S similar pairs of a block.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.parallel.ownership import Span

# Multiply-adds of one block's product; its result holds at most as many entries, 12 bytes each.
BLOCK_PRODUCTS = 2**25


def incidence(rows: Rows, columns: int) -> sparse.csr_matrix:
    """The 0/1 matrix [R, columns] of compressed rows, float32."""
    indices, offsets = rows.indices.numpy(), rows.offsets.numpy()
    values = np.ones(len(indices), dtype=np.float32)
    return sparse.csr_matrix((values, indices, offsets), shape=(len(offsets) - 1, columns))


def jaccard_blocks(matrix: sparse.csr_matrix, span: Span) -> Iterator[tuple[Span, sparse.csr_matrix]]:
    """Jaccard similarity of rows `span` of a 0/1 matrix [R, C] to all rows, block by block.

    Yields:
        (rows of the block, similarities [block, R] as sparse rows with entries > 0, the diagonal left out).
    """
    transposed = matrix.T.tocsr()
    sizes = np.diff(matrix.indptr)
    # float64: sums of products pass float32's 2²⁴ long before they are large.
    products = np.concatenate([[0.0], np.cumsum(matrix.astype(np.float64) @ np.diff(transposed.indptr))])
    start = span.start
    while start < span.stop:
        limit = products[start] + BLOCK_PRODUCTS
        stop = min(span.stop, max(start + 1, int(np.searchsorted(products, limit, side="right")) - 1))
        shared = (matrix[start:stop] @ transposed).tocoo()
        other = shared.row + start != shared.col
        row, column, common = shared.row[other], shared.col[other], shared.data[other].astype(np.float64)
        similarity = common / (sizes[row + start] + sizes[column] - common)
        shape = (stop - start, matrix.shape[0])
        yield Span(start, stop), sparse.csr_matrix((similarity, (row, column)), shape=shape)
        start = stop


def top_per_row(similarity: sparse.csr_matrix, k: int) -> sparse.csr_matrix:
    """Keeps the k largest entries of each row, of equal ones those with the lowest column."""
    entries = similarity.tocoo()
    order = np.lexsort((entries.col, -entries.data, entries.row))
    row, column, value = entries.row[order], entries.col[order], entries.data[order]
    first = np.searchsorted(row, row, side="left")
    kept = np.arange(len(row)) - first < k
    return sparse.csr_matrix((value[kept], (row[kept], column[kept])), shape=similarity.shape)
