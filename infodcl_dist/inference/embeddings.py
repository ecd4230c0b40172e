"""The embeddings that rank: trained tables after the GCN pass (Eq. 16), wherever they lie.

M users, N items, D width, d_r columns that rank r holds, m_r and n_r rows that it owns.

A pass leaves them by columns, by rows, or in files. Who ranks asks for whole rows, and need not know.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from infodcl_dist.base.array_file import ArrayFile
from infodcl_dist.graph.bipartite import Bipartite
from infodcl_dist.graph.mean_of_layers import by_dimension
from infodcl_dist.parallel.collectives import columns_to_rows, gather_columns, gather_row_range
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import Span, row_span


class AnyEmbeddings(Protocol):
    """What ranking, evaluation and export ask of propagated embeddings."""

    @property
    def user_count(self) -> int:
        """M."""

    @property
    def item_count(self) -> int:
        """N."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def device(self) -> torch.device:
        """Where the rows that are asked for lie."""

    def own_user_rows(self) -> Tensor:
        """This rank's share of users, whole rows [m_r, D] of `row_span(M)`. A collective."""

    def own_item_rows(self) -> Tensor:
        """This rank's share of items, whole rows [n_r, D] of `row_span(N)`. A collective."""

    def item_tile(self, start: int, stop: int) -> Tensor:
        """Whole rows [stop − start, D] of a range of items, on every rank. A collective: all ranks ask alike."""

    def user_tile(self, start: int, stop: int) -> Tensor:
        """Whole rows [stop − start, D] of a range of users, on every rank. A collective."""


@dataclass(frozen=True)
class Embeddings:
    """By columns: each rank holds its columns of every node."""

    users: Tensor  # [M, d_r]
    items: Tensor  # [N, d_r]
    width: int  # D

    @property
    def user_count(self) -> int:
        """M."""
        return self.users.shape[0]

    @property
    def item_count(self) -> int:
        """N."""
        return self.items.shape[0]

    @property
    def device(self) -> torch.device:
        """Of the tensors."""
        return self.users.device

    def own_user_rows(self) -> Tensor:
        """This rank's share of users, whole rows [m_r, D] of `row_span(M)`."""
        return columns_to_rows(self.users, self.width)

    def own_item_rows(self) -> Tensor:
        """This rank's share of items, whole rows [n_r, D] of `row_span(N)`."""
        return columns_to_rows(self.items, self.width)

    def item_tile(self, start: int, stop: int) -> Tensor:
        """Whole rows [stop − start, D] of a range of items, on every rank. A collective: all ranks ask alike."""
        return gather_columns(self.items[start:stop], self.width)

    def user_tile(self, start: int, stop: int) -> Tensor:
        """Whole rows [stop − start, D] of a range of users, on every rank. A collective."""
        return gather_columns(self.users[start:stop], self.width)


@dataclass(frozen=True)
class RowEmbeddings:
    """By rows: each rank holds those of `row_span`, whole."""

    own_users: Tensor  # [m_r, D]
    own_items: Tensor  # [n_r, D]
    user_count: int  # M
    item_count: int  # N

    @property
    def width(self) -> int:
        """D."""
        return self.own_users.shape[1]

    @property
    def device(self) -> torch.device:
        """Of the tensors."""
        return self.own_users.device

    def own_user_rows(self) -> Tensor:
        """What this rank holds [m_r, D]; nobody speaks."""
        return self.own_users

    def own_item_rows(self) -> Tensor:
        """What this rank holds [n_r, D]; nobody speaks."""
        return self.own_items

    def item_tile(self, start: int, stop: int) -> Tensor:
        """Whole rows [stop − start, D] of a range of items, from their owners. A collective: all ranks ask alike."""
        return gather_row_range(self.own_items, self.item_count, Span(start, stop))

    def user_tile(self, start: int, stop: int) -> Tensor:
        """Whole rows [stop − start, D] of a range of users, from their owners. A collective."""
        return gather_row_range(self.own_users, self.user_count, Span(start, stop))


@dataclass(frozen=True)
class StoredEmbeddings:
    """In files that all ranks see, of which each reads what it is asked for; nobody speaks."""

    users: ArrayFile  # float32 [M, D]
    items: ArrayFile  # float32 [N, D]
    group: Group

    @property
    def user_count(self) -> int:
        """M."""
        return self.users.shape[0]

    @property
    def item_count(self) -> int:
        """N."""
        return self.items.shape[0]

    @property
    def width(self) -> int:
        """D."""
        return self.users.shape[1]

    @property
    def device(self) -> torch.device:
        """Where rows are brought to."""
        return self.group.device

    def own_user_rows(self) -> Tensor:
        """This rank's share of users, [m_r, D] of `row_span(M)`."""
        return self.user_tile(*row_span(self.user_count, self.group.rank, self.group.world_size))

    def own_item_rows(self) -> Tensor:
        """This rank's share of items, [n_r, D] of `row_span(N)`."""
        return self.item_tile(*row_span(self.item_count, self.group.rank, self.group.world_size))

    def item_tile(self, start: int, stop: int) -> Tensor:
        """Rows [stop − start, D] of items."""
        return torch.from_numpy(self.items.read(start, stop)).to(self.device)

    def user_tile(self, start: int, stop: int) -> Tensor:
        """Rows [stop − start, D] of users."""
        return torch.from_numpy(self.users.read(start, stop)).to(self.device)


def propagate_tables(users: Tensor, items: Tensor, width: int, graph: Bipartite, layers: int) -> Embeddings:
    """The GCN pass over this rank's columns of the tables, [M, d_r] and [N, d_r] of `width`: no rank speaks."""
    return Embeddings(*by_dimension(graph, (users.detach(), items.detach()), layers), width)
