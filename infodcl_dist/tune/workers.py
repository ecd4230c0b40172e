"""A group of N worker processes in a placement group of Ray, all running one function of the recipe together.

Each worker is a Ray actor, hence a process of its own with one DeepSpeed engine, and joins the process group by the
same environment variables that torchrun sets: one group, one free port. Whatever ends one worker ends all of them.

This module imports no torch: an actor sets its environment first, and the processes that only watch stay small.
"""

import os
import queue
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.machine import MEMORY_SHARE, free_port

GROUP_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
OF_TORCHRUN = "TORCHELASTIC_"  # beginning of the names of its own variables


def leave_group() -> None:
    """Takes this process out of a group that is not the trials', such as that of a torchrun which started the driver:
    by its variables ranks would look for a store that its agent serves, and tell their errors to its file."""
    for name in list(os.environ):
        if name in GROUP_VARIABLES or name.startswith(OF_TORCHRUN):
            del os.environ[name]


class Place(NamedTuple):
    """Where Ray put a worker."""

    node: str
    address: str
    gpus: tuple[str, ...]


class Outcome(NamedTuple):
    """How a worker's work ended, unless it failed."""

    refusal: str | None = None
    """What the user must change: a configuration that does not work, a loss that is not finite."""
    unavailable: str | None = None
    """What the machine refused, such as room on the disk; the same work may be gone on with later."""

    def check(self) -> None:
        """Nothing, when the work is done.

        Raises:
            UserError: what a worker ended with, of its kind.
        """
        if self.unavailable is not None:
            raise Unavailable(self.unavailable)
        if self.refusal is not None:
            raise UserError(self.refusal)


class Worker:
    """One rank. `run` works on one of the actor's threads; `report` and `answer` are called on another meanwhile."""

    def __init__(self) -> None:
        self._reports: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()

    def place(self) -> Place:
        """Where this worker is."""
        gpus = tuple(str(index) for index in ray.get_gpu_ids())
        return Place(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), gpus)

    def free_port(self) -> int:
        """A port of this machine for the group's store."""
        return free_port()

    def run(self, job: str, config_file: str, environment: dict[str, str]) -> Outcome:
        """Joins the group that the environment describes, and does a job of JOBS with a run's configuration."""
        os.environ.update(environment)
        from infodcl_dist.base.config import load_config
        from infodcl_dist.base.console import set_up_log
        from infodcl_dist.parallel.group import process_group
        from infodcl_dist.recipe.config import RunConfig

        config = load_config(RunConfig, Path(config_file))
        set_up_log()
        try:
            with process_group(config.train.timeout_s) as group:
                _JOBS[job](self, config, group)
        except Unavailable as problem:
            return Outcome(unavailable=str(problem))
        except UserError as problem:
            return Outcome(refusal=str(problem))
        finally:
            self._reports.put(None)
        return Outcome()

    def report(self) -> dict[str, Any] | None:
        """The next evaluation, waited for; None when the job is over. Rank 0 has them."""
        return self._reports.get()

    def answer(self, go_on: bool) -> None:
        """Whether training goes on after the report."""
        self._answers.put(go_on)

    def _train(self, config: Any, group: Any) -> None:
        from infodcl_dist.parallel.folders import on_rank_zero
        from infodcl_dist.recipe.run import train_run
        from infodcl_dist.train.loop import EpochReport
        from infodcl_dist.tune.reports import settle

        def is_enough(report: EpochReport) -> bool:
            def ask() -> bool:
                self._reports.put(report.as_record())
                goes_on = self._answers.get()
                if goes_on:
                    settle(config.run.path, report.epoch)
                return not goes_on

            return bool(report.valid) and on_rank_zero(ask)

        train_run(config, group, hooks=[is_enough], splits=["valid"])

    def _make_metadata(self, config: Any, group: Any) -> None:
        from infodcl_dist.parallel.folders import on_rank_zero
        from infodcl_dist.recipe.metadata import channel_rows
        from infodcl_dist.recipe.run import checked_dataset
        from infodcl_dist.train.preemption import StopRequest

        dataset = on_rank_zero(lambda: checked_dataset(config.data.path))
        with StopRequest(config.train.timeout_s) as stop:
            channel_rows(config, dataset, group=group, stop=stop)

    def _evaluate(self, config: Any, group: Any) -> None:
        from infodcl_dist.recipe.run import open_run

        evaluator = open_run(config.run.path, group)
        self._reports.put({split: evaluator(split) for split in ("valid", "test")})


