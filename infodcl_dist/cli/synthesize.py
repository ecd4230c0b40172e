"""`infodcl-dist synthesize`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from infodcl_dist.base.console import console, set_up_log
from infodcl_dist.base.files import refuse_existing

if TYPE_CHECKING:
    import numpy as np


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--times", type=click.IntRange(1), required=True, help="Copies of the users, and so of the interactions.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The dataset folder to make.")
@click.option(
    "--item-times", type=click.IntRange(1), help="Copies of the items; fewer than --times make items more popular."
)
@click.option(
    "--mixing",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="Share of interactions that go to another copy of their item.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Of the random draws.")
@click.option("--raw", is_flag=True, help="Make --out a Parquet file of shuffled interactions, to try `prepare` on.")
def synthesize(dataset: Path, out: Path, times: int, item_times: int | None, **options: Any) -> None:
    """Grow DATASET to --times its size, with degrees like its own, for tests at scale."""
    from infodcl_dist.data.dataset import open_dataset
    from infodcl_dist.data.expansion import Growth, grow, write_raw

    set_up_log()
    original = open_dataset(dataset)
    is_raw = options.pop("raw")
    growth = Growth(times=times, item_times=times if item_times is None else item_times, **options)
    if is_raw:
        refuse_existing(out, kind="file")
        console.print(f"synthesized  {out}: {write_raw(original, growth, out):,} interactions")
        return
    manifest = grow(original, growth, out)
    pairs = sum(manifest.counts.values())
    console.print(f"synthesized  {out}: {manifest.users:,} users, {manifest.items:,} items, {pairs:,} pairs")
    grown = open_dataset(out, verify=False)
    rows = {
        "users": (original.items_of_users("train").degrees, grown.items_of_users("train").degrees),
        "items": (original.users_of_items().degrees, grown.users_of_items().degrees),
    }
    _print_degrees(rows)


def _print_degrees(rows: dict[str, tuple["np.ndarray", "np.ndarray"]]) -> None:
    """How often users and items occur in train, before and after."""
    import numpy as np

    from infodcl_dist.inference.exposure import gini

    table = Table(title="training pairs of each")
    for column in ("", "mean", "median", "90 %", "99 %", "most", "Gini"):
        table.add_column(column, justify="right")
    for side, both in rows.items():
        for name, degrees in zip((side, f"{side}, grown"), both, strict=True):
            quantiles = [f"{value:.0f}" for value in np.quantile(degrees, [0.5, 0.9, 0.99, 1.0])]
            table.add_row(name, f"{degrees.mean():.2f}", *quantiles, f"{gini(degrees):.3f}")
    console.print(table)
