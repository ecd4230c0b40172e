"""Two torchrun agents, as on two machines: one dies whole, the other ends in words, and a new launch goes on."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_survives import (
    EPOCHS,
    KEYS,
    STEPS_AN_EPOCH,
    TOLERANCE_OF_WORLD_SIZE,
    Run,
    dataset,
    environment,
    losses,
    reference,
    steps_kept,
)

from infodcl_dist.base.machine import free_port

__all__ = ["dataset", "reference"]  # fixtures
ENDS_WITHIN_S = 60  # of the other's death; seconds are usual


class Agent:
    """One torchrun agent of two, with one worker."""

    def __init__(self, dataset: Path, folder: Path, port: int, number: int) -> None:
        rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=two-agents"]
        launcher = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=0", *rendezvous]
        keys = [f"data.path={dataset}", f"run.path={folder}", *KEYS]
        self.log = folder.with_name(f"agent-{number}-{time.monotonic_ns()}.log")
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "infodcl_dist.train", *keys],
                env=environment(),
                stdout=stream,
                stderr=stream,
            )

    def said(self) -> str:
        return self.log.read_text()

    def kill_whole(self) -> None:
        """The agent and its worker, at once, as when their machine goes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


def launch(dataset: Path, folder: Path) -> tuple[Agent, Agent]:
    """The first one, started ahead, serves the rendezvous."""
    port = free_port()
    first = Agent(dataset, folder, port, 0)
    deadline = time.monotonic() + 60
    while not listens(port):
        assert first.process.poll() is None, first.said()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return first, Agent(dataset, folder, port, 1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_step(agents: tuple[Agent, Agent], folder: Path, step: int) -> None:
    deadline = time.monotonic() + 90
    while not any(number >= step for number in steps_kept(folder)):
        assert all(agent.process.poll() is None for agent in agents), "".join(a.said()[-3000:] for a in agents)
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.timeout(280)
@pytest.mark.parametrize("killed", [0, 1], ids=["the one that serves the rendezvous", "the other one"])
def test_the_agent_that_stays_ends_in_words_and_a_new_launch_goes_on(dataset, reference, tmp_path, killed):
    folder = tmp_path / "run"
    agents = launch(dataset, folder)
    try:
        wait_for_step(agents, folder, 25)
        agents[killed].kill_whole()
        stays, died = agents[1 - killed], time.monotonic()
        status = stays.process.wait(ENDS_WITHIN_S)
    finally:
        for agent in agents:
            agent.process.kill()
    assert status == 1, stays.said()[-3000:]
    cause = re.search(r"Rank \d of 2 lost another one: .* run again, goes on from the last checkpoint", stays.said())
    assert cause, f"after {time.monotonic() - died:.1f} s:\n{stays.said()[-6000:]}"
    assert steps_kept(folder)[-1] < EPOCHS * STEPS_AN_EPOCH, "killed in the middle"

    shutil.copytree(folder, tmp_path / "alone")
    alone = Run(dataset, tmp_path / "alone", 1)
    assert alone.wait() == 0, alone.said()[-3000:]
    both = launch(dataset, folder)
    assert [agent.process.wait(100) for agent in both] == [0, 0], "".join(agent.said()[-3000:] for agent in both)
    for went_on, said in ((tmp_path / "alone", alone.said()), (folder, "".join(agent.said() for agent in both))):
        assert "going on from" in said
        np.testing.assert_allclose(losses(went_on), losses(reference), rtol=TOLERANCE_OF_WORLD_SIZE)
