"""Trains what the tables of docs/results.md hold: each row of accuracy.yaml with each seed. Goes on where it stopped.

    python benchmarks/accuracy.py --data FOLDER --runs FOLDER [--seeds 0 1 2 3 4] [--only office/lightgcn …] [--jobs 2]
    python benchmarks/ease.py FOLDER/office … --json ease.json
    infodcl-dist report RUNS/*/*/* --out DIR --yardstick LightGCN --fixed ease.json

FOLDER holds prepared data sets by the names of accuracy.yaml; runs lie in RUNS/DATASET/ROW/SEED. A run that is finished
is left alone, one that was interrupted goes on from its checkpoint. Each job is one process of one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

HERE = Path(__file__).parent
Rows = dict[str, dict[str, dict[str, Any]]]  # by data set and name


class Job(NamedTuple):
    """One run: its folder and the command that trains it."""

    run: Path
    command: list[str]


def jobs(rows: Rows, data: Path, runs: Path, seeds: list[int], only: list[str]) -> list[Job]:
    """Of every row in turn the first seed, then of every row the second: a table is whole as early as can be."""
    known = {f"{dataset}/{name}" for dataset, of_dataset in rows.items() for name in of_dataset}
    wrong = [name for name in only if name not in known | rows.keys()]
    if wrong:
        raise SystemExit(f"--only {wrong[0]}: no such row; there are: {', '.join(sorted(known))}")
    found = []
    for seed in seeds:
        for dataset, of_dataset in rows.items():
            for name, row in of_dataset.items():
                if only and dataset not in only and f"{dataset}/{name}" not in only:
                    continue
                run = runs / dataset / name / str(seed)
                keys = [f"data.path={data / dataset}", f"run.path={run}", f"run.seed={seed}"]
                keys.append(f"run.label={json.dumps(row['label'])}")
                command = [sys.executable, "-m", "infodcl_dist", "train", "--config", str(HERE.parent / row["config"])]
                found.append(Job(run, [*command, *keys, *row.get("keys", [])]))
    return found


def train(job: Job) -> bool:
    """Whether the run is finished; what it prints goes to a file beside it."""
    if (job.run / "result.json").is_file():
        return True
    job.run.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with job.run.with_suffix(".log").open("w") as output:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ended = subprocess.run(job.command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    how = "trained" if ended.returncode == 0 else f"FAILED, see {output.name}"
    print(f"{job.run}: {how}, {time.monotonic() - started:.0f} s", flush=True)
    return ended.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=HERE / "accuracy.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", default=[], help="DATASET or DATASET/ROW")
    parser.add_argument("--jobs", type=int, default=1, help="at a time")
    given = parser.parse_args()
    rows: Rows = yaml.safe_load(given.rows.read_text())
    todo = jobs(rows, given.data.absolute(), given.runs.absolute(), given.seeds, given.only)
    with ThreadPoolExecutor(given.jobs) as pool:
        finished = list(pool.map(train, todo))
    print(f"{sum(finished)} of {len(todo)} runs are finished")
    sys.exit(0 if all(finished) else 1)


if __name__ == "__main__":
    main()
