"""`launch/quickstart.sh` with stand-ins for what it calls: how many processes it trains on, and where."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "launch" / "quickstart.sh"
STAND_INS = {
    "launch/setup.sh": "",
    ".venv/bin/infodcl-dist": "",
    ".venv/bin/nvidia-smi": "echo 'GPU 0: that CUDA_VISIBLE_DEVICES may hide'",
    ".venv/bin/python": '[[ $2 == *device_count* ]] && echo "$COUNTED_GPUS"',
    ".venv/bin/torchrun": 'echo "$@" >torchrun.txt',
}


@pytest.mark.parametrize(("gpus", "processes"), [(0, 2), (1, 1), (4, 2)])
def test_one_process_where_torch_sees_one_gpu(tmp_path: Path, gpus: int, processes: int) -> None:
    started(tmp_path, gpus)
    assert f"--nproc_per_node {processes} " in (tmp_path / "torchrun.txt").read_text()


def test_what_follows_the_training_finds_the_run_that_was_named(tmp_path: Path) -> None:
    said = started(tmp_path, 0, "run.path=elsewhere/run", "data.path=~/set")
    assert "+ infodcl-dist evaluate elsewhere/run\n" in said
    assert f"--out {Path.home()}/set\n" in said


def started(tmp_path: Path, gpus: int, *keys: str) -> str:
    """Runs the script, and gives what it says that it does."""
    for name, body in STAND_INS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    shutil.copy(SCRIPT, tmp_path / "launch")
    environment = os.environ | {"COUNTED_GPUS": str(gpus)}
    command = [tmp_path / "launch" / "quickstart.sh", *keys]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stderr
