"""The pass by rows: each rank holds its rows of both tables and their edges, and blocks of rows go round in a ring.

M users, N items, D width, m_r and n_r rows that rank r holds of them, W ranks.

For a layer of users, every rank's block of item rows visits every rank, in W steps. A rank adds what its users find in
the visiting block; edges are cut by the block that they lead into, once. A rank's memory is its rows, its sums, and two
blocks: the one in use and the one that arrives meanwhile. (A halo exchange, which brings only the rows that some
neighbour needs, brings nearly all of them here: with power-law degrees most of a block is somebody's neighbour.)
"""

import torch
from torch import Tensor

from infodcl_dist.base.shapes import check_shape
from infodcl_dist.graph.bipartite import Bipartite, Rows
from infodcl_dist.graph.mean_of_layers import Sides, mean_of_layers
from infodcl_dist.graph.neighbour_sum import Precision, inverse_root, neighbour_sum, part_of
from infodcl_dist.parallel.collectives import place, ring_blocks
from infodcl_dist.parallel.ownership import Span, row_spans

ROWS_AT_ONCE = 65_536  # sums that are added to the running ones: 16 MiB of 64 columns


@torch.no_grad()
def by_row(graph: Bipartite, tables: Sides, layers: int, precision: Precision = "float32") -> Sides:
    """Of this rank's whole rows, those of `row_span`: [m_r, D] and [n_r, D]. A collective; `graph` has all edges.

    (Mapped from files, only this rank's part of it is ever read.)
    """
    rank, world_size = place()
    spans = row_spans(graph.users, world_size), row_spans(graph.items, world_size)
    for name, table, held in zip(("users", "items"), tables, spans, strict=True):
        check_shape(name, table, held[rank].size, tables[0].shape[1])
    own = part_of(graph.items_of_user, spans[0][rank]), part_of(graph.users_of_item, spans[1][rank])
    scales = inverse_root(own[0].degrees), inverse_root(own[1].degrees)
    cut = cut_by_block(own[0], spans[1]), cut_by_block(own[1], spans[0])

    def sums(side: int, source: Tensor) -> Tensor:
        return _ring_sum(source, cut[side], [span.size for span in spans[1 - side]])

    return mean_of_layers(tables, scales, sums, layers, precision)


def cut_by_block(rows: Rows, blocks: list[Span]) -> list[Rows]:
    """The same edges by the block that they lead into, counted from the block's first row."""
    parts = []
    for block in blocks:
        inside = (rows.indices >= block.start) & (rows.indices < block.stop)
        before = torch.zeros(inside.shape[0] + 1, dtype=rows.offsets.dtype, device=inside.device)
        torch.cumsum(inside, 0, out=before[1:])
        parts.append(Rows(before[rows.offsets.long()], rows.indices[inside] - block.start))
    return parts


def _ring_sum(source: Tensor, cut: list[Rows], rows: list[int]) -> Tensor:
    """Sums over all blocks, float32 [rows of `cut`, D]. Added as blocks visit: on each rank in another order."""
    count = cut[0].offsets.shape[0] - 1
    total = source.new_zeros(count, source.shape[1], dtype=torch.float32)
    for owner, block in ring_blocks(source, rows):
        for start in range(0, count, ROWS_AT_ONCE):
            span = Span(start, min(start + ROWS_AT_ONCE, count))
            total[span.start : span.stop] += neighbour_sum(block, part_of(cut[owner], span))
    return total
