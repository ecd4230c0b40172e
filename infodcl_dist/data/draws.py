"""Examples of a batch in compiled loops: the pair at a place in an epoch's order, and an item outside a user's row.

M users, N items, P pairs, B examples.

The arithmetic is that of `base.random`, number by number (tests compare them): there it is a pass over B
numbers an operation, here all operations of an example while it is in registers. Batches are made on the CPU on every
machine.
"""

import numba
import numpy as np

from infodcl_dist.base.random import FEISTEL_ROUNDS, GOLDEN_GAMMA, MULTIPLIER_1, MULTIPLIER_2, half_bits_of
from infodcl_dist.data.rows import CompressedRows

# Numba would make a float of a signed and an unsigned integer, so all arithmetic on bits is unsigned.
_GAMMA, _FIRST, _SECOND = (np.uint64(x % (1 << 64)) for x in (GOLDEN_GAMMA, MULTIPLIER_1, MULTIPLIER_2))
_11, _27, _30, _31, _1 = (np.uint64(x) for x in (11, 27, 30, 31, 1))


def draw_pairs(key: int, positions: np.ndarray, rows: CompressedRows) -> tuple[np.ndarray, np.ndarray]:
    """Users and items, int64 [B] each, of the pairs at `positions` int64 [B] of the permutation that `key` names."""
    users, items = np.empty_like(positions), np.empty_like(positions)
    half_bits = np.uint64(half_bits_of(rows.pair_count))
    _pairs((np.uint64(key % (1 << 64)), half_bits), positions, (rows.offsets, rows.indices), users, items)
    return users, items


def draw_outside(
    key: int, positions: np.ndarray, users: np.ndarray, rows: CompressedRows, item_count: int
) -> np.ndarray:
    """For each of `users` int64 [B] an item outside its row, drawn for `positions` int64 [B]; int64 [B].

    With a row's items i_0 < i_1 < … the n-th item outside them is n + k, where k counts the items with i_k − k ≤ n.
    """
    items = np.empty_like(users)
    _outside((np.uint64(key % (1 << 64)), item_count), positions, users, (rows.offsets, rows.indices), items)
    return items


@numba.njit(cache=True, nogil=True, inline="always")
def _bits(key, counter):  # type: ignore[no-untyped-def]  # numba types it
    x = counter * _GAMMA + key
    x = (x ^ (x >> _30)) * _FIRST
    x = (x ^ (x >> _27)) * _SECOND
    return x ^ (x >> _31)


@numba.njit(cache=True, nogil=True)
def _pairs(permutation, positions, rows, users, items):  # type: ignore[no-untyped-def]
    (key, half_bits), (offsets, indices) = permutation, rows
    length, mask = np.uint64(len(indices)), (_1 << half_bits) - _1
    for k in range(len(positions)):
        value = np.uint64(positions[k])
        while True:
            left, right = value >> half_bits, value & mask
            for number in range(FEISTEL_ROUNDS):
                left, right = right, left ^ (_bits(key + np.uint64(number), right) & mask)
            value = (left << half_bits) | right
            if value < length:
                break
        pair = np.int64(value)
        # The row that the pair stands in is the last that begins at it or before.
        low, high = 0, len(offsets) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if offsets[middle] <= pair:
                low = middle
            else:
                high = middle - 1
        users[k], items[k] = low, indices[pair]


@numba.njit(cache=True, nogil=True)
def _outside(drawn, positions, users, rows, items):  # type: ignore[no-untyped-def]
    (key, item_count), (offsets, indices) = drawn, rows
    for k in range(len(users)):
        start = np.int64(offsets[users[k]])
        degree = np.int64(offsets[users[k] + 1]) - start
        uniform = np.float64(_bits(key, np.uint64(positions[k])) >> _11) * 2.0**-53
        choice = np.int64(uniform * np.float64(item_count - degree))
        items[k] = nth_outside(indices, start, degree, choice)


@numba.njit(cache=True, nogil=True, inline="always")
def nth_outside(indices, start, degree, n):  # type: ignore[no-untyped-def]
    """The n-th item, from 0, outside the row indices[start : start + degree]."""
    smaller, left = 0, degree  # items known to come before the one that is looked for, and those undecided
    while left > 0:
        middle = smaller + left // 2
        # Selected, not branched to: which half it is cannot be foreseen.
        is_below = indices[start + middle] - middle <= n
        smaller = middle + 1 if is_below else smaller
        left = left - left // 2 - 1 if is_below else left // 2
    return n + smaller
