"""`infodcl-dist report`."""

from importlib.util import find_spec
from pathlib import Path

import click

from infodcl_dist.base.console import console
from infodcl_dist.base.errors import UserError


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="folder to make: index.html, results.md, PNG"
)
@click.option(
    "--yardstick",
    "yardsticks",
    multiple=True,
    help="a model of the table, such as lightgcn; repeatable: the best by validation is what others are tested against",
)
@click.option("--fixed", type=click.Path(path_type=Path), help="JSON of closed-form yardsticks, see benchmarks/ease.py")
def report(runs: tuple[Path, ...], out: Path, yardsticks: tuple[str, ...], fixed: Path | None) -> None:
    """Figures and tables of finished RUNs: means over seeds, paired tests, curves."""
    if find_spec("matplotlib") is None:
        raise UserError("report needs the package matplotlib; install the extra: pip install 'infodcl-dist[tune]'")
    from infodcl_dist.report.page import write_report

    groups = write_report(list(runs), out, yardsticks=yardsticks, fixed=fixed)
    console.print(f"{len(runs)} runs in {len(groups)} groups\npage      {out / 'index.html'}")
    console.print(f"markdown  {out / 'results.md'}")
