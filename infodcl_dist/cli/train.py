"""`infodcl-dist train`, and the worker that torchrun starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from infodcl_dist.base.console import log, set_up_log

PROFILED_STEPS = 10
config_option = click.option("--config", "config_file", type=click.Path(path_type=Path), help="configuration, YAML")
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


@click.command()
@config_option
@click.option("--nproc", type=click.IntRange(min=1), default=1, show_default=True, help="local processes")
@click.option("--profile", is_flag=True, help=f"write a profiler's trace of {PROFILED_STEPS} steps: run.path/profile")
@overrides_argument
def train(config_file: Path | None, nproc: int, profile: bool, overrides: tuple[str, ...]) -> None:
    """Trains a run in N local processes; the same as torchrun with -m infodcl_dist.train."""
    if profile:
        overrides = (f"train.profile_steps={PROFILED_STEPS}", *overrides)
    if nproc == 1:
        # In this process: a worker of its own would import the libraries a second time, seconds before the first step.
        train_here(config_file, overrides)
    else:
        _train_in_workers(config_file, nproc, overrides)


def _train_in_workers(config_file: Path | None, nproc: int, overrides: tuple[str, ...]) -> None:
    from infodcl_dist.base.config import load_config
    from infodcl_dist.cli.processes import run_in_processes
    from infodcl_dist.recipe.config import RunConfig
    from infodcl_dist.recipe.run import check_run
    from infodcl_dist.train.preemption import STATUS

    # Checked here as well, so that what the user must change is one line and not N workers' ends.
    check_run(load_config(RunConfig, config_file, overrides))
    arguments = ["--config", str(config_file)] if config_file is not None else []
    run_in_processes(
        "infodcl_dist.train", [*arguments, *overrides], nproc, chosen=frozenset({2, STATUS}), terminated=STATUS
    )


@click.command(name="python -m infodcl_dist.train")
@config_option
@overrides_argument
def worker(config_file: Path | None, overrides: tuple[str, ...]) -> None:
    """One worker of a run: every rank of torchrun runs this."""
    train_here(config_file, overrides)


def train_here(config_file: Path | None, overrides: tuple[str, ...]) -> None:
    """Trains in this process, alone or as one of a group that the environment describes.

    Raises:
        click.exceptions.Exit: see `stopped_with_status`.
    """
    from infodcl_dist.base.config import load_config
    from infodcl_dist.parallel.group import process_group
    from infodcl_dist.recipe.config import RunConfig
    from infodcl_dist.recipe.run import train_run

    config = load_config(RunConfig, config_file, overrides)
    set_up_log()
    # With the key the same command would replace what was just saved.
    remark = ", without run.overwrite" if config.run.overwrite else ""
    with process_group(config.train.timeout_s) as group, stopped_with_status(remark):
        train_run(config, group)


@contextmanager
def stopped_with_status(remark: str = "") -> Iterator[None]:
    """Training that was asked to stop in the block says what is saved, and ends with a status of its own.

    Args:
        remark: what else to say of the same command, which goes on.

    Raises:
        click.exceptions.Exit: with that status.
    """
    from infodcl_dist.train.preemption import STATUS, Preempted

    try:
        yield
    except Preempted as request:
        log.warning("%s%s", request, remark)
        raise click.exceptions.Exit(STATUS) from None
