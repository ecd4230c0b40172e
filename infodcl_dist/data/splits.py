"""Who goes to train, validation and test: pure functions from arrays of pairs to an array of splits.

Legend: P pairs. A user's draw depends on the seed and on the order of the pairs alone, so callers sort the pairs first.
"""

from fractions import Fraction
from math import lcm

import numpy as np

from infodcl_dist.base.errors import UserError

TRAIN, VALID, TEST, DROPPED = 0, 1, 2, -1
SPLIT_NAMES = ("train", "valid", "test")

Shares = tuple[int, int, int]


def parse_ratio(text: str) -> Shares:
    """`8:1:1` or `0.8:0.1:0.1` to whole shares of train, validation and test.

    Raises:
        UserError: not three positive numbers.
    """
    try:
        train, valid, test = (Fraction(part.strip()) for part in text.split(":"))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--ratio {text}: write three positive numbers, as 8:1:1") from None
    if min(train, valid, test) <= 0:
        raise UserError(f"--ratio {text}: each part must be above 0, as 8:1:1")
    scale = lcm(train.denominator, valid.denominator, test.denominator)
    return int(train * scale), int(valid * scale), int(test * scale)


def split_by_ratio(users: np.ndarray, shares: Shares, seed: int) -> np.ndarray:
    """Draws each user's validation and test pairs at random.

    A user of n pairs gives n · share, rounded half up, to each of the two (5 pairs at 8:1:1 become 3, 1, 1) and always
    keeps one pair in train; validation yields before test does.

    Args:
        users: integer codes [P].
        shares: train, validation, test; a share of 0 draws none.
        seed: of the draw, ≥ 0.

    Returns:
        TRAIN, VALID or TEST, int8 [P].
    """
    order = np.lexsort((_random_keys(len(users), seed), users))
    rank, size = _rank_and_size(users[order])
    total = sum(shares)
    test = np.minimum((2 * size * shares[2] + total) // (2 * total), size - 1)
    valid = np.minimum((2 * size * shares[1] + total) // (2 * total), size - 1 - test)
    split = np.empty(len(users), np.int8)
    split[order] = np.where(rank < test, TEST, np.where(rank < test + valid, VALID, TRAIN))
    return split


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
    if time is None:
        raise UserError(
            "--split temporal: there is no time column; name it with --time-column, or take another --split"
        )
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
        users: integer codes [P].
        items: integer codes [P]; of pairs at one time the larger item is the later.
        time: of each pair [P]; without it the order is drawn.
        seed: of that draw, ≥ 0.

    Returns:
        TRAIN, VALID or TEST, int8 [P].
    """
    order = np.lexsort((items, _random_keys(len(users), seed) if time is None else time, users))
    rank, size = _rank_and_size(users[order])
    after = np.where(size < 3, 2, size - 1 - rank)
    split = np.empty(len(users), np.int8)
    split[order] = np.where(after == 0, TEST, np.where(after == 1, VALID, TRAIN))
    return split


def _random_keys(pairs: int, seed: int) -> np.ndarray:
    """A key a pair, uint64 [P], from a bit generator's raw stream, which is the same in every NumPy."""
    return np.random.Philox(key=seed).random_raw(pairs)


def _rank_and_size(users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For users in order [P]: the rank of each pair among its user's, from 0, and how many those are, int64 [P]."""
    opens = np.flatnonzero(np.diff(users, prepend=users[:1] - 1) != 0)
    sizes = np.diff(opens, append=len(users))
    return np.arange(len(users)) - np.repeat(opens, sizes), np.repeat(sizes, sizes)
