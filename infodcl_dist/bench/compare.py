"""Two results of one bench beside each other: what changed by more than the noise."""

import math
from pathlib import Path
from typing import Any

from rich.table import Table

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import read_json

# Three times the two spreads (half quartile distances over medians, added as independent errors are), and never less
# than 5 % (assumption).
BAND_OF_SPREADS, LEAST_BAND = 3.0, 0.05
CONDITIONS = ("bench", "data", "device", "processes", "warm_up", "configuration", "machine")


def compare(before: Path, after: Path) -> tuple[Table, list[str]]:
    """A table of the figures that both have, and which conditions differ.

    Raises:
        UserError: a file is no result of `bench`, or the two have no figure in common.
    """
    first, second = _read(before), _read(after)
    old, new = ({figure["name"]: figure for figure in result["figures"]} for result in (first, second))
    shared = [name for name in new if name in old]
    if not shared:
        raise UserError(f"{before} and {after} have no figure in common; give two results of one bench")
    titles = (f"{file.name} ({result['commit']})" for file, result in ((before, first), (after, second)))
    table = Table(title=" → ".join(titles), title_justify="left")
    for heading in ("what", "before", "after", "ratio", "band", ""):
        table.add_column(heading, justify="left" if heading in ("what", "") else "right")
    for name in shared:
        ratio, band = ratio_of(old[name], new[name]), band_of(old[name], new[name])
        table.add_row(
            name,
            f"{old[name]['median_s'] * 1e3:,.2f} ms",
            f"{new[name]['median_s'] * 1e3:,.2f} ms",
            f"{ratio:.2f}",
            f"±{band:.0%}",
            verdict(ratio, band),
        )
    return table, [name for name in CONDITIONS if first.get(name) != second.get(name)]


def ratio_of(old: dict[str, Any], new: dict[str, Any]) -> float:
    """Of two figures' times; nothing took no time, such as waits of ranks, and takes as much again."""
    if old["median_s"] == 0:
        return 1.0 if new["median_s"] == 0 else math.inf
    return float(new["median_s"] / old["median_s"])


def band_of(old: dict[str, Any], new: dict[str, Any]) -> float:
    """By how much of the time two figures may differ by noise alone."""
    return max(LEAST_BAND, BAND_OF_SPREADS * (old["spread"] ** 2 + new["spread"] ** 2) ** 0.5)


def verdict(ratio: float, band: float) -> str:
    """In a word; a ratio of times after and before."""
    if 1 / (1 + band) <= ratio <= 1 + band:
        return "same"
    return "slower" if ratio > 1 else "faster"


def _read(file: Path) -> dict[str, Any]:
    """A result, its commit apart from the machine that it was measured on."""
    result = read_json(file)
    figures = result.get("figures") if isinstance(result, dict) else None
    if not isinstance(figures, list) or not all(map(_is_figure, figures)):
        raise UserError(f"{file}: no result of `infodcl-dist bench … --json`")
    machine = dict(result.get("machine") or {})
    return result | {"commit": machine.pop("commit", "unknown"), "machine": machine}


def _is_figure(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and "name" in found
        and all(isinstance(found.get(name), int | float) for name in ("median_s", "spread"))
    )
