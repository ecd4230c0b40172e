"""Pairs of coded users and items with what comes along, and the filters on them.

Legend: P pairs, N items. A pair's key is `user · N + item`: one int64 whose order is the order by (user, item).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pairs:
    """Columns of equal length P: `user` and `item` int32, perhaps `rating` float64 and `time` int64 or float64."""

    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.users)

    @property
    def users(self) -> np.ndarray:
        """User codes, int32 [P]."""
        return self.columns["user"]

    @property
    def items(self) -> np.ndarray:
        """Item codes, int32 [P]."""
        return self.columns["item"]

    def take(self, chosen: np.ndarray) -> "Pairs":
        """The pairs at indices, or where a mask is true."""
        return Pairs({name: column[chosen] for name, column in self.columns.items()})

    def sorted_without_duplicates(self) -> "Pairs":
        """The pairs by (user, item), each once; of equal ones the first stays."""
        keys = pair_keys(self.users, self.items, int(self.items.max(initial=0)) + 1)
        _, first = np.unique(keys, return_index=True)
        return self.take(first)


def pair_keys(users: np.ndarray, items: np.ndarray, item_count: int) -> np.ndarray:
    """One number a pair, int64 [P], in the order of (user, item)."""
    return users.astype(np.int64) * item_count + items


def first_shared(sorted_keys: np.ndarray, keys: np.ndarray) -> int | None:
    """The index in `keys` of the first that stands in `sorted_keys` too, or None."""
    if len(sorted_keys) == 0:
        return None
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    shared = np.flatnonzero(sorted_keys[place] == keys)
    return int(shared[0]) if shared.size else None


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Indices of the largest set of pairs in which each user and each item has k of them, ascending int64."""
    kept = np.arange(len(users))
    while True:
        kept_users, kept_items = users[kept], items[kept]
        enough = (np.bincount(kept_users)[kept_users] >= k) & (np.bincount(kept_items)[kept_items] >= k)
        if enough.all():
            return kept
        kept = kept[enough]
