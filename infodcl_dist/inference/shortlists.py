"""The best items so far of many users, to which the catalogue is offered tile by tile.

U users, T items of a tile, D width, K list length.

**The score of a pair is its inner product summed in float64 and rounded to float32**, which the order of that sum does
not reach but by rare chance. A matrix product in float32 sums in an order that depends on its shape, so the last bits
of its results are those of the tiling, and with them the order of near-equal items. Here such a product only turns
away: it is at most `slack` off, so an item below the user's K-th best score less the slack cannot belong to the list.
What is left, K·(1 + ln(N/K)) items a user where ids say nothing of scores, gets the score above. So lists depend
neither on tiles nor on ranks, threads or devices, and cost little more than the product.

Two forms of one algorithm: compiled loops on a CPU, whole-tensor operations on other devices.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from infodcl_dist.graph.bipartite import Rows, neighbours
from infodcl_dist.inference.scan import keep_better, sort_lists
from infodcl_dist.parallel.ownership import Span

# Shape of one matrix product a thread, 8 MB of scores: the fastest of those tried (1,024 to 4,096 by 512 to 1,024).
BLOCK_USERS, BLOCK_ITEMS = 512, 4_096
DEVICE_BLOCK_BYTES = 1 << 30  # scores, keys and their choice at once on a device
DEVICE_GATHERED_BYTES = 1 << 30  # rows of pairs, gathered at once to be scored in float64, and their products
_LOW = 0xFFFFFFFF
NO_ITEM = -1  # where a user has fewer than K items; the score there is −inf


class Shortlists(Protocol):
    """K items a user, the best of those offered."""

    def offer(self, tile: Tensor, ids: Tensor) -> None:
        """Takes rows [T, D] of items, and their ids int64 ascending [T]; no item is offered twice."""

    def best_first(self) -> tuple[Tensor, Tensor]:
        """Items int64 and scores float32, [U, K]; of equal scores the lower id comes first. Ends the offering."""


def open_shortlists(vectors: Tensor, seen: Rows, k: int) -> Shortlists:
    """Empty lists of users with rows `vectors` [U, D], who shall not get the items `seen` [U] (ids ascending)."""
    kind = HostShortlists if vectors.device.type == "cpu" else DeviceShortlists
    return kind(vectors.float(), seen, k)


def slack_of(vectors: Tensor, tile: Tensor) -> Tensor:
    """How far a matrix product in float32 may be off the score of each user's pairs, float32 [U].

    For any order of summation |error| ≤ D·ε/(1 − D·ε)·‖u‖·‖v‖ (Higham, Accuracy and Stability of Numerical Algorithms,
    3.1), ε half a unit in the last place; some ε more for what is rounded here.
    """
    width = vectors.shape[1]
    # TF32 and bfloat16 products, where somebody asked torch for them, keep at least 8 bits.
    epsilon = 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8
    norms = vectors.norm(dim=1)
    reach = norms * tile.norm(dim=1).max()
    tiny = width * torch.finfo(torch.float32).tiny  # products that small may be flushed to 0
    return torch.where(norms > 0, 1.01 * (width + 8) * epsilon * reach + tiny, 0.0)


class HostShortlists:
    """On the CPU: every thread multiplies and scans blocks of its own users, so that scores stay in its cache."""

    def __init__(self, vectors: Tensor, seen: Rows, k: int) -> None:
        self._vectors = vectors.contiguous()
        self._scores = torch.full((vectors.shape[0], k), -torch.inf)
        self._items = torch.full((vectors.shape[0], k), NO_ITEM, dtype=torch.int64)
        self._offsets, self._seen_items = (x.long().numpy() for x in (seen.offsets, seen.indices))

    def offer(self, tile: Tensor, ids: Tensor) -> None:
        """See `Shortlists`."""
        tile = tile.float().contiguous()
        slack = slack_of(self._vectors, tile)

        def scan(users: Span) -> None:
            scores = torch.empty(min(users.size, BLOCK_USERS) * min(len(ids), BLOCK_ITEMS))
            for first in range(0, len(ids), BLOCK_ITEMS):
                items = slice(first, first + BLOCK_ITEMS)
                for start in range(users.start, users.stop, BLOCK_USERS):
                    rows = slice(start, min(start + BLOCK_USERS, users.stop))
                    self._offer_block(rows, (tile[items], ids[items]), slack[rows], scores)

        _on_threads(scan, self._vectors.shape[0])

    def _offer_block(self, rows: slice, tile: tuple[Tensor, Tensor], slack: Tensor, buffer: Tensor) -> None:
        vectors, (items, ids) = self._vectors[rows], tile
        shape = vectors.shape[0], items.shape[0]
        scores = torch.mm(vectors, items.T, out=buffer[: shape[0] * shape[1]].view(shape))
        users = (vectors.numpy(), slack.numpy(), self._offsets[rows.start : rows.stop + 1], self._seen_items)
        lists = (self._scores[rows].numpy(), self._items[rows].numpy())
        keep_better(scores.numpy(), (items.numpy(), ids.numpy()), users, lists)

    def best_first(self) -> tuple[Tensor, Tensor]:
        """See `Shortlists`."""
        scores, items = self._scores.numpy(), self._items.numpy()
        _on_threads(lambda users: sort_lists(scores[slice(*users)], items[slice(*users)]), len(scores))
        return self._items, self._scores


class DeviceShortlists:
    """By whole-tensor operations, for any device.

    A score and its item are packed into one int64, the score's order in the high half and the reversed id in the low
    half: no two keys are equal, so the K largest are one well-defined list.
    """

    def __init__(self, vectors: Tensor, seen: Rows, k: int) -> None:
        self._vectors, self._seen = vectors, seen
        self._best = pack(torch.full((vectors.shape[0], k), -torch.inf, device=vectors.device), _LOW)

    def offer(self, tile: Tensor, ids: Tensor) -> None:
        """See `Shortlists`."""
        tile = tile.float()
        slack = slack_of(self._vectors, tile)[:, None]
        rows = max(1, DEVICE_BLOCK_BYTES // (16 * tile.shape[0]))
        for start in range(0, self._vectors.shape[0], rows):
            block = slice(start, start + rows)
            user, place = self._passing(block, tile, ids, slack[block])
            keys = pack(_scores_of_pairs(self._vectors[block], tile, user, place), ids[place])
            self._merge(block, user, keys)

    def _passing(self, block: slice, tile: Tensor, ids: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (place in the block, place in the tile) that may belong to a list, by user ascending."""
        best = self._best[block]
        scores = self._vectors[block] @ tile.T
        user, item = neighbours(self._seen, torch.arange(block.start, block.start + best.shape[0], device=ids.device))
        place = torch.searchsorted(ids, item).clamp(max=len(ids) - 1)
        there = ids[place] == item
        scores[user[there], place[there]] = -torch.inf
        # K items of this very tile are as good as its K-th less the slack; another must be as good within its own.
        of_tile = scores.topk(min(best.shape[1], len(ids)), dim=1).values[:, -1:] - 2 * slack
        if len(ids) < best.shape[1]:
            of_tile = torch.full_like(of_tile, -torch.inf)
        bar = torch.maximum(of_tile, scores_of(best[:, -1:]) - slack)
        user, place = torch.nonzero((scores >= bar) & (scores > -torch.inf), as_tuple=True)
        return user, place

    def _merge(self, block: slice, user: Tensor, keys: Tensor) -> None:
        best = self._best[block]
        counts = torch.bincount(user, minlength=best.shape[0])
        within = torch.arange(len(user), device=user.device) - (torch.cumsum(counts, 0) - counts)[user]
        found = torch.full(
            (best.shape[0], int(counts.max()) if len(user) else 0), torch.iinfo(torch.int64).min, device=user.device
        )
        found[user, within] = keys
        self._best[block] = torch.cat([best, found], dim=1).topk(best.shape[1], dim=1).values

    def best_first(self) -> tuple[Tensor, Tensor]:
        """See `Shortlists`."""
        scores = scores_of(self._best)
        return torch.where(scores > -torch.inf, items_of(self._best), NO_ITEM), scores


