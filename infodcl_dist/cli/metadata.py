"""`infodcl-dist metadata`."""

from functools import partial
from pathlib import Path

import click

from infodcl_dist.base.console import console, is_rank_zero, set_up_log
from infodcl_dist.cli.processes import with_processes
from infodcl_dist.cli.train import config_option, overrides_argument, stopped_with_status


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@config_option
@overrides_argument
@partial(with_processes, saves=True)
def metadata(dataset: Path, config_file: Path | None, overrides: tuple[str, ...]) -> None:
    """Pre-trains on DATASET and builds all channels that can be made for it, as `train` does those that it misses.

    For `train` to find them, give the configuration and the keys of section `metadata` that it is given.
    """
    from infodcl_dist.base.config import load_config
    from infodcl_dist.parallel.folders import on_rank_zero
    from infodcl_dist.parallel.group import process_group
    from infodcl_dist.recipe.config import RunConfig
    from infodcl_dist.recipe.metadata import check_social_graph, ensure_channels, makeable_channels
    from infodcl_dist.recipe.run import checked_dataset
    from infodcl_dist.train.preemption import StopRequest

    config = load_config(RunConfig, config_file, [f"data.path={dataset}", "run.path=unused", *overrides])
    set_up_log()
    with (
        process_group(config.train.timeout_s) as group,
        stopped_with_status(),
        StopRequest(config.train.timeout_s) as stop,
    ):
        opened = on_rank_zero(lambda: checked_dataset(config.data.path))
        check_social_graph(config, opened)
        files = ensure_channels(config, opened, makeable_channels(opened), group=group, stop=stop)
    if is_rank_zero():
        for file in files.values():
            console.print(f"metadata  {file}")
