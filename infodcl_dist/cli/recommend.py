"""`infodcl-dist recommend`."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), required=True, help="items a user")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Parquet file to make")
@click.option(
    "--users", type=click.Path(path_type=Path), help="ids, one a line, or Parquet with a column user; else all"
)
def recommend(run: Path, top: int, out: Path, users: Path | None) -> None:
    """Writes each user's best items by RUN's best checkpoint: columns user, item, rank (from 1), score.

    Items that a user has in training are left out. Users come in the data set's order.
    """
    import numpy as np
    import pyarrow.parquet as pq

    from infodcl_dist.base.console import console, progress
    from infodcl_dist.base.errors import UserError
    from infodcl_dist.base.files import new_file
    from infodcl_dist.data.id_list import read_id_list
    from infodcl_dist.inference.ranking import USER_CHUNK
    from infodcl_dist.inference.recommendation import recommendations
    from infodcl_dist.parallel.group import process_group
    from infodcl_dist.recipe.run import open_run

    if out.exists():
        raise UserError(f"{out}: exists already; choose another file, or remove it")
    with process_group(timeout_s=1800) as group:
        trained = open_run(run, group)
        user_ids, item_ids = trained.dataset.user_ids(), trained.dataset.item_ids()
        wanted = np.arange(len(user_ids)) if users is None else read_id_list(users, user_ids)
        tables = recommendations(
            trained.evaluator.embeddings(),
            wanted,
            user_ids=user_ids,
            item_ids=item_ids,
            masks=[trained.evaluator.graph.items_of_user],
            k=top,
            group=group,
        )
        with new_file(out) as building:
            first = next(tables)
            with pq.ParquetWriter(building, first.schema) as writer:
                writer.write_table(first)
                for table in progress(tables, "users", -(-len(user_ids) // USER_CHUNK) - 1):
                    writer.write_table(table)
    console.print(f"recommendations  {out}: {len(wanted):,} users, {min(top, len(item_ids))} items each at most")
