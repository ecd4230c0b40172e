"""`--nproc N`: a command, run again in N local processes that form one group."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from infodcl_dist.base.files import TERMINATED
from infodcl_dist.base.machine import cores

# For commands whose rank 0 works alone at the end, however long that takes; one that dies is noticed at once.
WAIT_FOR_RANK_ZERO_S = 24 * 3600.0


def with_processes(command: Callable[..., None], *, saves: bool = False) -> Callable[..., None]:
    """Adds `--nproc` to a command's function, which runs here for one process and else in N workers of torchrun's.

    Args:
        command: the function.
        saves: whether, asked to stop, it saves and ends with `train`'s status for that.
    """

    @click.option("--nproc", type=click.IntRange(min=1), default=1, show_default=True, help="local processes")
    @click.pass_context
    @functools.wraps(command)
    def start(context: click.Context, nproc: int, **given: Any) -> None:
        if nproc == 1:
            command(**given)
        else:
            endings = _endings_of_saved() if saves else {}
            run_in_processes("infodcl_dist", [str(context.info_name), *_as_typed(context)], nproc, **endings)

    return start


def run_in_processes(
    module: str,
    arguments: list[str],
    processes: int,
    *,
    chosen: frozenset[int] = frozenset({2}),
    terminated: int = TERMINATED,
) -> None:
    """Runs `python -m module arguments` in local processes, the cores that we may use shared out among them.

    Args:
        module, arguments: what every worker runs.
        processes: how many.
        chosen: statuses that workers end with on purpose, having said why themselves.
        terminated: the status when a SIGTERM ended them.

    Raises:
        click.exceptions.Exit: with the status of the first worker that failed.
    """
    from infodcl_dist.parallel.launch import WorkerFailed, run_workers

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    try:
        status = run_workers(module, arguments, processes=processes, chosen=chosen)
    except WorkerFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        status = 1
    if status != 0:
        raise click.exceptions.Exit(terminated if status is None else status)


def _endings_of_saved() -> dict[str, Any]:
    from infodcl_dist.train.preemption import STATUS

    return {"chosen": frozenset({2, STATUS}), "terminated": STATUS}


def _as_typed(context: click.Context) -> list[str]:
    """The command's arguments as a user would type them, without `--nproc`."""
    typed: list[str] = []
    for parameter in context.command.params:
        value = context.params[str(parameter.name)]
        if parameter.name == "nproc" or value is None or value is False:
            continue
        if isinstance(parameter, click.Argument):
            typed += [str(value)] if parameter.nargs == 1 else value
        else:
            typed += [parameter.opts[0]] if value is True else [parameter.opts[0], str(value)]
    return typed
