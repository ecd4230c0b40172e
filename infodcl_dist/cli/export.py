"""`infodcl-dist export`."""

import shutil
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder to make")
def export(run: Path, out: Path) -> None:
    """Writes RUN's final embeddings, users.npy and items.npy, and the ids of their rows, *.parquet."""
    from infodcl_dist.base.console import console
    from infodcl_dist.base.files import new_folder
    from infodcl_dist.inference.export import export_embeddings
    from infodcl_dist.parallel.group import process_group
    from infodcl_dist.recipe.run import open_run

    with process_group(timeout_s=1800) as group:
        trained = open_run(run, group)
        with new_folder(out) as building:
            export_embeddings(trained.evaluator.embeddings(), building)
            for name in ("users.parquet", "items.parquet"):
                shutil.copyfile(trained.dataset.path / name, building / name)
    console.print(f"embeddings  {out}")
