"""The pass without gradients, with tables in memory: the mean of layers 0 … K of users and items.

M users, N items, C columns.

Users of a layer come from items of the layer before, and the other way round, so there are two chains that never meet:
u₀ → i₁ → u₂ → … and i₀ → u₁ → i₂ → …. One after the other, they need beside the tables and the running sums one source
and the rows that are made from it, or, between two layers, such rows and the source that is made of them.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from infodcl_dist.base.shapes import check_shape
from infodcl_dist.graph.bipartite import Bipartite
from infodcl_dist.graph.neighbour_sum import Precision, inverse_root, neighbour_sum, rows_to_gather

ROWS_AT_ONCE = 65_536  # that are scaled: 16 MiB of 64 columns

Sides: TypeAlias = tuple[Tensor, Tensor]
"""Of users and of items."""

NeighbourSums: TypeAlias = Callable[[int, Tensor], Tensor]
"""For one side (0: users) the sums over its neighbours among the other side's rows."""


@torch.no_grad()
def by_dimension(graph: Bipartite, tables: Sides, layers: int, precision: Precision = "float32") -> Sides:
    """Of columns that a rank holds of every node, [M, C] and [N, C]: no rank speaks. The tables stay as they were."""
    users, items = tables
    check_shape("users", users, graph.users, None)
    check_shape("items", items, graph.items, users.shape[1])
    sides = graph.items_of_user, graph.users_of_item
    scales = inverse_root(sides[0].degrees, users.dtype), inverse_root(sides[1].degrees, items.dtype)
    return mean_of_layers(tables, scales, lambda side, source: neighbour_sum(source, sides[side]), layers, precision)


@torch.no_grad()
def mean_of_layers(
    tables: Sides, scales: Sides, neighbour_sums: NeighbourSums, layers: int, precision: Precision
) -> Sides:
    """Both chains, whoever holds which rows.

    Args:
        tables: layer 0, the rows that lie here.
        scales: 1/√degree of these rows, a column each.
        neighbour_sums: the product; gets rows of `precision`, gives float32.
        layers: K.
        precision: of the rows that are summed.
    """
    totals = tables[0].clone(), tables[1].clone()
    for start in (0, 1):
        side, rows = start, tables[start]
        for _ in range(layers):
            source = _scaled(rows, scales[side], precision)
            del rows
            side = 1 - side
            rows = neighbour_sums(side, source).mul_(scales[side])
            del source  # before the next one is there
            totals[side].add_(rows)
    return totals[0].div_(layers + 1), totals[1].div_(layers + 1)


def _scaled(rows: Tensor, scale: Tensor, precision: Precision) -> Tensor:
    """A copy, though rows past layer 0 are ours: in `rows_to_gather`'s memory sums over them are faster."""
    source = rows_to_gather(rows.shape[0], rows.shape[1], precision, rows.device)
    # By blocks: on a CPU torch makes a float32 product as large as its bfloat16 target before it rounds.
    for part, factor, target in zip(*(x.split(ROWS_AT_ONCE) for x in (rows, scale, source)), strict=True):
        torch.mul(part, factor, out=target)
    return source
