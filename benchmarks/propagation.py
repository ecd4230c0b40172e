"""Time of one product of propagation, the sum of neighbours' rows, beside other ways to compute it.

    python benchmarks/propagation.py [--nodes 1000000] [--edges 10000000] [--dim 64] [--runs 7]

On a random graph with power-law degrees and shuffled ids, `--nodes` a side. Every round times each method once, in
turn, so that what else the machine does falls on all alike; the table has medians. Methods: the package's kernel on
float32 and on bfloat16 rows that lie as its passes lay them (`rows_to_gather`: on large pages), and on ordinary memory;
a bare gather of the same rows as the first (each edge's row is copied, in blocks, and nothing is summed);
`torch.sparse` in compressed rows, and SciPy, on ordinary memory, as one would write them. On a CUDA device without
SciPy; `torch.sparse` is cuSPARSE there. Threads: OMP_NUM_THREADS; SciPy has one.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from infodcl_dist.bench.generated import power_law_pairs
from infodcl_dist.data.rows import compress
from infodcl_dist.graph.bipartite import Rows, tensor_rows
from infodcl_dist.graph.neighbour_sum import neighbour_sum, rows_to_gather

GATHERED_ROWS = 65_536  # copied at once: 16 MiB of 64 columns


def shuffled_graph(nodes: int, edges: int) -> Rows:
    generator = np.random.default_rng(0)
    made = power_law_pairs(nodes, nodes, edges, generator)
    keys = np.sort(generator.permutation(nodes)[made.users] * nodes + generator.permutation(nodes)[made.items])
    return tensor_rows(compress((keys // nodes).astype(np.int32), (keys % nodes).astype(np.int32), nodes))


def methods(rows: Rows, plain: Tensor, table: Tensor, halves: Tensor) -> dict[str, Callable[[], object]]:
    size = (rows.offsets.shape[0] - 1, table.shape[0])
    ones = torch.ones(rows.indices.shape[0], device=table.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its sparse CSR is in beta
        compressed = torch.sparse_csr_tensor(rows.offsets, rows.indices, ones, size=size)
    block = table.new_empty(GATHERED_ROWS, table.shape[1])

    def gather() -> None:
        for part in rows.indices.split(GATHERED_ROWS):
            torch.index_select(table, 0, part, out=block[: part.shape[0]])

    found: dict[str, Callable[[], object]] = {
        "kernel, float32 rows": lambda: neighbour_sum(table, rows),
        "kernel, bfloat16 rows": lambda: neighbour_sum(halves, rows),
        "kernel, float32 rows in ordinary memory": lambda: neighbour_sum(plain, rows),
        "bare gather": gather,
        "torch.sparse CSR": lambda: compressed @ plain,
    }
    if table.device.type == "cpu":
        matrix = sparse.csr_matrix((ones.numpy(), rows.indices.numpy(), rows.offsets.numpy()), shape=size)
        values = plain.numpy()
        found["SciPy CSR"] = lambda: matrix @ values
    return found


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = shuffled_graph(given.nodes, given.edges).to(device)
    values = torch.randn(given.nodes, given.dim, generator=torch.Generator().manual_seed(0))
    table = rows_to_gather(given.nodes, given.dim, "float32", device).copy_(values)
    halves = rows_to_gather(given.nodes, given.dim, "bfloat16", device).copy_(values)
    compared = methods(rows, values.to(device), table, halves)
    rounds = [{name: seconds(work, device) for name, work in compared.items()} for _ in range(given.runs + 1)]
    medians = {name: statistics.median(times[name] for times in rounds[1:]) for name in compared}
    kernel = medians["kernel, float32 rows"]
    print(
        f"{given.edges:,} edges between {given.nodes:,} and {given.nodes:,} nodes, {given.dim} columns, {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {given.runs} rounds\n"
    )
    print("| method | seconds, median | fastest, slowest | times the kernel |\n| --- | --- | --- | --- |")
    for name, median in medians.items():
        times = [found[name] for found in rounds[1:]]
        print(f"| {name} | {median:.3f} | {min(times):.3f}, {max(times):.3f} | {median / kernel:.2f} |")


if __name__ == "__main__":
    main()
