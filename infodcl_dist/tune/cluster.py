"""Ray for a sweep: a running cluster or one of this machine alone, and how many trials it has room for."""

import logging
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group

from infodcl_dist.base.console import log
from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.machine import cores
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.workers import WorkerGroup, leave_group

# Data goes by path and memory map; the object store holds reports alone. (Ray's own minimum is 75 MiB.)
OBJECT_STORE_BYTES = 100 * 2**20
STARTS = 3
CONNECT_S = 5.0
WAIT_S = 60  # for resources, till it is said
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers set CUDA_VISIBLE_DEVICES themselves
    "RAY_AIR_NEW_OUTPUT": "0",  # the other reporter prints failures whatever its verbosity
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run folder has its own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep at once; --resume goes on
    "TUNE_RESULT_BUFFER_LENGTH": "1",  # a trial waits for the word on each report
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class Node(NamedTuple):
    """A machine's resources."""

    cpus: int
    gpus: int


@contextmanager
def connected(config: TuneConfig, address: str | None) -> Iterator[list[Node]]:
    """Ray for the block, and the machines it has.

    Args:
        config: the sweep.
        address: of a running cluster, `auto` for the one of this machine; None starts one for the block.

    Raises:
        UserError: there is no cluster at the address.
    """
    leave_group()
    os.environ.update(QUIET)
    # Failures are told in one line each, see `Failures`.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    before = signal.getsignal(signal.SIGTERM)
    if address is None:
        _start(config)
    else:
        _join(address)
    signal.signal(signal.SIGTERM, _end)  # Ray's own handler aborts with a trace of C++
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield [Node(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in machines]
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def _end(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal_number)


def check_address(address: str) -> None:
    """Whether something listens at a cluster's address; Ray itself waits minutes, and then ends the process.

    Raises:
        UserError: nothing does, or it is no address, or one of Ray's client protocol.
    """
    if address in ("auto", "local"):
        return
    if address.startswith("ray://"):  # there Tune runs on the other machine, out of reach of what this one keeps
        raise UserError(
            f"--address {address}: a sweep is started on a machine of the cluster, not from afar; go there, and give "
            "--address auto"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, ValueError, OverflowError):
        raise UserError(
            f"--address {address}: nothing listens there; give HOST:PORT of a running Ray cluster, or auto; "
            "launch/ray-cluster.yaml says how to start one"
        ) from None


def _join(address: str) -> None:
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise UserError(
            f"--address {address}: no Ray cluster there, or one that wants a token which this process does not have "
            f"({error}); launch/ray-cluster.yaml says how to start one"
        ) from None


def _start(config: TuneConfig) -> None:
    """Starts Ray here. It gives itself 30 seconds, which a busy machine may need more than once."""
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                "local",
                num_cpus=config.cpus or cores(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start within its time; attempt %d of %d", attempt, STARTS)
    raise UserError(f"Ray did not start here in {STARTS} attempts: the machine is too busy; try again later")


def slots(config: TuneConfig, nodes: list[Node]) -> int:
    """How many trials fit at a time, with `max_concurrent`. A trial's workers may lie on several machines.

    Raises:
        UserError: not even one fits, so that it would wait forever.
    """
    fit = sum(_workers_on(node, config) for node in nodes) // config.workers_per_trial
    if fit == 0:
        cpus, gpus = config.cpus_per_worker, config.gpus_per_worker
        have = ", ".join(f"{node.cpus} cores and {node.gpus} GPUs" for node in nodes)
        raise UserError(
            f"workers_per_trial: {config.workers_per_trial} workers of {cpus} cores and {gpus} GPUs do not fit on "
            f"{have}; lower workers_per_trial, cpus_per_worker or gpus_per_worker, or add machines"
        )
    return min(fit, config.max_concurrent or fit)


def workers_of_host(config: TuneConfig, nodes: list[Node], trials: int) -> int:
    """How many workers the machine with the most has at a time, of so many trials that are to be run."""
    at_once = min(slots(config, nodes), trials)
    return min(max(_workers_on(node, config) for node in nodes), at_once * config.workers_per_trial)


def _workers_on(node: Node, config: TuneConfig) -> int:
    cpus, gpus = config.cpus_per_worker, config.gpus_per_worker
    return min(node.cpus // cpus, node.gpus // gpus if gpus else node.cpus)


def say_slots(config: TuneConfig, nodes: list[Node]) -> None:
    """Prints how the number of concurrent trials comes about."""
    log.info(
        "machines: %d with %d cores and %d GPUs; a trial: %d workers of %d cores and %d GPUs; trials at a time: %d%s",
        len(nodes),
        sum(node.cpus for node in nodes),
        sum(node.gpus for node in nodes),
        config.workers_per_trial,
        config.cpus_per_worker,
        config.gpus_per_worker,
        slots(config, nodes),
        f" (max_concurrent: {config.max_concurrent})" if config.max_concurrent else "",
    )
    if config.gpus_per_worker == 0 and any(node.gpus for node in nodes):
        log.warning("gpus_per_worker is 0: trials train on the CPU; give gpus_per_worker=1 to train on the GPUs")


def bundles(config: TuneConfig) -> list[dict[str, float]]:
    """What a trial reserves: a bundle for each worker."""
    worker = {"CPU": float(config.cpus_per_worker), "GPU": float(config.gpus_per_worker)}
    return [{name: amount for name, amount in worker.items() if amount}] * config.workers_per_trial


def work(job: str, config_file: Path, config: TuneConfig) -> dict[str, Any] | None:
    """Has workers as a trial has them do a job outside of Tune, again as often as a trial is tried; what they report.

    Args:
        job, config_file: see `WorkerGroup.start`.
        config: the sweep.

    Raises:
        UserError: the workers ended with it; or (Unavailable) a worker died in the last attempt.
        RayTaskError: a worker raised in it what is no fault of the user's.
    """
    for attempt in range(1, config.retries + 2):
        try:
            with _workers_at(job, config_file, config) as workers:
                report = workers.next_report()
                workers.outcome().check()
                return report
        except RayError as error:
            failure, reason = error, reason_of(str(error))
            log.warning("%s: attempt %d failed: %s", job, attempt, reason)
    if isinstance(failure, RayTaskError):
        raise failure
    raise Unavailable(f"{job}: failed {attempt} times ({reason}); --resume tries again") from failure


def reason_of(text: str) -> str:
    """The last line of a traceback that names an exception; of other text the first line."""
    named = [line.strip() for line in text.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return named[-1] if named else text.strip().partition("\n")[0] or "no reason known"


@contextmanager
def _workers_at(job: str, config_file: Path, config: TuneConfig) -> Iterator[WorkerGroup]:
    """Workers outside of Tune that have begun a job; they go when the block ends."""
    placement = placement_group(bundles(config), strategy="PACK")
    try:
        while not placement.wait(WAIT_S):
            log.warning("%s waits for resources: others hold them, or a machine is gone", job)
        workers = WorkerGroup(
            placement, workers=config.workers_per_trial, cpus=config.cpus_per_worker, gpus=config.gpus_per_worker
        )
        try:
            workers.start(job, config_file)
            yield workers
        finally:
            workers.close()
    finally:
        remove_placement_group(placement)
