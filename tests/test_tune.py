"""A sweep as a user types it, with real processes: a worker is killed, then the driver, and the study ends whole.

Two trials of two workers each on two cores: they outnumber the one slot, so the second waits for the first. It is then
hit: its worker is killed, and the driver after that.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from infodcl_dist.base.config import load_config
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.study import Study

USERS, ITEMS, EPOCHS, GRACE = 120, 80, 40, 34
GOOD, BAD = 0.05, 1e-6  # learning rates: the second learns nothing and is stopped after its grace
# Two agents of Ray's, which run nothing, wait about a minute for a killed driver's cluster before they go.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
SLOW_S = 240.0  # a wait that only fails where nothing moves; a start takes seconds where the machine is idle


def write_dataset(folder: Path) -> Path:
    """Users like items of their own parity, so that a model that learns is better than one that does not."""
    generator = np.random.default_rng(5)
    lines = []
    for user in range(USERS):
        items = generator.choice(np.arange(user % 2, ITEMS, 2), 12, replace=False)
        lines += [f"{user} {item}" for item in sorted(items)]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    prepare(folder / "pairs.txt", folder / "set", PrepareOptions())
    return folder / "set"


def write_sweep(folder: Path) -> Path:
    keys = ["model.name=mf", "model.dim=8", f"train.epochs={EPOCHS}", "train.evaluate_every=1", "train.patience=99"]
    sweep = {
        "path": str(folder / "study"),
        "base": {"overrides": [f"data.path={write_dataset(folder)}", *keys, "checkpoint.every_seconds=0"]},
        "space": {"train.learning_rate": {"choice": [GOOD, BAD]}},
        "search": "grid",
        "workers_per_trial": 2,
        "cpus": 2,
        "asha": {"grace_epochs": GRACE, "reduction_factor": 2},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return folder / "sweep.yaml"


class Driver:
    """`infodcl-dist tune` in the background, and the processes below it."""

    def __init__(self, sweep: Path, *options: str) -> None:
        # A sweep may itself be started by torchrun: its variables are not the trials'.
        outer = {"RANK": "0", "WORLD_SIZE": "7", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        environment = os.environ | outer | {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "infodcl_dist", "tune", "--config", str(sweep), *options]
        self.log = sweep.with_name(f"driver{len(options)}.log")
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)

    def descendants(self) -> dict[int, str]:
        """Process ids and titles of all that it started, directly or not."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(maxsplit=2) for line in listed.splitlines()]
        found: dict[int, str] = {}
        fresh = {self.process.pid}
        while fresh:
            rows_below = [(int(pid), title) for pid, parent, title in rows if int(parent) in fresh]
            fresh = {pid for pid, _ in rows_below} - found.keys()
            found |= dict(rows_below)
        return found

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SLOW_S
        while not condition():
            assert self.process.poll() is None, f"{what}: the driver ended\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{what}: not in {SLOW_S:g} s\n{self.log.read_text()}"
            time.sleep(0.02)


def epochs(run: Path) -> list[int]:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line)["epoch"] for line in lines if line.endswith("\n")]


