"""From the command to the first step: seconds until `train` begins its first epoch, and what they are spent on.

    python benchmarks/start_up.py CONFIG DATASET [--repeats 5] [--imports]

Runs `infodcl-dist train` for one epoch, each time in a fresh run folder, with the metadata channels already made (the
first, unreported run makes them), and takes the time at which the log says that training starts. --imports adds the
slowest imports of a worker.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STARTED = "rows on this rank"  # the log line before the first step


def seconds_to_start(config: Path, dataset: Path, run: Path) -> float:
    command = [sys.executable, "-m", "infodcl_dist", "train", "--config", str(config)]
    keys = [f"data.path={dataset}", f"run.path={run}", "train.epochs=1", "metadata.epochs=1", "run.overwrite=true"]
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*command, *keys], stderr=subprocess.PIPE, text=True, env=environment) as process:
        found = 0.0
        for line in process.stderr or ():
            if STARTED in line:
                found = time.perf_counter() - started  # the last such line: pre-training has one too
    if process.returncode or not found:
        raise SystemExit(f"train ended with status {process.returncode} and said no {STARTED!r}")
    return found


def slowest_imports(count: int) -> list[tuple[float, str]]:
    code = "import infodcl_dist.cli.train, infodcl_dist.recipe.run, deepspeed"
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
    ).stderr
    rows = [
        line.removeprefix("import time:").split("|") for line in told.splitlines() if line.startswith("import time")
    ]
    return sorted(((int(row[1]) / 1e6, row[2].strip()) for row in rows[1:]), reverse=True)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--imports", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        seconds_to_start(given.config, given.dataset, run)
        found = [seconds_to_start(given.config, given.dataset, run) for _ in range(given.repeats)]
    print(f"first step after {statistics.median(found):.2f} s (median of {given.repeats}; {min(found):.2f} at best)")
    if given.imports:
        for seconds, name in slowest_imports(25):
            print(f"{seconds:6.2f} s  {name}")


if __name__ == "__main__":
    main()
