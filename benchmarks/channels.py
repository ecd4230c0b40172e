"""What each metadata channel is worth: one run a set of channels, a table of validation and test metrics.

    python benchmarks/channels.py CONFIG DATASET --channels A [B A,B …] [--nproc N] [--runs FOLDER] [KEY=VALUE ...]

The epoch is chosen by validation Recall@20 in each run. A run that is finished in FOLDER is not trained again; one of
another configuration or other data is refused.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def train(config: Path, dataset: Path, run: Path, nproc: int, keys: list[str]) -> dict[str, dict[str, float]]:
    """What `result.json` of the run holds."""
    command = [sys.executable, "-m", "infodcl_dist", "train", "--nproc", str(nproc), "--config", str(config)]
    subprocess.run([*command, f"data.path={dataset}", f"run.path={run}", *keys], check=True)
    found: dict[str, dict[str, float]] = json.loads((run / "result.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--channels", nargs="+", required=True, help="sets of channels, each parted by commas")
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--runs", type=Path, help="where the runs are kept")
    given, keys = parser.parse_known_args()
    metrics = [(split, name) for split in ("valid", "test") for name in ("recall@20", "ndcg@20")]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for channels in given.channels:
            run = (given.runs or Path(folder)) / channels.replace(",", "-")
            result = train(given.config, given.dataset, run, given.nproc, [f"model.channels=[{channels}]", *keys])
            figures = " | ".join(f"{result[split][name]:.4f}" for split, name in metrics)
            lines.append(f"| {channels.replace(',', ', ')} | {result['best_epoch']} | {figures} |")
    print("| channels | best epoch | " + " | ".join(f"{split} {name}" for split, name in metrics) + " |")
    print("| --- | --- |" + " --- |" * len(metrics))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
