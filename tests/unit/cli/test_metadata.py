"""`infodcl-dist metadata` by a configuration, asked to stop: it is saved where `train` will look for it."""

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


@pytest.mark.timeout(120)
def test_it_takes_the_configuration_of_a_run_and_a_request_to_stop(tmp_path: Path) -> None:
    pairs = [f"{user} {item}\n" for user in range(8) for item in range(user, user + 6)]
    (tmp_path / "pairs.txt").write_text("".join(pairs))
    prepare(tmp_path / "pairs.txt", tmp_path / "set", PrepareOptions())
    (tmp_path / "run.yaml").write_text(CONFIG)
    config = load_config(RunConfig, tmp_path / "run.yaml", [f"data.path={tmp_path / 'set'}"])
    metrics = pretraining_folder(config, open_dataset(tmp_path / "set")) / "pretrain" / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "infodcl_dist", "metadata", "set", "--config", "run.yaml"],
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
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
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == STATUS
    assert "asked to stop after" in said
    assert "Traceback" not in said
    assert list(metrics.parent.glob("checkpoints/step-*"))
