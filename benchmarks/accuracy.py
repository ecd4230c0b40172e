"""Trains what docs/results.md and docs/ablation.md hold: each row of accuracy.yaml with each seed. Goes on where it
stopped.

    python benchmarks/accuracy.py --data FOLDER --runs FOLDER [--seeds 0 1 2 3 4] [--only office/lightgcn …] [--jobs 2]
    python benchmarks/ease.py FOLDER/office … --json benchmarks/runs/ease.json
    infodcl-dist report benchmarks/runs/*/{infodcl-[ds],infodcl-features,lightgcn,mf,user-term}/* --out DIR \
        --yardstick LightGCN --yardstick MF --yardstick EASE --fixed benchmarks/runs/ease.json
    infodcl-dist report benchmarks/runs/*/{infodcl-paper,no-*,conditioned}/* --out DIR \
        --yardstick "InfoDCL-D, the paper's terms"

FOLDER holds prepared data sets (docs/data.md) by the names of accuracy.yaml; runs lie in RUNS/DATASET/ROW/SEED. Each
job is one process of one thread. What reports read of a finished run is copied to benchmarks/runs (`--keep`), where it
outlives the machine. A run that is finished, or kept, of the same configuration and data, is not trained again; one
that was interrupted goes on from its checkpoint. Of the braces leave out a row that no data set has a run of: the shell
would hand on its `*`, and `report` refuse that.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from infodcl_dist.base.config import load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.recipe.config import RunConfig

HERE = Path(__file__).parent
EVALUATED = "valid/recall@20"  # what the line of an evaluated epoch has
Table = dict[str, Any]  # see accuracy.yaml


class Job(NamedTuple):
    """One run: its folder, and its configuration as a file and keys that override it."""

    run: Path
    config: Path
    keys: list[str]


def jobs(table: Table, data: Path, runs: Path, seeds: list[int], only: list[str]) -> list[Job]:
    """Of every row in turn the first seed, then of every row the second: a table is whole as early as can be."""
    everywhere = table["datasets"]
    names = [
        (d, name) for d in everywhere for name, row in table["rows"].items() if d in row.get("datasets", everywhere)
    ]
    chosen = [(dataset, name) for dataset, name in names if not only or {dataset, f"{dataset}/{name}"} & set(only)]
    known = {dataset for dataset, _ in names} | {f"{dataset}/{name}" for dataset, name in names}
    if set(only) - known:
        raise SystemExit(f"--only {min(set(only) - known)}: no such row; there are: {', '.join(sorted(known))}")
    found = []
    for seed, (dataset, name) in itertools.product(seeds, chosen):
        row, run = table["rows"][name], runs / dataset / name / str(seed)
        like = table["rows"][row["like"]] if "like" in row else {}
        config = HERE.parent / {**like, **row}["config"].format(dataset=dataset)
        keys = [f"data.path={data / dataset}", f"run.path={run}", f"run.seed={seed}"]
        keys.append(f"run.label={json.dumps(row['label'])}")
        keys += [key for of in (like, row) for key in (*of.get("keys", []), *of.get("of", {}).get(dataset, []))]
        found.append(Job(run, config, keys))
    return found


def has_figures(job: Job, folder: Path) -> bool:
    """Whether a folder, of a run or of what is kept of one, has the figures of this job: of the configuration and the
    data that it would have now. (A key that did not exist then has its default.)"""
    if not (folder / "result.json").is_file():
        return False
    asked = load_config(RunConfig, job.config, job.keys)
    paths = [f"data.path={asked.data.path}", f"run.path={asked.run.path}"]
    trained_on = json.loads((folder / "dataset.json").read_text())["checksum"]
    is_same = load_config(RunConfig, folder / "config.yaml", paths) == asked
    is_same &= trained_on == open_dataset(asked.data.path, verify=False).checksum
    print(f"{job.run}: {'done' if is_same else 'not the run'} in {folder}", flush=True)
    return is_same


def train(job: Job) -> bool:
    """Whether the run could be trained to its end; what it prints goes to a file beside it."""
    job.run.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with job.run.with_suffix(".log").open("w") as output:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "infodcl_dist", "train", "--config", str(job.config), *job.keys]
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    how = "trained" if ended.returncode == 0 else f"FAILED, see {output.name}"
    print(f"{job.run}: {how}, {time.monotonic() - started:.0f} s", flush=True)
    return ended.returncode == 0


def keep(runs: Path, name: Path, kept: Path) -> None:
    """Copies what `infodcl-dist report` reads of RUNS/NAME to KEPT/NAME, a NAME being DATASET/ROW/SEED: without paths
    of this machine, and without epochs that were not evaluated."""
    run, place = runs / name, kept / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "result.json").unlink(missing_ok=True)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["path"], config["run"]["path"] = f"data/{name.parts[0]}", f"runs/{name}"
    (place / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    epochs = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (place / "metrics.jsonl").write_text("".join(line for line in epochs if EVALUATED in json.loads(line)))
    for file in ("dataset.json", "result.json"):  # the last one says that all are there
        shutil.copyfile(run / file, place / file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--table", type=Path, default=HERE / "accuracy.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", default=[], help="DATASET or DATASET/ROW")
    parser.add_argument("--keep", type=Path, default=HERE / "runs", help="where finished runs' figures are kept")
    parser.add_argument("--jobs", type=int, default=1, help="at a time")
    given = parser.parse_args()
    table: Table = yaml.safe_load(given.table.read_text())
    runs = given.runs.absolute()
    todo = jobs(table, given.data.absolute(), runs, given.seeds, given.only)

    def train_and_keep(job: Job) -> bool:
        name = job.run.relative_to(runs)
        try:
            if has_figures(job, given.keep / name):
                return True
            is_trained = has_figures(job, job.run)
        except UserError as problem:  # of this data set or these figures; the others are trained
            print(f"{job.run}: FAILED, {problem}", flush=True)
            return False
        if not is_trained and not train(job):
            return False
        keep(runs, name, given.keep)
        return True

    with ThreadPoolExecutor(given.jobs) as pool:
        finished = list(pool.map(train_and_keep, todo))
    print(f"{sum(finished)} of {len(todo)} runs are finished")
    sys.exit(0 if all(finished) else 1)


if __name__ == "__main__":
    main()