def pack(scores: Tensor, ids: Tensor | int) -> Tensor:
    """Keys int64 that ascend with the score and, of equal scores, descend with the id."""
    # float32 bits read as int32 order like the numbers, once the negative half is flipped; + 0.0 folds −0.0 into 0.0.
    bits = (scores + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    return (ordered << 32) | (_LOW - ids)


def items_of(keys: Tensor) -> Tensor:
    """The item of each key."""
    return _LOW - (keys & _LOW)


def scores_of(keys: Tensor) -> Tensor:
    """The score of each key."""
    ordered = (keys >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _scores_of_pairs(vectors: Tensor, tile: Tensor, user: Tensor, place: Tensor) -> Tensor:
    pairs = max(1, DEVICE_GATHERED_BYTES // (3 * 8 * vectors.shape[1]))
    pieces = zip(user.split(pairs), place.split(pairs), strict=True)
    return torch.cat([(vectors[u].double() * tile[p].double()).sum(dim=1).float() for u, p in pieces])


def _on_threads(work: Callable[[Span], None], users: int) -> None:
    """Gives each of torch's threads a part of the users; inside, torch's own operations take one thread."""
    threads = max(1, min(torch.get_num_threads(), users))
    parts = [Span(users * i // threads, users * (i + 1) // threads) for i in range(threads)]
    if threads == 1:
        work(parts[0])
        return
    with _single_threaded_torch(), ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))


@contextmanager
def _single_threaded_torch() -> Iterator[None]:
    """New threads inside inherit one thread. (A thread a core that works alone beats all of them in one product.)"""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
