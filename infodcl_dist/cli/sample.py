"""`infodcl-dist sample`: real data to try things on."""

import shutil
from pathlib import Path

import click

from infodcl_dist.base.files import new_file, refuse_existing
from infodcl_dist.data.sample import default_cache, fetch_ml_100k


@click.command()
@click.argument("name", type=click.Choice(["ml-100k"]))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the interactions to this file."
)
def sample(name: str, out: Path | None) -> None:
    """Fetch the sample data set NAME once, verify it, and print the path of its interactions.

    It is kept under ~/.cache/infodcl_dist, or $INFODCL_CACHE; item, user and knowledge files lie beside it.
    """
    if out is not None:
        refuse_existing(out, kind="file")
    path = fetch_ml_100k(default_cache())
    if out is not None:
        with new_file(out) as building:
            shutil.copyfile(path, building)
        path = out
    click.echo(path)
