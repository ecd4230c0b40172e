"""Recommendation lists by the users' own ids: a part of the users at a time, in bounded memory, over ranks, resumable.

n users that get lists, B of them a part, K list length, D width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch
from torch import Tensor

from infodcl_dist.base.console import progress
from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.folding import fold_in
from infodcl_dist.inference.parts import Parts, open_parts
from infodcl_dist.inference.ranking import LIST_PLACES, rank_items, rows_of
from infodcl_dist.parallel.collectives import barrier
from infodcl_dist.parallel.folders import ENDING_S, on_rank_zero, one_group_at_a_time
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import Span

PART_USERS = 8_192  # at most; fewer where lists are so long that a part would have more than LIST_PLACES
USER_TILE = 262_144  # rows gathered at once to find the wanted ones among them


class Audience(Protocol):
    """Users that get lists, in the order of `ids`."""

    @property
    def ids(self) -> pa.Array:
        """Own ids [n]."""

    def vectors(self, embeddings: Embeddings, covered: Span, own: Span) -> Tensor:
        """Rows float32 [B, D] of users `own`. A collective: all ranks name one `covered`, and in it their own."""

    def seen(self, own: Span) -> Rows:
        """Items that users `own` shall not get, B rows, each ascending."""


@dataclass(frozen=True)
class KnownUsers:
    """Users that were trained."""

    ids: pa.Array  # [n]
    users: Tensor  # their indices, int64 [n], ascending
    masks: list[Rows]  # items to leave out, of all M users

    def vectors(self, embeddings: Embeddings, covered: Span, own: Span) -> Tensor:
        """See `Audience`. The tiles that hold the covered users are gathered one by one."""
        wanted = self.users[own.start : own.stop]
        found = [torch.empty(0, embeddings.width, device=wanted.device)]
        first, last = self.users[covered.start].item(), self.users[covered.stop - 1].item() + 1
        for start in range(int(first), int(last), USER_TILE):
            stop = min(start + USER_TILE, int(last))
            tile = embeddings.user_tile(start, stop)
            found.append(tile[wanted[(wanted >= start) & (wanted < stop)] - start].float())
        return torch.cat(found)

    def seen(self, own: Span) -> Rows:
        """See `Audience`."""
        return rows_of(self.masks, self.users[own.start : own.stop])


@dataclass(frozen=True)
class NewUsers:
    """Users given by their items, see `folding`."""

    ids: pa.Array  # [n]
    histories: Rows  # n rows
    item_degrees: Tensor  # training users of each item, int [N]

    def vectors(self, embeddings: Embeddings, covered: Span, own: Span) -> Tensor:
        """See `Audience`."""
        return fold_in(embeddings, self.seen(own), self.item_degrees)

    def seen(self, own: Span) -> Rows:
        """See `Audience`: the history itself."""
        wanted = torch.arange(own.start, own.stop, device=self.histories.offsets.device)
        return rows_of([self.histories], wanted)


@torch.no_grad()
def write_recommendations(
    out: Path,
    audience: Audience,
    embeddings: Embeddings,
    *,
    item_ids: pa.Array,
    candidates: Tensor | None,
    k: int,
    origin: dict[str, Any],
    group: Group,
) -> None:
    """Writes the K best items of each user, best first, fewer where fewer are left. All ranks call it, one group of
    them at a time.

    The file has columns `user` and `item` (own ids), `rank` int32 from 1, `score` float32. Each rank ranks another part
    of the users. What an interrupted call of the same origin has made is kept, at another world size too.

    Args:
        out: the Parquet file to make.
        audience: who gets lists; at least one user.
        embeddings: what scores by inner product.
        item_ids: own ids of all items [N].
        candidates: items that may be recommended, int64 ascending; None: all.
        k: list length.
        origin: all that the lists follow from, as JSON values.
        group: this process's place.

    Raises:
        UserError: `out` exists, is being made by another group, or cannot be written, on every rank or on the one that
            writes.
    """
    longest = min(k, embeddings.item_count if candidates is None else len(candidates))
    count, size = len(audience.ids), max(1, min(PART_USERS, LIST_PLACES // longest))
    origin = origin | {"top": k, "part_users": size, "users": count}
    lock = out.with_name(f".{out.name}.lock")
    holder = f"another command that makes {out.name}"
    with one_group_at_a_time(lock, wait_s=ENDING_S, holder=holder, is_removed=True):
        parts: Parts = on_rank_zero(lambda: open_parts(out, -(-count // size), origin))
        turns = range(0, len(parts.pending), group.world_size)
        for start in progress(turns, f"users, {size * group.world_size:,} a turn"):
            indices = parts.pending[start : start + group.world_size]
            spans = [Span(index * size, min((index + 1) * size, count)) for index in indices]
            is_mine = group.rank < len(spans)
            covered = Span(spans[0].start, spans[-1].stop)
            own = spans[group.rank] if is_mine else Span(covered.start, covered.start)
            vectors = audience.vectors(embeddings, covered, own)
            items, scores = rank_items(embeddings, vectors, seen=audience.seen(own), k=k, candidates=candidates)
            if is_mine:
                table = _table(audience.ids.slice(own.start, own.size), item_ids, items.cpu(), scores.cpu())
                parts.write(indices[group.rank], table)
        barrier()
        on_rank_zero(parts.merge)


def _table(user_ids: pa.Array, item_ids: pa.Array, items: Tensor, scores: Tensor) -> pa.Table:
    """Lists [B, K] as rows of a table, without the places that hold no item."""
    there = items >= 0
    users = torch.arange(len(items))[:, None].expand(items.shape)[there]
    ranks = torch.arange(1, items.shape[1] + 1, dtype=torch.int32).expand(items.shape)[there]
    return pa.table(
        {
            "user": user_ids.take(pa.array(users.numpy())),
            "item": item_ids.take(pa.array(items[there].numpy())),
            "rank": ranks.numpy(),
            "score": scores[there].numpy(),
        }
    )
