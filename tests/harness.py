"""Runs a function on W real processes that form one gloo group, and returns what each rank returned.

A pool of W processes is started when a test first asks for W ranks, and its process group serves every later test:
joining takes seconds, a call milliseconds. The processes are forked from a server that has imported the package and its
libraries once (Python's `forkserver`), so a pool costs well under a second. Whatever goes wrong in a call (an
exception, a dead process, a time-out) ends all processes of the pool; the next call starts fresh ones.

Functions and arguments travel by pickle, so functions must stand at a module's top level. The first argument is always
the rank's `Group`.
"""

import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

from infodcl_dist.base.machine import free_port

# deepspeed itself is imported by the package only when an engine is built, so it is named here.
PRELOADED = ["infodcl_dist.recipe.model", "deepspeed"]
# Gloo on the CPU even where there is a GPU; one thread a rank, since the ranks share the cores.
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
START_TIMEOUT_S = 120.0  # the first pool waits for the imports, on a machine that may be busy
CALL_TIMEOUT_S = 60.0
# Waited after the first failure for others: a dead process makes its peers' collectives raise, perhaps before its own
# end is seen, and the message must name it.
SECOND_FAILURES_S = 0.2


class RanksFailed(AssertionError):
    """A call that did not return on every rank; the message holds the first failing rank's traceback."""


@dataclass(frozen=True)
class Worker:
    """One rank's process, and the parent's end of its pipe."""

    process: ForkServerProcess
    pipe: Connection


class Pool:
    """W processes in one process group."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.workers: list[Worker] = []

    def call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float = CALL_TIMEOUT_S) -> list[Any]:
        """`function(group, *arguments)` on every rank; results in rank order.

        Raises:
            RanksFailed: a rank raised or died, or not all returned within `timeout_s`. All processes are gone then.
        """
        try:
            if not self.workers:
                self._start()
            order = pickle.dumps((function, arguments))
            for worker in self.workers:
                worker.pipe.send_bytes(order)
            return self._answers(timeout_s, getattr(function, "__name__", "call"))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kills all processes and waits for their ends."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()
        self.workers = []

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        port = free_port()
        with _environment(ENVIRONMENT):
            forkserver.ensure_running()
        for rank in range(self.world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.world_size, port, theirs), daemon=True)
            process.start()
            theirs.close()
            self.workers.append(Worker(process, ours))
        self._answers(START_TIMEOUT_S, "joining the process group")

    def _answers(self, timeout_s: float, what: str) -> list[Any]:
        answers: dict[int, Any] = {}
        failures: dict[int, str] = {}
        deadline = time.monotonic() + timeout_s
        while len(answers) < self.world_size:
            pipes = {self.workers[rank].pipe: rank for rank in range(self.world_size) if rank not in answers}
            ready = connection.wait(list(pipes), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for rank in sorted(pipes[pipe] for pipe in ready):
                ok, answers[rank] = self._receive(rank)
                if not ok:
                    failures[rank] = answers[rank]
                    deadline = min(deadline, time.monotonic() + SECOND_FAILURES_S)
        if failures:
            raise RanksFailed(self._explained(failures, what))
        missing = [rank for rank in range(self.world_size) if rank not in answers]
        if missing:
            raise RanksFailed(f"{what}: rank {missing} of {self.world_size} did not return in {timeout_s:g} s")
        return [answers[rank] for rank in range(self.world_size)]

    def _explained(self, failures: dict[int, str], what: str) -> str:
        """The first failure whole, of the others the last line."""
        first = next(iter(failures))
        texts = {rank: text if rank == first else text.splitlines()[-1] for rank, text in failures.items()}
        return "\n".join(f"{what}: rank {rank} of {self.world_size} failed:\n{text}" for rank, text in texts.items())

    def _receive(self, rank: int) -> tuple[bool, Any]:
        try:
            return pickle.loads(self.workers[rank].pipe.recv_bytes())
        except (EOFError, ConnectionError):
            self.workers[rank].process.join(timeout=5)
            return False, f"its process ended with exit code {self.workers[rank].process.exitcode}"


class Ranks:
    """Pools by world size; the fixture `ranks` is one of these."""

    def __init__(self) -> None:
        self.pools: dict[int, Pool] = {}

    def __call__(
        self, world_size: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = CALL_TIMEOUT_S
    ) -> list[Any]:
        """See `Pool.call`."""
        pool = self.pools.setdefault(world_size, Pool(world_size))
        return pool.call(function, *arguments, timeout_s=timeout_s)

    def close(self) -> None:
        """Ends all pools."""
        for pool in self.pools.values():
            pool.close()


def _serve(rank: int, world_size: int, port: int, pipe: Connection) -> None:
    os.environ.update(
        ENVIRONMENT,
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        import torch

        from infodcl_dist.parallel.group import process_group

        torch.set_num_threads(1)
        # Longer than a call may take: the parent's time-out comes first, and names the ranks.
        with process_group(timeout_s=2 * CALL_TIMEOUT_S) as group:
            pipe.send_bytes(pickle.dumps((True, None)))
            _answer_calls(pipe, group)
    except Exception:
        pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))


def _answer_calls(pipe: Connection, group: Any) -> None:
    while True:
        try:
            order = pipe.recv_bytes()
        except EOFError:  # the parent is gone
            return
        try:
            function, arguments = pickle.loads(order)
            answer = pickle.dumps((True, function(group, *arguments)))
        except Exception:
            # The group stays joined: leaving it would make the peers' collectives raise too, and their tracebacks would
            # stand beside the one that matters. The parent ends all.
            answer = pickle.dumps((False, traceback.format_exc()))
        pipe.send_bytes(answer)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
