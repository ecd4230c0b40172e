"""`infodcl-dist tune`."""

from importlib.util import find_spec
from pathlib import Path

import click

from infodcl_dist.base.console import set_up_log
from infodcl_dist.base.errors import UserError
from infodcl_dist.cli.train import config_option, overrides_argument

NEEDED = ("ray", "optuna", "matplotlib")


@click.command()
@config_option
@click.option("--resume", is_flag=True, help="go on with the study that lies in `path`; without one, begin")
@click.option("--address", help="a running Ray cluster, `auto` for this machine's; else Ray is started for the sweep")
@overrides_argument
def tune(config_file: Path | None, resume: bool, address: str | None, overrides: tuple[str, ...]) -> None:
    """Searches hyperparameters: trials of N workers each under Ray Tune, the best one chosen by validation."""
    from infodcl_dist.base.config import load_config

    check_packages()
    from infodcl_dist.tune.config import TuneConfig
    from infodcl_dist.tune.sweep import run_sweep

    set_up_log()
    run_sweep(load_config(TuneConfig, config_file, overrides), address=address, resume=resume)


def check_packages() -> None:
    """Whether what sweeps need is installed.

    Raises:
        UserError: it is not; names the package and the extra.
    """
    for name in NEEDED:
        if find_spec(name) is None:
            raise UserError(f"tune needs the package {name}; install the extra: pip install 'infodcl-dist[tune]'")
