"""`launch/slurm.sbatch` with stand-ins for SLURM's commands: what it starts, and when it queues its job again."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

SCRIPT = Path(__file__).parents[3] / "launch" / "slurm.sbatch"
STAND_INS = {
    # A step that ends with $STATUS by itself, or works until SIGTERM and then saves for a while, as torchrun: status 1.
    "srun": 'echo "$@" >>srun.txt; echo "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" >timeout.txt\n'
    '[[ $STATUS ]] && exit "$STATUS"\n'
    "trap 'sleep 0.3; echo saved >>srun.txt; exit 1' TERM; echo $$ >pid.txt; while :; do sleep 0.05; done",
    "scancel": 'echo "$@" >scancel.txt; kill -TERM "$(<pid.txt)"',
    "scontrol": 'echo "$@" >>scontrol.txt; [[ $1 == show ]] && printf "node-7\\nnode-8\\n"; exit 0',
}
JOB = {
    "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NODELIST": "node-[7-8]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_CPUS_PER_TASK": "64",
    "SLURM_GPUS_ON_NODE": "8",
}
KEYS = ["--config", "configs/office.yaml", "run.path=runs/a"]


@contextmanager
def started(folder: Path, status: str) -> Iterator[subprocess.Popen]:
    """The job; at the end of the block nothing of it is left."""
    for name, body in STAND_INS.items():
        file = folder / ".venv/bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/usr/bin/env bash\n{body}\n")
        file.chmod(0o755)
    environment = os.environ | JOB | {"STATUS": status}
    job = subprocess.Popen(["bash", SCRIPT, *KEYS], cwd=folder, env=environment, start_new_session=True)
    try:
        yield job
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def until(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not lines(file):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_out_of_time_saves_and_is_queued_again(tmp_path: Path) -> None:
    with started(tmp_path, "") as job:
        until(tmp_path / "pid.txt")
        job.send_signal(signal.SIGUSR1)
        assert job.wait(60) == 1
    assert lines(tmp_path / "scancel.txt") == ["--signal=TERM 123456"]
    assert lines(tmp_path / "srun.txt")[1:] == ["saved"], "it waits for that"
    assert lines(tmp_path / "scontrol.txt") == ["show hostnames node-[7-8]", "requeue 123456"]


@pytest.mark.parametrize("status", ["0", "2"])
def test_a_run_that_ends_by_itself_is_not_queued_again(tmp_path: Path, status: str) -> None:
    with started(tmp_path, status) as job:
        assert job.wait(60) == int(status)
    assert lines(tmp_path / "scontrol.txt") == ["show hostnames node-[7-8]"]
    (line,) = lines(tmp_path / "srun.txt")
    for_srun, for_torchrun = line.split(" torchrun ")
    assert for_srun.split() == ["--kill-on-bad-exit=0", "--cpus-per-task=64"]
    parsed = get_args_parser().parse_args(for_torchrun.split())
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.rdzv_backend) == ("2", "8", "c10d")
    assert (parsed.rdzv_endpoint, parsed.rdzv_id) == ("node-7:23456", "123456")
    assert lines(tmp_path / "timeout.txt") == ["240"]
    assert (parsed.module, parsed.training_script) == (True, "infodcl_dist.train")
    assert parsed.training_script_args == KEYS
