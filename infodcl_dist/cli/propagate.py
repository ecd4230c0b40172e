"""`infodcl-dist propagate`."""

from pathlib import Path
from typing import Any

import click

from infodcl_dist.base.console import console, is_rank_zero, set_up_log
from infodcl_dist.cli.processes import with_processes

PLANS = ("auto", "by_dimension", "by_row", "out_of_core")  # propagation_plan.PLANS, which is slow to import
TIMEOUT_S = 7 * 24 * 3600  # ranks of an out-of-core pass wait for each other at its end alone


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--users", required=True, metavar="U.npy", type=click.Path(path_type=Path), help="rows of all users")
@click.option("--items", required=True, metavar="I.npy", type=click.Path(path_type=Path), help="rows of all items")
@click.option("--layers", required=True, metavar="K", type=click.IntRange(0, 100), help="layers 0 to K are averaged")
@click.option(
    "--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="for users.npy and items.npy"
)
@click.option(
    "--max-memory-gb",
    metavar="G",
    type=click.FloatRange(min=0, min_open=True),
    help="GiB that all processes of a host may take together  [default: 0.8 of its memory]",
)
@click.option("--plan", type=click.Choice(PLANS), default="auto", show_default=True, help="who holds what")
@click.option(
    "--precision",
    type=click.Choice(("float32", "bfloat16")),
    default="float32",
    show_default=True,
    help="of the rows that are summed, in float32",
)
@with_processes
def propagate(dataset: Path, layers: int, out: Path, **options: Any) -> None:
    """The GCN pass alone: the mean of layers 0 to K over DATASET's training pairs, of arrays of any size.

    Interrupted, the same command goes on where it was if its plan is out_of_core, and else begins anew. Under
    torchrun: -m infodcl_dist propagate …
    """
    from infodcl_dist.base.config import config_of_options
    from infodcl_dist.data.dataset import open_dataset
    from infodcl_dist.graph.propagation_plan import PropagationConfig
    from infodcl_dist.inference.stored_tables import open_tables, propagate_stored
    from infodcl_dist.parallel.folders import on_rank_zero
    from infodcl_dist.parallel.group import process_group

    given = {name: value for name, value in options.items() if value is not None}
    tables = given.pop("users"), given.pop("items")
    config = config_of_options(PropagationConfig, given)
    set_up_log()
    with process_group(TIMEOUT_S) as group:
        opened = on_rank_zero(lambda: open_dataset(dataset, verify=True))
        stored = open_tables(*tables, opened, group)
        propagate_stored(stored, opened, layers, config=config, group=group, out=out)
    if is_rank_zero():
        console.print(f"propagated  {out}: users.npy, items.npy, {layers} layers")
