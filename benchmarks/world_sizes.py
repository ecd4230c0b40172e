"""The loss of each epoch at several numbers of processes, and how far they differ.

    python benchmarks/world_sizes.py CONFIG DATASET [KEY=VALUE ...] [--processes 1 2 4] [--epochs 5]

Trains the same run at each number of processes, from nothing, and prints a Markdown table: the loss of each epoch, the
largest relative differences of the loss and of any of its terms from the first run's, and that of the final validation
metrics.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def train(config: Path, dataset: Path, run: Path, processes: int, keys: list[str]) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "infodcl_dist", "train", "--nproc", str(processes), "--config", str(config)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, f"data.path={dataset}", f"run.path={run}", *keys], env=environment, check=True)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def largest_difference(runs: list[dict[str, float]], first: dict[str, float], names: list[str]) -> float:
    """Relative, of all runs and of what is named."""
    return max(abs(run[name] - first[name]) / max(abs(first[name]), 1e-12) for run in runs for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--epochs", type=int, default=5)
    arguments, keys = parser.parse_known_args()
    keys = [f"train.epochs={arguments.epochs}", f"train.evaluate_every={arguments.epochs}", *keys]
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in arguments.processes:
            run = Path(folder) / f"run-{processes}"
            runs[processes] = train(arguments.config, arguments.dataset, run, processes, keys)
    first = runs[arguments.processes[0]]
    columns = [*(f"{processes} processes" for processes in runs), "difference of the loss", "of any term"]
    print("| epoch | " + " | ".join(columns) + " |")
    print("| --- |" + " --- |" * (len(runs) + 2))
    for number, reference in enumerate(first):
        losses = " | ".join(f"{run[number]['loss']:.9f}" for run in runs.values())
        found = [run[number] for run in runs.values()]
        terms = [name for name in reference if name.startswith("loss/")]
        of_loss, of_terms = (largest_difference(found, reference, names) for names in (["loss"], terms))
        print(f"| {number + 1} | {losses} | {of_loss:.1e} | {of_terms:.1e} |")
    metrics = [name for name in first[-1] if name.startswith("valid/")]
    largest = max(abs(run[-1][name] - first[-1][name]) for run in runs.values() for name in metrics)
    print(f"\nlargest difference of the {len(metrics)} final validation metrics: {largest:.1e}")


if __name__ == "__main__":
    main()
