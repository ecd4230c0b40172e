"""Local workers, started and watched by torchrun's own agent."""

import logging
import signal
import sys
import uuid

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


class WorkerFailed(Exception):
    """A worker ended with a status that it did not choose."""


def run_workers(module: str, arguments: list[str], *, processes: int, chosen: frozenset[int]) -> int | None:
    """Runs `python -m module arguments` in local processes of one group, as torchrun does.

    Args:
        module, arguments: what every worker runs.
        processes: how many.
        chosen: statuses that workers end with on purpose, having said why themselves.

    Returns:
        0 when all workers did; the chosen status of the first that failed; None when a SIGTERM ended them, and the
        status that a shell reports when another signal did (Ctrl-C, a closed terminal). A signal is passed on to the
        workers first.

    Raises:
        WorkerFailed: a worker failed with any other status.
    """
    # The agent would add its own report to what the workers say.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status: int = failure.exitcode
        if status not in chosen:
            raise WorkerFailed(f"rank {rank} ended with status {status}; its output is above") from error
        return status
    except SignalException as ended:
        return None if ended.sigval == signal.SIGTERM else 128 + int(ended.sigval)
    return 0
