"""Who holds which rows and columns: plain arithmetic, the same on every rank."""

from typing import NamedTuple


class Span(NamedTuple):
    """The half-open range [start, stop)."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


def row_span(rows: int, rank: int, world_size: int) -> Span:
    """Rows that `rank` holds: blocks of ceil(rows / world size), as TorchRec shards row-wise; the last are shorter."""
    block = -(-rows // world_size)
    return Span(min(rank * block, rows), min((rank + 1) * block, rows))


def column_span(columns: int, rank: int, world_size: int) -> Span:
    """Columns that `rank` holds: as even as they divide."""
    return Span(columns * rank // world_size, columns * (rank + 1) // world_size)


def row_spans(rows: int, world_size: int) -> list[Span]:
    """Every rank's rows."""
    return [row_span(rows, rank, world_size) for rank in range(world_size)]


def column_spans(columns: int, world_size: int) -> list[Span]:
    """Every rank's columns."""
    return [column_span(columns, rank, world_size) for rank in range(world_size)]
