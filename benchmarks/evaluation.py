"""What `infodcl-dist evaluate` says at 1, 2 and 4 processes, and an independent library of the exported embeddings.

    python benchmarks/evaluation.py RUN… [--processes 1 2 4] [--split test]

Users' metrics are those of ir_measures (trec_eval's, MRR by MS MARCO's script), of lists made by NumPy from users.npy
and items.npy: float64 products, training items left out, equal scores by item index. Coverage, Gini and popularity are
NumPy's. Only commands of the package are used, none of its code. Prints a Markdown table a run, and the largest
differences.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import yaml
from ir_measures import AP, RR, P, R, Success, nDCG

CUTOFFS = (10, 20, 50)
MEASURES = {"recall": R, "ndcg": nDCG, "precision": P, "hit_rate": Success, "mrr": RR, "map": AP}
BLOCK_USERS = 1024


def command(*arguments: str | Path) -> str:
    """The standard output of an `infodcl-dist` command."""
    line = [sys.executable, "-m", "infodcl_dist", *map(str, arguments)]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout


def pairs(dataset: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(dataset / split)
    return table["user"].to_numpy(), table["item"].to_numpy()


def ranked_lists(export: Path, dataset: Path, wanted: np.ndarray) -> np.ndarray:
    """The first 50 items of each wanted user, int [U, 50]."""
    users, items = (np.load(export / f"{side}.npy").astype(np.float64) for side in ("users", "items"))
    seen_users, seen_items = pairs(dataset, "train")
    found = []
    for start in range(0, len(wanted), BLOCK_USERS):
        block = wanted[start : start + BLOCK_USERS]
        scores = (users[block] @ items.T).astype(np.float32)
        mine = np.isin(seen_users, block)
        scores[np.searchsorted(block, seen_users[mine]), seen_items[mine]] = -np.inf
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, : max(CUTOFFS)])
    return np.concatenate(found)


def independent(export: Path, dataset: Path, split: str) -> dict[str, float]:
    """Every metric without the package."""
    held_users, held_items = pairs(dataset, split)
    wanted = np.unique(held_users)
    lists = ranked_lists(export, dataset, wanted)
    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u, i in zip(held_users, held_items, strict=True)]
    run = [
        ir_measures.ScoredDoc(str(user), str(item), float(-place))
        for user, row in zip(wanted, lists, strict=True)
        for place, item in enumerate(row)
    ]
    measures = {MEASURES[name] @ k: f"{name}@{k}" for name in MEASURES for k in CUTOFFS}
    sums = dict.fromkeys(measures.values(), 0.0)
    for value in ir_measures.iter_calc(list(measures), qrels, run):
        sums[measures[value.measure]] += value.value
    return {name: total / len(wanted) for name, total in sums.items()} | exposure(lists, dataset)


def exposure(lists: np.ndarray, dataset: Path) -> dict[str, float]:
    item_count = pq.read_metadata(dataset / "items.parquet").num_rows
    popularity = np.bincount(pairs(dataset, "train")[1], minlength=item_count)
    found = {}
    for k in CUTOFFS:
        counts = np.sort(np.bincount(lists[:, :k].ravel(), minlength=item_count))
        lorenz = np.cumsum(counts) / counts.sum()
        found[f"coverage@{k}"] = np.count_nonzero(counts) / item_count
        # One less twice the area under the Lorenz curve, by trapezoids.
        found[f"gini@{k}"] = 1 - (2 * lorenz.sum() - 1) / item_count
        found[f"popularity@{k}"] = popularity[lists[:, :k]].mean()
    return found


def report(run: Path, processes: list[int], split: str) -> None:
    """Prints a run's table."""
    found = {
        str(count): json.loads(command("evaluate", run, "--split", split, "--all", "--json", "--nproc", str(count)))
        for count in processes
    }
    dataset = Path(yaml.safe_load((run / "config.yaml").read_text())["data"]["path"])
    with tempfile.TemporaryDirectory() as folder:
        command("export", run, "--out", Path(folder) / "export")
        library = independent(Path(folder) / "export", dataset, split)
    first = found[str(processes[0])]
    print(
        f"\n{run.name}, {split}\n\n| metric | {' | '.join(found)} | independent |\n| --- |{' --- |' * (len(found) + 1)}"
    )
    for name in library:
        cells = [f"{values[name]:.12f}" for values in [*found.values(), library]]
        print(f"| {name} | {' | '.join(cells)} |")
    apart = max(abs(values[name] - first[name]) for values in found.values() for name in library)
    from_library = max(abs(first[name] - library[name]) / max(1.0, library[name]) for name in library)
    print(f"\nlargest difference: {apart:.1e} between process counts, {from_library:.1e} from the independent figures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--split", default="test", choices=["valid", "test"])
    given = parser.parse_args()
    for run in given.runs:
        report(run, given.processes, given.split)


if __name__ == "__main__":
    main()
