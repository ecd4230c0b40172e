"""The K best items of each user over the whole catalogue, tile by tile, ties broken by item id.

U users ranked here, D width, K list length, N items.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from infodcl_dist.graph.bipartite import Rows, neighbours
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.shortlists import open_shortlists
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import row_spans

LIST_PLACES = 1 << 22  # of the lists that are held at once, U · K: 50 MB, and what metrics make of them
ITEM_TILE = 16_384


def top_items(
    embeddings: Embeddings, users: Tensor, *, group: Group, masks: list[Rows], k: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ranks the catalogue for this rank's users, a chunk of users at a time.

    All ranks iterate to the end together: item tiles are gathered by a collective.

    Args:
        embeddings: what scores by inner product, see `shortlists`.
        users: user indices to rank, int64 ascending, all of them in the rank's own rows.
        group: this process's place.
        masks: items to leave out, by user; rows of all M users.
        k: list length, cut to N.

    Yields:
        (users int64 [U], items int64 [U, K], scores float32 [U, K]); best first. Where a user has fewer than K items
        that are not masked, the rest of the list has item −1 and score −inf.
    """
    k = min(k, embeddings.item_count)
    own_rows, chunk_users = embeddings.own_user_rows(), max(1, LIST_PLACES // k)
    spans = row_spans(embeddings.user_count, group.world_size)
    first_user = spans[group.rank].start
    # The largest span, rank 0's, fixes the number of chunks on all ranks alike.
    for start in range(first_user, first_user + spans[0].size, chunk_users):
        chunk = users[(users >= start) & (users < start + chunk_users)]
        vectors = own_rows[chunk - first_user]
        yield chunk, *rank_items(embeddings, vectors, seen=rows_of(masks, chunk), k=k)


def rank_items(
    embeddings: Embeddings, vectors: Tensor, *, seen: Rows, k: int, candidates: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ranks the catalogue for users that are given as rows. All ranks call it together, each with its own users.

    Args:
        embeddings: whose items are ranked.
        vectors: users' rows [U, D]; a rank without users gives none.
        seen: items to leave out, U rows.
        k: list length, cut to the number of candidates.
        candidates: items that are ranked, int64 ascending, the same on all ranks; None: all N.

    Returns:
        Items int64 [U, K] and scores float32 [U, K], as `top_items` yields them.
    """
    count = embeddings.item_count if candidates is None else len(candidates)
    lists = open_shortlists(vectors, seen, min(k, count))
    for first in range(0, embeddings.item_count, ITEM_TILE):
        last = min(first + ITEM_TILE, embeddings.item_count)
        ids = _ids_between(first, last, candidates).to(vectors.device)
        if not len(ids):
            continue
        tile = embeddings.item_tile(first, last)
        lists.offer(tile if len(ids) == last - first else tile[ids - first], ids)
    return lists.best_first()


def rows_of(masks: list[Rows], users: Tensor) -> Rows:
    """The items of users int64 [U] in any of some masks, or none: U rows, int64, each ascending."""
    none = users.new_empty(0)
    found = [(none, none), *(neighbours(mask, users) for mask in masks)]
    user, item = (torch.cat(parts) for parts in zip(*found, strict=True))
    if len(masks) > 1:
        order = torch.argsort(item, stable=True)
        order = order[torch.argsort(user[order], stable=True)]
        user, item = user[order], item[order]
    offsets = torch.zeros(len(users) + 1, dtype=torch.int64, device=users.device)
    torch.cumsum(torch.bincount(user, minlength=len(users)), 0, out=offsets[1:])
    return Rows(offsets, item)


def _ids_between(first: int, last: int, candidates: Tensor | None) -> Tensor:
    if candidates is None:
        return torch.arange(first, last)
    low, high = torch.searchsorted(candidates, candidates.new_tensor([first, last])).tolist()
    return candidates[low:high]
