"""The embeddings that rank: trained tables after the GCN pass, held by columns or by rows (Eq. 16).

M users, N items, D width, d_r columns that rank r holds, m_r and n_r rows that it owns.
"""

from dataclasses import dataclass

from torch import Tensor

from infodcl_dist.parallel.collectives import columns_to_rows, gather_columns, gather_row_range
from infodcl_dist.parallel.ownership import Span


@dataclass(frozen=True)
class Embeddings:
    """Propagated embeddings, each rank holding its columns of every node, or its nodes whole.

    Who ranks asks for rows, and need not know which.
    """

    users: Tensor  # [M, d_r], or by rows [m_r, D]
    items: Tensor  # [N, d_r], or by rows [n_r, D]
    width: int  # D
    counts: tuple[int, int] | None = None  # M and N of what is held by rows, those of `row_span`; None: by columns

    @property
    def user_count(self) -> int:
        """M."""
        return self.users.shape[0] if self.counts is None else self.counts[0]

    @property
    def item_count(self) -> int:
        """N."""
        return self.items.shape[0] if self.counts is None else self.counts[1]

    def own_user_rows(self) -> Tensor:
        """This rank's share of users, whole rows [m_r, D] of `row_span(M)`. A collective, if held by columns."""
        return columns_to_rows(self.users, self.width) if self.counts is None else self.users

    def own_item_rows(self) -> Tensor:
        """This rank's share of items, whole rows [n_r, D] of `row_span(N)`. A collective, if held by columns."""
        return columns_to_rows(self.items, self.width) if self.counts is None else self.items

    def item_tile(self, start: int, stop: int) -> Tensor:
        """Whole rows [stop − start, D] of a range of items, on every rank. A collective: all ranks ask alike."""
        return self._tile(self.items, self.item_count, Span(start, stop))

    def user_tile(self, start: int, stop: int) -> Tensor:
        """Whole rows [stop − start, D] of a range of users, on every rank. A collective."""
        return self._tile(self.users, self.user_count, Span(start, stop))

    def _tile(self, held: Tensor, rows: int, wanted: Span) -> Tensor:
        if self.counts is None:
            return gather_columns(held[wanted.start : wanted.stop], self.width)
        return gather_row_range(held, rows, wanted)
