"""`infodcl-dist metadata` by a configuration, in any number of processes; asked to stop, it is saved for `train`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infodcl_dist.base.config import load_config
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.metadata import pretraining_folder
from infodcl_dist.train.preemption import STATUS

CONFIG = """
data: {path: elsewhere}
run: {path: run}
metadata: {epochs: 100000, dim: 8, global_batch_size: 64, patience: 100000}
"""


ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "infodcl_dist", "metadata", "set", "--config", "run.yaml"]


def prepare_in(folder: Path) -> None:
    pairs = [f"{user} {item}\n" for user in range(8) for item in range(user, user + 6)]
    (folder / "pairs.txt").write_text("".join(pairs))
    prepare(folder / "pairs.txt", folder / "set", PrepareOptions())
    (folder / "run.yaml").write_text(CONFIG)


@pytest.mark.timeout(240)
def test_two_processes_say_once_what_they_made(tmp_path: Path) -> None:
    prepare_in(tmp_path)
    command = [*COMMAND, "--nproc", "2", "metadata.epochs=1"]
    done = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    told = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("metadata  ")]
    assert [Path(file).name for file in told] == ["knowledge.npy", "social.npy"]
    assert all((tmp_path / file).is_file() for file in told)
    (result,) = tmp_path.glob("set/metadata/*/pretrain/result.json")
    assert json.loads(result.read_text())["world_size"] == 2


@pytest.mark.timeout(240)
@pytest.mark.parametrize("processes", ["1", "2"])
def test_it_takes_the_configuration_of_a_run_and_a_request_to_stop(tmp_path: Path, processes: str) -> None:
    prepare_in(tmp_path)
    config = load_config(RunConfig, tmp_path / "run.yaml", [f"data.path={tmp_path / 'set'}"])
    metrics = pretraining_folder(config, open_dataset(tmp_path / "set")) / "pretrain" / "metrics.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "--nproc", processes],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        while not metrics.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"no {metrics}"
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == STATUS
    assert "asked to stop after" in said
    assert "Traceback" not in said
    assert list(metrics.parent.glob("checkpoints/step-*"))
