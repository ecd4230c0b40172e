"""LightGCN propagation: Â = D^-½ A D^-½ applied K times, mean of layers 0 … K (METHOD, inference; He et al., 2020).

M users, N items, C columns that are propagated (all D of an embedding, or the part that a rank holds).

Â needs no stored values: scale the rows, sum the neighbours (an embedding bag), scale the rows. Columns are
independent, so ranks that hold different columns of every node never need to speak.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from infodcl_dist.base.shapes import check_shape
from infodcl_dist.graph.bipartite import Bipartite, Rows
from infodcl_dist.graph.neighbour_sum import inverse_root, neighbour_sum


def propagate(graph: Bipartite, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Mean of layers 0 … `layers` of users [M, C] and items [N, C]; differentiable.

    A node without neighbours gets 0 from every layer but its own.
    """
    check_shape("users", users, graph.users, None)
    check_shape("items", items, graph.items, users.shape[1])
    user_scale = inverse_root(graph.items_of_user.degrees, users.dtype)
    item_scale = inverse_root(graph.users_of_item.degrees, items.dtype)
    user_sum, item_sum = users, items
    for _ in range(layers):
        scaled_users, scaled_items = user_scale * users, item_scale * items
        users = user_scale * _NeighbourSum.apply(scaled_items, graph.items_of_user, graph.users_of_item)
        items = item_scale * _NeighbourSum.apply(scaled_users, graph.users_of_item, graph.items_of_user)
        user_sum, item_sum = user_sum + users, item_sum + items
    return user_sum / (layers + 1), item_sum / (layers + 1)


class _NeighbourSum(torch.autograd.Function):
    """Sum of neighbours' rows; its gradient is the same sum over the transposed graph, not a scatter."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Rows, transposed: Rows) -> Tensor:
        ctx.transposed = transposed
        return neighbour_sum(values, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return neighbour_sum(gradients[0].contiguous(), ctx.transposed), None, None
