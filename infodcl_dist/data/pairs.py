"""Pairs of coded users and items with what comes along, and the filters on them.

Legend: P pairs, N items. A pair's key is `user · N + item`: one int64 whose order is the order by (user, item).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from infodcl_dist.data.rows import offsets_of, row_blocks

# Pairs that are sorted at once, with some 60 bytes of temporary arrays each; assumption.
BLOCK_PAIRS = 1 << 23
THREADS = 2  # that sort beside each other: NumPy's sorts let go of Python's lock; more would multiply those arrays


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
        """The pairs by (user, item), each once: the earliest of equal ones, then the lowest rated, in any order."""
        user_count, item_count = (int(codes.max(initial=0)) + 1 for codes in (self.users, self.items))
        spans = row_blocks(offsets_of(counts(self.users, user_count), len(self)), BLOCK_PAIRS)
        with ThreadPoolExecutor(THREADS) as threads:
            blocks = list(threads.map(lambda span: self._sorted_block(span, item_count), spans))
        return Pairs({name: np.concatenate([block.columns[name] for block in blocks]) for name in self.columns})

    def _sorted_block(self, span: tuple[int, int], item_count: int) -> "Pairs":
        chosen = np.flatnonzero((self.users >= span[0]) & (self.users < span[1]))
        keys = pair_keys(self.users[chosen], self.items[chosen], item_count)
        order = np.argsort(keys, kind="stable")
        is_first = np.diff(keys[order], prepend=-1) != 0
        if not is_first.all():  # a sort by more than the key takes several times as long, and is seldom needed
            others = [self.columns[name][chosen] for name in ("rating", "time") if name in self.columns]
            order = np.lexsort((*others, keys))
        return self.take(chosen[order[is_first]])


def counts(codes: np.ndarray, size: int) -> np.ndarray:
    """How often each code occurs, int64 [size]; NumPy's own would first make an int64 copy of all codes."""
    found = np.zeros(size, np.int64)
    for start in range(0, len(codes), BLOCK_PAIRS):
        found += np.bincount(codes[start : start + BLOCK_PAIRS], minlength=size)
    return found


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
    """The largest set of pairs in which each user and each item has k of them, as a mask [P]."""
    kept = np.ones(len(users), bool)
    of_user, of_item = (counts(codes, int(codes.max(initial=0)) + 1) for codes in (users, items))
    is_fixed = False
    while not is_fixed:
        is_fixed = True
        for start in range(0, len(users), BLOCK_PAIRS):
            block = slice(start, start + BLOCK_PAIRS)
            enough = (of_user[users[block]] >= k) & (of_item[items[block]] >= k)
            gone = kept[block] & ~enough
            if gone.any():
                # The k-core is one, whatever the order in which pairs go; so what goes counts no more at once.
                of_user -= np.bincount(users[block][gone], minlength=len(of_user))
                of_item -= np.bincount(items[block][gone], minlength=len(of_item))
                kept[block] &= enough
                is_fixed = False
    return kept
