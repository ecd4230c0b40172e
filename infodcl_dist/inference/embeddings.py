"""The embeddings that rank: trained tables after the GCN pass, held by columns (Eq. 16).

M users, N items, D width, d_r columns that rank r holds, m_r rows that it owns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from infodcl_dist.graph.bipartite import Bipartite
from infodcl_dist.graph.propagation import propagate
from infodcl_dist.parallel.collectives import columns_to_rows, gather_columns


@dataclass(frozen=True)
class Embeddings:
    """Propagated embeddings, each rank holding its columns of every node."""

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

    def own_user_rows(self) -> Tensor:
        """This rank's share of users, whole rows [m_r, D] of `row_span(M)`."""
        return columns_to_rows(self.users, self.width)

    def item_tile(self, start: int, stop: int) -> Tensor:
        """Whole rows [stop − start, D] of a range of items, on every rank. A collective: all ranks ask alike."""
        return gather_columns(self.items[start:stop], self.width)

    def user_tile(self, start: int, stop: int) -> Tensor:
        """Whole rows [stop − start, D] of a range of users, on every rank. A collective."""
        return gather_columns(self.users[start:stop], self.width)


@torch.no_grad()
def propagate_tables(users: Tensor, items: Tensor, width: int, graph: Bipartite, layers: int) -> Embeddings:
    """The GCN pass over this rank's columns of the tables, [M, d_r] and [N, d_r] of `width`: no rank speaks."""
    users, items = propagate(graph, users.detach(), items.detach(), layers)
    return Embeddings(users, items, width)
