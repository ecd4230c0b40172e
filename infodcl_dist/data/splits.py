"""Who goes to train, validation and test: pure functions from arrays of pairs to an array of splits.

Legend: P pairs, those of a user together. A user's draw depends on the seed and on the order of the pairs alone.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from math import lcm

import numpy as np

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.pairs import BLOCK_PAIRS, THREADS

TRAIN, VALID, TEST, DROPPED = 0, 1, 2, -1
SPLIT_NAMES = ("train", "valid", "test")

Shares = tuple[int, int, int]
MOST_SHARES = 10**6  # in all: twice a share of a user's pairs, times their number below 2³¹, must fit int64


def parse_ratio(text: str) -> Shares:
    """`8:1:1` or `0.8:0.1:0.1` to whole shares of train, validation and test; finer ones are rounded to millionths.

    Raises:
        UserError: not three positive numbers, or one is less than a millionth of all.
    """
    try:
        parts = [Fraction(part.strip()) for part in text.split(":")]
        train, valid, test = parts
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--ratio {text}: write three positive numbers, as 8:1:1") from None
    if min(parts) <= 0 or min(parts) * MOST_SHARES < sum(parts):
        raise UserError(f"--ratio {text}: each part must be above 0, and a millionth of all or more, as 8:1:1")
    scale = Fraction(lcm(*(part.denominator for part in parts)))
    if sum(parts) * scale > MOST_SHARES:
        scale = Fraction(MOST_SHARES) / sum(parts)
    return round(train * scale), round(valid * scale), round(test * scale)


def split_by_ratio(users: np.ndarray, shares: Shares, seed: int) -> np.ndarray:
    """Draws each user's validation and test pairs at random.

    A user of n pairs gives n · share, rounded half up, to each of the two (5 pairs at 8:1:1 become 3, 1, 1) and always
    keeps one pair in train; validation yields before test does.

    Args:
        users: integer codes [P], ascending.
        shares: train, validation, test; a share of 0 draws none.
        seed: of the draw, ≥ 0.

    Returns:
        TRAIN, VALID or TEST, int8 [P].
    """
    return _by_blocks(users, lambda block: _by_shares(users[block], (_random_keys(seed, block),), shares))


def split_by_user_time(users: np.ndarray, items: np.ndarray, time: np.ndarray | None, shares: Shares) -> np.ndarray:
    """Each user's newest pairs to test, the ones before to validation, as many as `split_by_ratio` draws.

    Args:
        users: integer codes [P], ascending.
        items: integer codes [P]; of pairs at one time the larger item is the newer.
        time: of each pair [P].
        shares: train, validation, test.

    Returns:
        TRAIN, VALID or TEST, int8 [P].

    Raises:
        UserError: there is no time.
    """
    time = _required(time)
    return _by_blocks(users, lambda block: _by_shares(users[block], _newest_first(items[block], time[block]), shares))


def split_by_time(users: np.ndarray, items: np.ndarray, time: np.ndarray | None, shares: Shares) -> np.ndarray:
    """Cuts the whole at two moments: the oldest pairs train, the newest test; one moment is never cut in two.

    Args:
        users: integer codes [P].
        items: integer codes [P].
        time: of each pair [P].
        shares: train, validation, test.

    Returns:
        TRAIN, VALID, TEST, or DROPPED for a later pair whose user or item train does not know; int8 [P].

    Raises:
        UserError: there is no time.
    """
    time = _required(time)
    train, valid, test = shares
    ordered, pairs = np.sort(time), len(time)
    first_valid, first_test = (ordered[pairs * part // (train + valid + test)] for part in (train, train + valid))
    split = np.where(time < first_valid, TRAIN, np.where(time < first_test, VALID, TEST)).astype(np.int8)
    known = np.isin(users, users[split == TRAIN]) & np.isin(items, items[split == TRAIN])
    split[(split != TRAIN) & ~known] = DROPPED
    return split


def split_leave_one_out(users: np.ndarray, items: np.ndarray, time: np.ndarray | None, seed: int) -> np.ndarray:
    """Each user's last pair to test and the one before to validation; users of fewer than 3 pairs train alone.

    Args:
        users: integer codes [P], ascending.
        items: integer codes [P]; of pairs at one time the larger item is the later.
        time: of each pair [P]; without it the order is drawn.
        seed: of that draw, ≥ 0.

    Returns:
        TRAIN, VALID or TEST, int8 [P].
    """

    def split(block: slice) -> np.ndarray:
        keys = (items[block], _random_keys(seed, block) if time is None else time[block])
        rank, size = _rank_and_size(users[block], keys)
        after = np.where(size < 3, 2, size - 1 - rank)
        return np.where(after == 0, TEST, np.where(after == 1, VALID, TRAIN)).astype(np.int8)

    return _by_blocks(users, split)


def _by_blocks(users: np.ndarray, split: Callable[[slice], np.ndarray]) -> np.ndarray:
    """The split of all pairs, from that of blocks of whole users, so that temporary arrays stay small."""
    found, blocks, start = np.empty(len(users), np.int8), [], 0
    while start < len(users):
        last = users[min(start + BLOCK_PAIRS, len(users)) - 1]
        blocks.append(slice(start, int(np.searchsorted(users, last, side="right"))))
        start = blocks[-1].stop
    with ThreadPoolExecutor(THREADS) as threads:
        for block, part in zip(blocks, threads.map(split, blocks), strict=True):
            found[block] = part
    return found


def _by_shares(users: np.ndarray, keys: tuple[np.ndarray, ...], shares: Shares) -> np.ndarray:
    """The first of each user's pairs to test, the next to validation, as many as the shares say; [P]."""
    rank, size = _rank_and_size(users, keys)
    total = sum(shares)
    test = np.minimum((2 * size * shares[2] + total) // (2 * total), size - 1)
    valid = np.minimum((2 * size * shares[1] + total) // (2 * total), size - 1 - test)
    return np.where(rank < test, TEST, np.where(rank < test + valid, VALID, TRAIN)).astype(np.int8)


def _rank_and_size(users: np.ndarray, keys: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For each pair its rank among its user's by the last key, then the one before, and how many those are, [P]."""
    order = np.lexsort((*keys, users))
    opens = np.flatnonzero(np.diff(users, prepend=users[:1] - 1) != 0)
    sizes = np.diff(opens, append=len(users))
    rank = np.empty(len(users), np.int64)
    rank[order] = np.arange(len(users)) - np.repeat(opens, sizes)
    return rank, np.repeat(sizes, sizes)


def _newest_first(items: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, ...]:
    """Keys by which the newest pair comes first; of integers the complement, as the smallest has no negative."""
    return ~items, ~time if np.issubdtype(time.dtype, np.integer) else -time


def _required(time: np.ndarray | None) -> np.ndarray:
    if time is None:
        raise UserError(
            "--split temporal: there is no time column; name it with --time-column, or take another --split"
        )
    return time


def _random_keys(seed: int, block: slice) -> np.ndarray:
    """A key for each pair of a block, uint64, from a bit generator's raw stream, which is the same in every NumPy."""
    counters, rest = divmod(block.start, 4)  # Philox makes four numbers a counter
    stream = np.random.Philox(key=seed).advance(counters)
    return stream.random_raw(rest + block.stop - block.start)[rest:]
