"""What a bench found: repeated times with what was done in them, as a table and as JSON."""

import statistics
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from infodcl_dist.bench.machine import Roofline


@dataclass(frozen=True)
class Figure:
    """One measured piece of work on the slowest rank.

    Work is that of one repeat and of one rank; 0 where it is not counted.
    """

    name: str
    seconds: tuple[float, ...]  # of each repeat, after the warm-up
    interactions: int = 0  # of all ranks
    flops: float = 0
    bytes: float = 0

    @property
    def median(self) -> float:
        """Median of the repeats' seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles over the median; of fewer than three repeats 0."""
        if len(self.seconds) < 3 or self.median == 0:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (third - first) / 2 / self.median

    def as_json(self, roofline: Roofline) -> dict[str, Any]:
        """With what follows from it."""
        return {
            "name": self.name,
            "seconds": list(self.seconds),
            "median_s": self.median,
            "spread": self.spread,
            "interactions_per_second": self.interactions / self.median if self.median else 0.0,
            "flops": self.flops,
            "bytes": self.bytes,
            "share_of_gemm": self.share_of_gemm(roofline),
            "share_of_copy": self.share_of_copy(roofline),
        }

    def share_of_gemm(self, roofline: Roofline) -> float:
        """Counted arithmetic a second over that of a large matrix product."""
        return self.flops / self.median / roofline.flops_per_s if self.median else 0.0

    def share_of_copy(self, roofline: Roofline) -> float:
        """Counted bytes a second over those of a large copy."""
        return self.bytes / self.median / roofline.bytes_per_s if self.median else 0.0


def table_of(figures: list[Figure], roofline: Roofline, title: str) -> Table:
    """A line a figure."""
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for heading in ("median", "± quartiles", "interactions/s", "GFLOP", "MB", "of GEMM", "of copy"):
        table.add_column(heading, justify="right")
    for figure in figures:
        rate = figure.interactions / figure.median if figure.median else 0.0
        table.add_row(
            figure.name,
            _seconds(figure.median),
            f"{figure.spread:.0%}",
            f"{rate:,.0f}" if rate else "",
            f"{figure.flops / 1e9:,.2f}" if figure.flops else "",
            f"{figure.bytes / 1e6:,.1f}" if figure.bytes else "",
            f"{figure.share_of_gemm(roofline):.0%}" if figure.flops else "",
            f"{figure.share_of_copy(roofline):.0%}" if figure.bytes else "",
        )
    table.caption = (
        f"of GEMM: {roofline.flops_per_s / 1e9:,.1f} GFLOP/s, of copy: {roofline.bytes_per_s / 1e9:,.1f} GB/s, "
        "measured on this device in this run"
    )
    return table


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"
