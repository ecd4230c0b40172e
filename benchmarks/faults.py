"""Kills a run at random moments, lets it go on, and compares it with one that was never stopped.

    python benchmarks/faults.py CONFIG DATASET [--kills 20] [--processes 2] [--seed 0] [KEY=VALUE ...]

Each trial begins the run anew, kills one victim (rank 0, the last rank, or the launcher with all ranks) with signal 9
at a random moment of its training, types the same command again, and compares losses, metrics and final embeddings bit
for bit. Prints a Markdown table: the victim, when it was killed, the step that the run went on from, seconds until the
next checkpoint, and what was lost.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

VICTIMS = ("rank 0", "last rank", "launcher and all ranks")


class Fault(NamedTuple):
    victim: str
    killed_at_s: float
    went_on_from: int
    seconds_to_go_on: float
    lost: str


def start(config: Path, dataset: Path, run: Path, processes: int, keys: list[str]) -> subprocess.Popen[bytes]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    worker = ["-m", "infodcl_dist.train", "--config", str(config), f"data.path={dataset}", f"run.path={run}", *keys]
    with (run.parent / f"{run.name}.log").open("ab") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*launcher, *worker], env=environment, stdout=log, stderr=log)


def ranks_of(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in children if b"infodcl_dist.train" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def newest_step(run: Path) -> int:
    return max((int(found.name.split("-")[1]) for found in (run / "checkpoints").glob("step-*")), default=0)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    """Whether it came true before the process ended."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def try_one(
    folder: Path, reference: Path, draw: random.Random, arguments: argparse.Namespace, keys: list[str]
) -> Fault:
    run = folder / "run"
    place = (arguments.config, arguments.dataset, run, arguments.processes, keys)
    process = start(*place)
    if not wait_for(lambda: newest_step(run) > 0, process) or process.poll() is not None:
        raise SystemExit("the run ended before it could be killed; give it more epochs")
    moment = draw.uniform(0, arguments.window_s)
    time.sleep(moment)
    victim, ranks = draw.choice(VICTIMS), ranks_of(process.pid)
    if process.poll() is not None or not ranks:
        raise SystemExit("the run ended before it could be killed; give it more epochs")
    victims = {"rank 0": ranks[:1], "last rank": ranks[-1:]}.get(victim, [process.pid, *ranks])
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    step, again = newest_step(run), time.monotonic()
    process = start(*place)
    wait_for(lambda: newest_step(run) > step, process)
    seconds = time.monotonic() - again
    if process.wait() != 0:
        print(run.with_name("run.log").read_text()[-3000:], file=sys.stderr)
        return Fault(victim, moment, step, seconds, "the run: it did not go on to its end")
    return Fault(victim, moment, step, seconds, difference(run, reference))


def difference(run: Path, reference: Path) -> str:
    """What differs between two finished runs: nothing, or what."""

    def losses(folder: Path) -> list[dict[str, float]]:
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: v for name, v in record.items() if name.startswith(("loss", "valid"))} for record in records]

    if losses(run) != losses(reference):
        return "losses differ"
    for folder in (run, reference):
        if not (folder / "export").exists():
            command = [sys.executable, "-m", "infodcl_dist", "export", str(folder), "--out", str(folder / "export")]
            subprocess.run(command, check=True, capture_output=True)
    for name in ("users.npy", "items.npy"):
        if not np.array_equal(np.load(run / "export" / name), np.load(reference / "export" / name)):
            return f"{name} differs"
    return "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--window-s", type=float, default=6.0, help="kill at most so long after the first checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    arguments, keys = parser.parse_known_args()
    draw = random.Random(arguments.seed)
    print("| fault | seconds after the first checkpoint | went on from step | seconds to the next checkpoint | lost |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        if start(arguments.config, arguments.dataset, reference, arguments.processes, keys).wait() != 0:
            raise SystemExit((Path(folder) / "reference.log").read_text()[-3000:])
        for number in range(arguments.kills):
            trial = Path(folder) / f"trial-{number}"
            trial.mkdir()
            fault = try_one(trial, reference, draw, arguments, keys)
            figures = f"{fault.killed_at_s:.2f} | {fault.went_on_from} | {fault.seconds_to_go_on:.1f}"
            print(f"| {fault.victim} | {figures} | {fault.lost} |", flush=True)


if __name__ == "__main__":
    main()
