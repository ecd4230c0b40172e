"""The bipartite user-item graph of training pairs, in compressed rows from both sides."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Compressed sparse rows without values: row r's neighbours are indices[offsets[r] : offsets[r + 1]], ascending."""

    offsets: Tensor  # int64 or int32 [R + 1]
    indices: Tensor  # of the same type, [E]

    @property
    def degrees(self) -> Tensor:
        """Neighbours a row, [R]."""
        return self.offsets[1:] - self.offsets[:-1]

    def to(self, device: torch.device) -> "Rows":
        """The same on a device."""
        return Rows(self.offsets.to(device), self.indices.to(device))


@dataclass(frozen=True)
class Bipartite:
    """Users' items and items' users: M users, N items, E edges."""

    items_of_user: Rows
    users_of_item: Rows

    @property
    def users(self) -> int:
        """M."""
        return self.items_of_user.offsets.shape[0] - 1

    @property
    def items(self) -> int:
        """N."""
        return self.users_of_item.offsets.shape[0] - 1

    def to(self, device: torch.device) -> "Bipartite":
        """The same on a device."""
        return Bipartite(self.items_of_user.to(device), self.users_of_item.to(device))


def build_bipartite(users: np.ndarray, items: np.ndarray, user_count: int, item_count: int) -> Bipartite:
    """The graph of E pairs `users`, `items` (integers [E]), sorted by (user, item) and distinct."""
    by_item = np.argsort(items, kind="stable")
    return Bipartite(
        items_of_user=_rows(users, items, user_count),
        users_of_item=_rows(items[by_item], users[by_item], item_count),
    )


def _rows(sorted_rows: np.ndarray, columns: np.ndarray, row_count: int) -> Rows:
    # embedding_bag wants offsets and indices of one type; int32 halves the traffic as long as it can count the edges.
    kind = np.int32 if len(columns) < 2**31 else np.int64
    offsets = np.zeros(row_count + 1, dtype=kind)
    np.cumsum(np.bincount(sorted_rows, minlength=row_count), out=offsets[1:])
    return Rows(torch.from_numpy(offsets), torch.from_numpy(columns.astype(kind)))
