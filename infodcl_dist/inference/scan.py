"""The inner loops of ranking on a CPU, compiled: which scores of a block are good enough for their users' lists.

B users of a block, T items of a tile, D width, K list length.

A list is a heap whose root is the worst kept item, so that one comparison with the root turns nearly every item away.
"""

import numba
import numpy as np

LANES = 32  # scores compared at once; some of them are looked at one by one only if any passes


@numba.njit(cache=True, nogil=True)
def keep_better(scores, tile, users, lists):  # type: ignore[no-untyped-def]  # numba types it
    """Puts the items of a tile that belong there into the users' lists.

    Args:
        scores: their inner products in float32, in any order of summation, [B, T].
        tile: (rows float32 [T, D], item ids int64 ascending [T]).
        users: (rows float32 [B, D], how far `scores` may be off float32 [B], offsets int64 [B + 1] into seen items,
            seen items int64, of each user ascending).
        lists: (scores float32 [B, K], items int64 [B, K]), heaps; changed in place.
    """
    (rows, ids), (vectors, slack, seen_offsets, seen), (kept, items) = tile, users, lists
    count = len(ids)
    for user in range(len(vectors)):
        of_user = scores[user]
        bar = np.float32(kept[user, 0] - slack[user])
        mine = seen[seen_offsets[user] : seen_offsets[user + 1]]
        if kept[user, 0] == -np.inf and slack[user] > 0:
            bar = np.float32(_surely_reached(of_user, kept.shape[1] + len(mine)) - 2 * slack[user])
        for start in range(0, count, LANES):
            stop = min(start + LANES, count)
            if stop - start == LANES and not _any_above(of_user[start:stop], bar):
                continue
            for place in range(start, stop):
                if of_user[place] > bar:
                    score, item = inner_product(vectors[user], rows[place]), ids[place]
                    if _worse(kept[user, 0], items[user, 0], score, item) and not _holds(mine, item):
                        kept[user, 0], items[user, 0] = score, item
                        _sink(kept[user], items[user], len(kept[user]))
                        bar = max(bar, np.float32(kept[user, 0] - slack[user]))


@numba.njit(cache=True, nogil=True)
def sort_lists(kept, items):  # type: ignore[no-untyped-def]
    """Turns heaps [B, K] into lists, best first, in place."""
    for user in range(len(kept)):
        for last in range(len(kept[user]) - 1, 0, -1):
            _swap(kept[user], items[user], 0, last)
            _sink(kept[user], items[user], last)


@numba.njit(cache=True, nogil=True)
def inner_product(one, other):  # type: ignore[no-untyped-def]
    """The inner product of two float32 rows [D], summed in float64 in one fixed order, rounded to float32.

    A product of two float32 numbers is exact in float64, so a machine's fused multiply-add changes nothing.
    """
    a = b = c = d = e = f = g = h = 0.0
    whole = len(one) // 8 * 8
    for i in range(0, whole, 8):  # eight sums side by side fill a vector register
        a += np.float64(one[i]) * np.float64(other[i])
        b += np.float64(one[i + 1]) * np.float64(other[i + 1])
        c += np.float64(one[i + 2]) * np.float64(other[i + 2])
        d += np.float64(one[i + 3]) * np.float64(other[i + 3])
        e += np.float64(one[i + 4]) * np.float64(other[i + 4])
        f += np.float64(one[i + 5]) * np.float64(other[i + 5])
        g += np.float64(one[i + 6]) * np.float64(other[i + 6])
        h += np.float64(one[i + 7]) * np.float64(other[i + 7])
    for i in range(whole, len(one)):
        a += np.float64(one[i]) * np.float64(other[i])
    return np.float32(((a + b) + (c + d)) + ((e + f) + (g + h)) + 0.0)  # + 0.0 makes −0.0 the same score as 0.0


@numba.njit(cache=True, nogil=True)
def _surely_reached(scores, wanted):  # type: ignore[no-untyped-def]
    """A score that at least so many of these reach; −inf where there are fewer.

    Of as many items as there are groups, those with the groups' highest scores, `wanted` reach the `wanted`-th highest
    of these. So a list that is still empty starts with a bar that not many more than it wants can take. Twice the slack
    lies below it: these items' scores may be lower by one, and another's higher by one.
    """
    groups = 4 * wanted  # assumption: then some 1.15 times as many pass as are wanted
    if len(scores) < 2 * groups:
        return np.float32(-np.inf)
    highest = scores[:groups].copy()
    for start in range(groups, len(scores) - groups + 1, groups):
        for group in range(groups):
            score = scores[start + group]
            highest[group] = score if score > highest[group] else highest[group]
    best, places = np.full(wanted, -np.inf, np.float32), np.zeros(wanted, np.int64)
    for score in highest:  # a heap: compiling np.partition would take five seconds
        if score > best[0]:
            best[0] = score
            _sink(best, places, wanted)
    return best[0]


@numba.njit(cache=True, nogil=True)
def _any_above(scores, bar):  # type: ignore[no-untyped-def]
    """Whether one of `LANES` scores is above the bar; without a branch a score, so that it is a few instructions."""
    found = 0
    for place in range(LANES):
        found |= np.int32(scores[place] > bar)
    return found != 0


@numba.njit(cache=True, nogil=True)
def _worse(score, item, other_score, other_item):  # type: ignore[no-untyped-def]
    return score < other_score or (score == other_score and item > other_item)


@numba.njit(cache=True, nogil=True)
def _holds(ascending, item):  # type: ignore[no-untyped-def]
    place = np.searchsorted(ascending, item)
    return place < len(ascending) and ascending[place] == item


@numba.njit(cache=True, nogil=True)
def _sink(kept, items, size):  # type: ignore[no-untyped-def]
    """Moves the root of the first `size` elements down to where it belongs."""
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _worse(kept[child + 1], items[child + 1], kept[child], items[child]):
            child += 1
        if not _worse(kept[child], items[child], kept[place], items[place]):
            break
        _swap(kept, items, place, child)
        place = child


@numba.njit(cache=True, nogil=True)
def _swap(kept, items, one, other):  # type: ignore[no-untyped-def]
    kept[one], kept[other] = kept[other], kept[one]
    items[one], items[other] = items[other], items[one]
