"""`infodcl-dist prepare`: interaction files to a dataset folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from infodcl_dist.base.console import console, set_up_log

if TYPE_CHECKING:
    from infodcl_dist.data.dataset import Manifest

FORMATS = ("pairs", "adjacency", "csv", "tsv", "inter", "parquet")  # readers.FORMATS, which is slow to import


def _files_by_name(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, Path]:
    """`NAME=FILE` options to files by name."""
    files: dict[str, Path] = {}
    for value in values:
        name, equals, file = value.partition("=")
        if not (equals and file):
            raise click.BadParameter(f"{value}: write NAME=FILE", context, parameter)
        if name in files:
            raise click.BadParameter(f"{name} is given twice; rename one", context, parameter)
        files[name] = Path(file)
    return files


@click.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="DATASET", type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--format", type=click.Choice(FORMATS), help="How SRC is written; found by itself when left out.")
@click.option("--user-column", metavar="NAME", help="The column of user ids.")
@click.option("--item-column", metavar="NAME", help="The column of item ids.")
@click.option("--rating-column", metavar="NAME", help="The column of ratings; '' for none.")
@click.option("--time-column", metavar="NAME", help="The column of times; '' for none.")
@click.option(
    "--split",
    type=click.Choice(("ratio", "temporal", "leave-one-out")),
    help="How one table is split (default: ratio). Leave-one-out holds out each user's last two pairs; where there is "
    "no time (a table: --time-column ''), any two by --seed. A folder with train and test files keeps its splits.",
)
@click.option(
    "--time-cut",
    type=click.Choice(("global", "user")),
    help="A temporal split cuts all pairs at two moments (default: global), or each user's own by their order in time.",
)
@click.option("--ratio", help="Shares of train, validation and test (default: 8:1:1).")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Of the random draws.")
@click.option("--min-rating", type=float, help="Leave out pairs rated lower.")
@click.option("--k-core", default=0, type=click.IntRange(min=0), help="Keep users and items with K pairs or more.")
@click.option(
    "--item-features",
    metavar="NAME=FILE",
    multiple=True,
    callback=_files_by_name,
    help="A .npy matrix whose row k belongs to item k, or Parquet with a column id. Repeatable.",
)
@click.option(
    "--item-graph",
    metavar="NAME=FILE",
    multiple=True,
    callback=_files_by_name,
    help="Facts of items: RecBole's .kg, or lines of item, relation and value parted by tabs. Repeatable.",
)
@click.option(
    "--user-graph",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Pairs of users that know each other, in any format of SRC; a table's first two columns.",
)
@click.option(
    "--unknown-ids",
    type=click.Choice(("error", "keep", "drop")),
    help="Ids that given validation or test files alone have, of integers those beyond train's largest: refuse "
    "(default: error), keep in the catalogue, or drop their pairs.",
)
def prepare(source: Path, out: Path, ratio: str | None, **options: Any) -> None:
    """Make the dataset folder that all other commands work on, from SRC: a file or a folder of interactions."""
    from infodcl_dist.data.columns import Columns
    from infodcl_dist.data.prepare import PrepareOptions
    from infodcl_dist.data.prepare import prepare as make_dataset
    from infodcl_dist.data.splits import parse_ratio

    set_up_log()
    columns = Columns(**{role: options.pop(f"{role}_column") for role in ("user", "item", "rating", "time")})
    shares = None if ratio is None else parse_ratio(ratio)
    manifest = make_dataset(source, out, PrepareOptions(columns=columns, ratio=shares, **options))
    _print_summary(out, manifest)


def _print_summary(out: Path, manifest: "Manifest") -> None:
    table = Table(title=f"{out}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    figures = {"users": manifest.users, "items": manifest.items}
    figures |= {f"{split} pairs": count for split, count in manifest.counts.items()}
    figures |= {f"left out: {reason}": count for reason, count in manifest.removed.items()}
    figures |= {f"feature {name}, width": feature.width for name, feature in manifest.features.items()}
    figures |= {f"feature {name}, items without": of.missing for name, of in manifest.features.items() if of.missing}
    figures |= {f"graph {name}, attributes": graph.attributes for name, graph in manifest.item_graphs.items()}
    figures |= {} if manifest.user_graph is None else {"user graph, neighbours": manifest.user_graph.pairs}
    for what, figure in figures.items():
        table.add_row(what, f"{figure:,}")
    console.print(table)
