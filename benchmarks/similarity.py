"""Time and memory of the similarity graphs of both sides, on a random graph with power-law degrees.

    python benchmarks/similarity.py [--users M] [--items N] [--interactions E] [--nearest K] [--hub-cap H] [--plain]

Prints a Markdown table, a side a row: how many hubs are left out, additions (the sum over shared neighbours of their
degrees), seconds, and the largest resident memory so far. With --plain also SciPy's whole product of each side and its
entries: what a similarity that chooses afterwards must hold. Threads: OMP_NUM_THREADS.
"""

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from power_law import random_graph

from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.graph.similarity import build_sets, incidence, nearest_blocks
from infodcl_dist.parallel.ownership import Span


def timed(work: Callable[[], int]) -> str:
    """Table cells: seconds, what was returned, and the process's largest memory so far in GiB."""
    started = time.perf_counter()
    entries = work()
    seconds = time.perf_counter() - started
    return f"{seconds:.1f} | {entries:,} | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} |"


def measure(side: str, rows: Rows, columns: Rows, given: argparse.Namespace) -> None:
    """Prints a side's lines of the table."""
    sets = build_sets(rows, columns, given.hub_cap)

    def row_by_row() -> int:
        blocks = nearest_blocks(sets, Span(0, len(sets.sizes)), given.nearest, "jaccard")
        return sum(block.nnz for _, block in blocks)

    def product() -> int:
        matrix = incidence(rows, len(columns.offsets) - 1)
        return int((matrix @ matrix.T).nnz)

    additions = sets.products(Span(0, len(sets.sizes)))[-1]
    method = f"row by row, {torch.get_num_threads()} threads"
    print(f"| {side} | {method} | {sets.hubs:,} | {additions:.2e} | {timed(row_by_row)}", flush=True)
    if given.plain:
        print(f"| {side} | SciPy's product | 0 | | {timed(product)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--interactions", type=int, default=20_000_000)
    parser.add_argument("--nearest", type=int, default=20)
    parser.add_argument("--hub-cap", type=int)
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    of_users, of_items = random_graph(given.users, given.items, given.interactions, seed=0)
    for side, rows in (("users", of_users), ("items", of_items)):
        quantiles = np.quantile(rows.degrees.numpy(), [0.5, 0.9, 0.99, 1]).astype(int)
        print(f"{side}: degrees {', '.join(f'{value:,}' for value in quantiles)} (median, 90 %, 99 %, most)")
    print(f"\n| {given.nearest} nearest of | method | hubs left out | additions | seconds | entries | memory, GiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    measure("items", of_items, of_users, given)
    measure("users", of_users, of_items, given)


if __name__ == "__main__":
    main()
