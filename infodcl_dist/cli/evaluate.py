"""`infodcl-dist evaluate`."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="print the metrics as JSON")
def evaluate(run: Path, split: str, as_json: bool) -> None:
    """Full-catalogue metrics of RUN's best checkpoint."""
    from rich.console import Console

    from infodcl_dist.base.console import is_rank_zero
    from infodcl_dist.parallel.group import process_group
    from infodcl_dist.recipe.run import open_run
    from infodcl_dist.train.trackers import metrics_table

    with process_group(timeout_s=1800) as group:
        metrics = open_run(run, group).evaluator(split)
    if not is_rank_zero():
        return
    if as_json:
        click.echo(json.dumps(metrics))
    else:
        Console().print(metrics_table({split: metrics}, str(run)))
