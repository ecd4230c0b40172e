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


class Block(NamedTuple):
    """The part of an N × D matrix that one rank holds; of a rank that holds nothing both spans are empty."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the part."""
        return self.rows.size, self.columns.size

    def within(self, other: "Block") -> "Block":
        """What both hold."""
        return Block(_common(self.rows, other.rows), _common(self.columns, other.columns))

    def slices_of(self, outer: "Block") -> tuple[slice, slice]:
        """Where this part lies in the tensor of a block that contains it."""
        return _shifted(self.rows, outer.rows.start), _shifted(self.columns, outer.columns.start)


# Every rank's block, in rank order.
Layout = list[Block]
NOTHING = Block(Span(0, 0), Span(0, 0))


def row_layout(rows: int, width: int, world_size: int) -> Layout:
    """Whole rows: every rank those of `row_span`."""
    return [Block(span, Span(0, width)) for span in row_spans(rows, world_size)]


def column_layout(rows: int, width: int, world_size: int) -> Layout:
    """Whole columns: every rank those of `column_span`."""
    return [Block(Span(0, rows), span) for span in column_spans(width, world_size)]


def _common(one: Span, other: Span) -> Span:
    start = max(one.start, other.start)
    return Span(start, max(start, min(one.stop, other.stop)))


def _shifted(span: Span, by: int) -> slice:
    return slice(span.start - by, span.stop - by)
