"""The K best items of each user over the whole catalogue, tile by tile, ties broken by item id.

U users ranked here, D width, K list length.

A score and its item are packed into one int64, the score's order in the high half and the reversed id in the low half:
no two keys are equal, so the K largest keys are one well-defined list whatever the tiles were.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import row_spans

USER_CHUNK = 131_072  # users whose lists are held at once: 50 items × 8 bytes each
ITEM_TILE = 16_384
SCORE_BLOCK_BYTES = 64 * 2**20  # one block of scores
_LOW = 0xFFFFFFFF
_MASKED = -torch.inf


def top_items(
    embeddings: Embeddings, users: Tensor, *, group: Group, masks: list[Rows], k: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ranks the catalogue for this rank's users, a chunk of users at a time.

    All ranks iterate to the end together: item tiles are gathered by a collective.

    Args:
        embeddings: what scores by inner product.
        users: user indices to rank, int64 ascending, all of them in the rank's own rows.
        group: this process's place.
        masks: items to leave out, by user; rows of all M users.
        k: list length, cut to N.

    Yields:
        (users int64 [U], items int64 [U, K], scores float32 [U, K]); best first. Where a user has fewer than K items
        that are not masked, the rest of the list has score −inf.
    """
    own_rows = embeddings.own_user_rows()
    items, k = embeddings.item_count, min(k, embeddings.item_count)
    spans = row_spans(embeddings.user_count, group.world_size)
    first_user = spans[group.rank].start
    # The largest span, rank 0's, fixes the number of chunks on all ranks alike.
    for start in range(first_user, first_user + spans[0].size, USER_CHUNK):
        chunk = users[(users >= start) & (users < start + USER_CHUNK)]
        vectors = own_rows[chunk - first_user]
        best = torch.empty(chunk.shape[0], 0, dtype=torch.int64, device=vectors.device)
        for first in range(0, items, ITEM_TILE):
            tile = embeddings.item_tile(first, min(first + ITEM_TILE, items))
            found = _best_of_tile(vectors, chunk, tile, _Place(first, masks, k))
            merged = torch.cat([best, found], dim=1)
            best = merged.topk(min(k, merged.shape[1]), dim=1).values
        yield chunk, _items_of(best), _scores_of(best)


class _Place(NamedTuple):
    first: int  # item id of the tile's first row
    masks: list[Rows]
    k: int


def _best_of_tile(vectors: Tensor, users: Tensor, tile: Tensor, place: _Place) -> Tensor:
    """Keys int64 [U, min(K, tile)] of the tile's best items, best first."""
    first, masks, k = place.first, place.masks, min(place.k, tile.shape[0])
    rows = max(1, SCORE_BLOCK_BYTES // (12 * tile.shape[0]))
    found = []
    for start in range(0, vectors.shape[0], rows):
        scores = vectors[start : start + rows] @ tile.T
        for mask in masks:
            row, item = neighbours(mask, users[start : start + rows])
            inside = (item >= first) & (item < first + tile.shape[0])
            scores[row[inside], item[inside] - first] = _MASKED
        found.append(_keys(scores, first).topk(k, dim=1).values)
    return torch.cat(found) if found else torch.empty(0, k, dtype=torch.int64, device=vectors.device)


def neighbours(rows: Rows, of: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbours of the rows `of` int64 [U]: places in `of` and ids of the neighbours, int64, an entry each."""
    starts, ends = rows.offsets[of].long(), rows.offsets[of + 1].long()
    counts = ends - starts
    position = torch.repeat_interleave(torch.arange(of.shape[0], device=of.device), counts)
    before = torch.cumsum(counts, dim=0) - counts
    within = torch.arange(position.shape[0], device=of.device) - before[position]
    return position, rows.indices[starts[position] + within].long()


def _keys(scores: Tensor, first: int) -> Tensor:
    # float32 bits read as int32 order like the numbers, once the negative half is flipped; + 0.0 folds −0.0 into 0.0.
    bits = (scores + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    ids = torch.arange(first, first + scores.shape[1], device=scores.device)
    return (ordered << 32) | (_LOW - ids)


def _items_of(keys: Tensor) -> Tensor:
    return _LOW - (keys & _LOW)


def _scores_of(keys: Tensor) -> Tensor:
    ordered = (keys >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