_JOBS = {"train": Worker._train, "make metadata": Worker._make_metadata, "evaluate": Worker._evaluate}


class WorkerGroup:
    """N workers in the bundles of a placement group, that has one bundle for each.

    Args:
        placement: the placement group.
        workers: how many.
        cpus, gpus: of each.
        workers_of_host: how many workers, of all groups, share a machine's memory.

    Attributes:
        is_asked: whether training waits for `answer`.
    """

    def __init__(
        self, placement: PlacementGroup, *, workers: int, cpus: int, gpus: int, workers_of_host: int = 1
    ) -> None:
        actor = ray.remote(Worker)
        self._workers = [
            actor.options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_concurrency=2,
                scheduling_strategy=PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=bundle),
            ).remote()
            for bundle in range(workers)
        ]
        self._cpus, self._workers_of_host = cpus, workers_of_host
        self._running: list[ray.ObjectRef] = []
        self.is_asked = False

    def start(self, job: str, config_file: Path) -> None:
        """Has all workers do a job (`train`, `make metadata` or `evaluate`) with the configuration of a file."""
        places = ray.get([worker.place.remote() for worker in self._workers])
        port = ray.get(self._workers[0].free_port.remote())
        environments = _environments(places, port, self._cpus, self._workers_of_host)
        self._running = [
            worker.run.remote(job, str(config_file), environment)
            for worker, environment in zip(self._workers, environments, strict=True)
        ]

    def next_report(self) -> dict[str, Any] | None:
        """The next evaluation, after which training waits for `answer`; None when all workers are done.

        Raises:
            ray.exceptions.RayError: a worker died or failed; the others are to be ended by `close`.
        """
        next_report = self._workers[0].report.remote()
        pending = list(self._running)
        while True:
            ready, _ = ray.wait([next_report, *pending], num_returns=1)
            if ready[0] == next_report:
                break
            ray.get(ready[0])  # raises what the worker raised
            pending.remove(ready[0])
        report: dict[str, Any] | None = ray.get(next_report)
        self.is_asked = report is not None
        return report

    def answer(self, go_on: bool) -> None:
        """Lets training go on after a report, or end there, saved."""
        if self.is_asked:
            self.is_asked = False
            ray.get(self._workers[0].answer.remote(go_on))

    def outcome(self, timeout_s: float | None = None) -> Outcome:
        """Waits for all workers; what rank 0 says of the end.

        Raises:
            ray.exceptions.RayError: a worker died or failed, or `timeout_s` is over.
        """
        outcomes = ray.get(self._running, timeout=timeout_s)
        return next((outcome for outcome in outcomes if outcome != Outcome()), Outcome())

    def close(self) -> None:
        """Ends all processes, whatever they do."""
        for worker in self._workers:
            ray.kill(worker, no_restart=True)


def _environments(places: list[Place], port: int, threads: int, workers_of_host: int) -> list[dict[str, str]]:
    """What torchrun would set for each rank, and its group's share of the host's memory.

    On one machine the loopback serves, whatever its addresses are.
    """
    nodes = [place.node for place in places]
    is_one_machine = len(set(nodes)) == 1
    made = []
    for rank, place in enumerate(places):
        on_node = [other for other, node in enumerate(nodes) if node == place.node]
        made.append(
            {
                "RANK": str(rank),
                "WORLD_SIZE": str(len(places)),
                "LOCAL_RANK": str(on_node.index(rank)),
                "LOCAL_WORLD_SIZE": str(len(on_node)),
                "MASTER_ADDR": "127.0.0.1" if is_one_machine else places[0].address,
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": str(threads),
                MEMORY_SHARE: str(min(1.0, len(on_node) / workers_of_host)),
                # All of the trial's GPUs on this machine, so that a local rank is a device, as under torchrun.
                "CUDA_VISIBLE_DEVICES": ",".join(gpu for other in on_node for gpu in places[other].gpus),
            }
        )
    return made
