"""The inner loops of ranking on a CPU, compiled: which scores of a block are good enough for their users' lists.

B users of a block, T items of a tile, D width, K list length.

A list is a heap whose root is the worst kept item, so that one comparison with the root turns nearly every item away.
"""

import numba
import numpy as np

PIECE = 512  # scores compared at once, a byte each; a multiple of WORD
WORD = 8  # of these bytes are looked at as one number, which is 0 for nearly all
HALVINGS = 8  # of the range that a first bar is looked for in


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
    above = np.zeros(PIECE, np.uint8)
    words = above.view(np.uint64)
    for user in range(len(vectors)):
        of_user = scores[user]
        bar = np.float32(kept[user, 0] - slack[user])
        mine = seen[seen_offsets[user] : seen_offsets[user + 1]]
        next_seen = np.searchsorted(mine, ids[0])
        if kept[user, 0] == -np.inf and slack[user] > 0:
            bar = np.float32(surely_reached(of_user, kept.shape[1] + len(mine)) - 2 * slack[user])
        for start in range(0, len(ids), PIECE):
            piece = of_user[start : start + PIECE]
            _compare(piece, bar, above)
            for word in range(len(words)):
                if words[word] == 0:
                    continue
                for place in range(start + word * WORD, start + (word + 1) * WORD):
                    if above[place - start] and of_user[place] > bar:  # which may be higher by now
                        item = ids[place]
                        next_seen = _first_from(item, mine, next_seen)
                        if next_seen < len(mine) and mine[next_seen] == item:
                            continue
                        score = inner_product(vectors[user], rows[place])
                        if _worse(kept[user, 0], items[user, 0], score, item):
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


@numba.njit(cache=True, nogil=True, fastmath={"reassoc"})
def inner_product(one, other):  # type: ignore[no-untyped-def]
    """The inner product of two float32 rows [D], summed in float64, rounded to float32.

    A product of two float32 numbers is exact in float64. The order of the sum is the compiler's, one for a machine, so
    that it can fill vector registers.
    """
    total = 0.0
    for i in range(len(one)):
        total += np.float64(one[i]) * np.float64(other[i])
    return np.float32(total + 0.0)  # + 0.0 makes −0.0 the same score as 0.0


@numba.njit(cache=True, nogil=True)
def surely_reached(scores, wanted):  # type: ignore[no-untyped-def]
    """A score that at least so many of these reach; −inf where there are fewer.

    Of as many items as there are groups, those with the groups' highest scores, at least `wanted` reach what is
    returned, and hardly more. So a list that is still empty starts with a bar that few more than it wants can take.
    Twice the slack lies below it: these items' scores may be lower by one, and another's higher by one.
    """
    groups = 4 * wanted  # assumption: then some 1.15 times as many pass as are wanted
    if len(scores) < 2 * groups:
        return np.float32(-np.inf)
    highest = scores[:groups].copy()
    for start in range(groups, len(scores) - groups + 1, groups):
        for group in range(groups):
            score = scores[start + group]
            highest[group] = score if score > highest[group] else highest[group]
    low, high = highest.min(), highest.max()
    if np.sum(highest >= low) < wanted:  # NaN is among them
        return np.float32(-np.inf)
    for _ in range(HALVINGS):
        middle = low + (high - low) / np.float32(2)
        if np.sum(highest >= middle) >= wanted:
            low = middle
        else:
            high = middle
    return low


@numba.njit(cache=True, nogil=True)
def _compare(scores, bar, above):  # type: ignore[no-untyped-def]
    """Which of a piece's scores are above the bar, without a branch a score; 0 in the rest of `above`."""
    for place in range(len(scores)):
        above[place] = scores[place] > bar
    above[len(scores) :] = 0


@numba.njit(cache=True, nogil=True)
def _first_from(item, ascending, place):  # type: ignore[no-untyped-def]
    """The first place, from `place` on, whose value is not below `item`; a few steps on, as items come in order."""
    while place < len(ascending) and ascending[place] < item:
        place += 1
    return place


@numba.njit(cache=True, nogil=True)
def _worse(score, item, other_score, other_item):  # type: ignore[no-untyped-def]
    return score < other_score or (score == other_score and item > other_item)


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
