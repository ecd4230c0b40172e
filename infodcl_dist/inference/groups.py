"""Groups of items by popularity, and of users by the length of their history, that metrics are broken down by.

M users, N items.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from infodcl_dist.graph.bipartite import Bipartite

ITEM_GROUPS = ("head", "middle", "tail")
HISTORY_BOUNDS = (1, 5, 10, 20, 50)  # least training items of each group of users but the first
USER_GROUPS = ("0", "1-4", "5-9", "10-19", "20-49", "50+")


@dataclass(frozen=True)
class Groups:
    """Which group each item and each user is in."""

    of_items: Tensor  # index into ITEM_GROUPS, int64 [N]
    of_users: Tensor  # index into USER_GROUPS, int64 [M]


def group_by_training(graph: Bipartite) -> Groups:
    """Groups by training interactions.

    Items: the most popular come first (of equally popular ones the lower id); `head` are the first that together have a
    third of all interactions, `middle` go on to two thirds, `tail` are the rest. An item belongs where the interactions
    before it end. Users: by how many training items they have, see `USER_GROUPS`.
    """
    degrees = graph.users_of_item.degrees.long()
    order = torch.argsort(-degrees, stable=True)
    before = torch.cumsum(degrees[order], 0) - degrees[order]
    third = torch.div(3 * before, degrees.sum().clamp(min=1), rounding_mode="floor").clamp(max=2)
    of_items = torch.empty_like(third)
    of_items[order] = third
    bounds = torch.tensor(HISTORY_BOUNDS, device=degrees.device)
    of_users = torch.bucketize(graph.items_of_user.degrees.long(), bounds, right=True)
    return Groups(of_items, of_users)