def alive(pids: set[int]) -> set[int]:
    """Those that still run. (One that was killed may stay as a zombie where nobody waits for orphans.)"""
    listed = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    return {int(pid) for pid, state in map(str.split, listed.splitlines()) if state[0] != "Z"} & pids


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.timeout(900)
def test_a_sweep_survives_a_killed_worker_and_a_killed_driver(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    first, second = (tmp_path / "study" / "trials" / f"{number:04d}" for number in (0, 1))
    driver, agents = Driver(sweep), set()
    try:
        driver.wait_for("epochs of the second trial", lambda: len(epochs(second / "run")) >= 8)
        assert json.loads((first / "trial.json").read_text())["status"] == "finished", "one slot: one after the other"
        workers = [pid for pid, title in driver.descendants().items() if title.startswith("ray::Worker")]
        assert len(workers) == 2
        before = epochs(second / "run")[-1]
        os.kill(workers[1], signal.SIGKILL)
        driver.wait_for("the retry", lambda: len(epochs(second / "run")) >= before + 4)
        assert "trial 1 goes on from its checkpoint: attempt 1 failed: ray.exceptions" in driver.log.read_text()
        done = contents(first)
        processes = driver.descendants()
        agents = {pid for pid, title in processes.items() if title.startswith(AGENTS)}
        driver.process.kill()
        driver.process.wait()
        deadline = time.monotonic() + 60
        while left := alive(processes.keys() - agents):
            assert time.monotonic() < deadline, f"processes outlived their driver: {left}"
            time.sleep(0.1)
        cut_off = epochs(second / "run")[-1]
        assert cut_off < GRACE

        driver = Driver(sweep, "--resume")
        driver.wait_for("a worker", lambda: any(t.startswith("ray::Worker") for t in driver.descendants().values()))
        processes = driver.descendants()
        assert driver.process.wait(SLOW_S) == 0, driver.log.read_text()
        assert not alive(set(processes))
    finally:
        driver.process.kill()
        for agent in alive(agents):
            os.kill(agent, signal.SIGKILL)
    output = driver.log.read_text()

    assert contents(first) == done, "a finished trial is not touched again"
    assert "1 of 2 trials done" in output
    assert (
        "machines: 1 with 2 cores and 0 GPUs; a trial: 2 workers of 1 cores and 0 GPUs; trials at a time: 1" in output
    )
    log = (second / "run" / "log.txt").read_text()
    resumed = [int(epoch) for epoch in re.findall(r"going on from \S+: epoch (\d+)", log)]
    assert len(resumed) == 2, "once after each kill"
    assert 1 < resumed[0] <= before + 1
    assert before < resumed[1] <= cut_off + 1
    assert epochs(second / "run") == list(range(1, GRACE + 1)), "stopped at its grace, with no epoch twice"
    check_results(tmp_path / "study", output)


@pytest.mark.timeout(600)
def test_a_trial_that_the_machine_or_tune_ended_is_gone_on_with(tmp_path: Path) -> None:
    sweep, study = write_sweep(tmp_path), tmp_path / "study"
    config = load_config(TuneConfig, sweep)
    Study.open(config, config.base_run(), resume=False)
    trial = study / "trials" / "0000"
    (trial / "run" / ".lock").mkdir(parents=True)  # where the run's lock is to be a file: the machine refuses it
    driver = Driver(sweep, "--resume")
    try:
        assert driver.process.wait(SLOW_S) == 2, driver.log.read_text()
        said = driver.log.read_text()
        assert len(re.findall(r"^error: .*", said, re.MULTILINE)) == 1
        refused = f"error: {trial}/run/.lock: cannot be written (Is a directory); choose a folder you may write to; "
        assert f"{refused}0 of 2 trials are done, and --resume goes on with the rest" in said
        assert "Traceback" not in said
        assert json.loads((trial / "trial.json").read_text())["status"] == "running"
        assert [folder.name for folder in (study / "trials").iterdir()] == ["0000"], "no more are handed out"

        (trial / "run" / ".lock").rmdir()
        driver = Driver(sweep, "--resume")
        driver.wait_for("epochs", lambda: len(epochs(trial / "run")) >= 4)
        driver.process.send_signal(signal.SIGUSR1)  # at which Tune's loop ends
        assert driver.process.wait(SLOW_S) == 2, driver.log.read_text()
    finally:
        driver.process.kill()
    assert f"error: {study}: the sweep was ended early; 0 of 2 trials are done" in driver.log.read_text()
    record = json.loads((trial / "trial.json").read_text())
    assert (record["status"], record["attempts"]) == ("running", 2)
    assert list((trial / "run" / "checkpoints").glob("step-*")), "what it will go on from"
    assert not (study / "result.json").exists()
    assert not (study / "trials.parquet").exists()


def check_results(study: Path, output: str) -> None:
    rows = pq.read_table(study / "trials.parquet").to_pylist()
    assert [(row["train.learning_rate"], row["status"]) for row in rows] == [(GOOD, "finished"), (BAD, "stopped")]
    assert [row["epochs"] for row in rows] == [EPOCHS, GRACE]
    assert [row["attempts"] for row in rows] == [1, 3]
    settled = [json.loads((study / "trials" / f"{number:04d}" / "settled.json").read_text()) for number in (0, 1)]
    assert settled == [{"epoch": EPOCHS}, {"epoch": GRACE - 1}], "the last one after which training went on"
    assert rows[0]["valid/recall@20"] > rows[1]["valid/recall@20"] + 0.1
    for row in rows:
        result = json.loads((Path(row["run"]) / "result.json").read_text())
        assert "test" not in result, "trials leave the test split alone"
        assert result["valid"]["recall@20"] == pytest.approx(row["valid/recall@20"], abs=1e-9)
        assert result["world_size"] == 2
        assert [folder.name for folder in (Path(row["run"]) / "checkpoints").iterdir()] == ["best"]
    chosen = json.loads((study / "result.json").read_text())
    assert chosen["trial"] == 0
    assert set(chosen["test"]) == {f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (10, 20, 50)}
    assert f"trial 0 on test: recall@10 {chosen['test']['recall@10']:.4f}" in output
    best = load_config(RunConfig, study / "best.yaml")
    assert (best.train.learning_rate, best.run.path) == (GOOD, study / "best")
    for name in ("hyperparameters.png", "parallel.png"):
        assert (study / "plots" / name).read_bytes().startswith(b"\x89PNG")
    assert not (study / ".tune").exists()
