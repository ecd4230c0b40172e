"""Examples of a batch in compiled loops: the pair at a place in an epoch's order, and the items outside a user's row.

M users, N items, P pairs, B examples.

The order's arithmetic is that of `base.random`, number by number (a test compares them): there it is a pass over B
numbers an operation, here all operations of an example while it is in registers. Batches are made on the CPU on every
machine.
"""

import numba
import numpy as np

from infodcl_dist.base.random import FEISTEL_ROUNDS, GOLDEN_GAMMA, MULTIPLIER_1, MULTIPLIER_2, half_bits_of
from infodcl_dist.data.rows import CompressedRows

# Numba would make a float of a signed and an unsigned integer, so all arithmetic on bits is unsigned.
_GAMMA, _FIRST, _SECOND = (np.uint64(x % (1 << 64)) for x in (GOLDEN_GAMMA, MULTIPLIER_1, MULTIPLIER_2))
_27, _30, _31, _1 = (np.uint64(x) for x in (27, 30, 31, 1))


def draw_pairs(key: int, positions: np.ndarray, rows: CompressedRows) -> tuple[np.ndarray, np.ndarray]:
    """Users and items, int64 [B] each, of the pairs at `positions` int64 [B] of the permutation that `key` names."""
    users, items = np.empty_like(positions), np.empty_like(positions)
    half_bits = np.uint64(half_bits_of(rows.pair_count))
    _pairs((np.uint64(key % (1 << 64)), half_bits), positions, (rows.offsets, rows.indices), users, items)
    return users, items


def items_outside(choices: np.ndarray, users: np.ndarray, rows: CompressedRows) -> np.ndarray:
    """For each of `users` int64 [B] the r-th item outside its row, r = `choices` int64 [B] from 0; int64 [B]."""
    items = np.empty_like(users)
    _outside(choices, users, (rows.offsets, rows.indices), items)
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
def _outside(choices, users, rows, items):  # type: ignore[no-untyped-def]
    offsets, indices = rows
    for k in range(len(users)):
        start = np.int64(offsets[users[k]])
        low, high = 0, np.int64(offsets[users[k] + 1]) - start
        while low < high:
            middle = (low + high) // 2
            if indices[start + middle] - middle <= choices[k]:
                low = middle + 1
            else:
                high = middle
        items[k] = choices[k] + low
