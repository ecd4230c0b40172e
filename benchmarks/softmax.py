"""Time and memory of the full-catalogue contrastive term, forward and backward, beside the plain formulation.

    python benchmarks/softmax.py [--views 2000] [--items 200000] [--dim 64] [--processes 1] [--runs 3] [--no-plain]

`tiled` is the package's term over item rows spread over the processes; `plain` makes the views × items matrix in one
process, as a researcher would first write it. Each runs in processes of its own. Memory is the peak resident size of
the largest process less what it had before the term, so it holds the normalized rows and the gradient of the rows too,
each items / processes × dim × 4 bytes.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

TEMPERATURE = 0.5


def plain(views: Tensor, own: Tensor, rows: Tensor) -> Tensor:
    logits = normalize(views, dim=1) @ normalize(rows, dim=1).T / TEMPERATURE
    return cross_entropy(logits, own)


def tiled(views: Tensor, own: Tensor, rows: Tensor) -> Tensor:
    from infodcl_dist.parallel.catalogue_softmax import catalogue_of, contrastive
    from infodcl_dist.parallel.collectives import gather_objects

    shares = torch.full((views.shape[0],), 1.0 / views.shape[0])
    # The views' own rows come from a lookup in training; here from this rank's part.
    items, every_view = (sum(gather_objects(x.shape[0])) for x in (rows, views))
    catalogue = catalogue_of(rows, items=items, views=every_view)
    return contrastive(views, rows[own % rows.shape[0]], catalogue, shares, temperature=TEMPERATURE)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(
    term: Callable[[Tensor, Tensor, Tensor], Tensor], views: Tensor, rows: Tensor, runs: int
) -> dict[str, float]:
    own = torch.arange(views.shape[0]) % rows.shape[0]
    before, seconds = peak_bytes(), []
    for _ in range(runs + 1):
        views.grad = rows.grad = None
        started = time.perf_counter()
        term(views, own, rows).backward()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[1:]), "bytes": peak_bytes() - before}


def worker(arguments: argparse.Namespace) -> None:
    from infodcl_dist.parallel.collectives import gather_objects
    from infodcl_dist.parallel.group import process_group

    with process_group(600) as group:
        torch.manual_seed(group.rank)
        views = torch.randn(arguments.views // group.world_size, arguments.dim, requires_grad=True)
        rows = torch.randn(arguments.items // group.world_size, arguments.dim, requires_grad=True)
        figures = gather_objects(measure(plain if arguments.worker == "plain" else tiled, views, rows, arguments.runs))
        if group.rank == 0:
            print(json.dumps({name: max(figure[name] for figure in figures) for name in ("seconds", "bytes")}))


def run(kind: str, processes: int, arguments: argparse.Namespace) -> dict[str, float]:
    sizes = [f"--views={arguments.views}", f"--items={arguments.items}", f"--dim={arguments.dim}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, __file__, *sizes, f"--runs={arguments.runs}", f"--worker={kind}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=2000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-plain", action="store_true", help="leave the plain one out, where it does not fit")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    sizes = f"{arguments.views:,} views, {arguments.items:,} items, width {arguments.dim}"
    print(f"{sizes}, one thread a process, torch {torch.__version__}\n")
    print("| term | processes | seconds, median | memory of a process, MiB |\n| --- | --- | --- | --- |")
    kinds = [("tiled", arguments.processes)] + [("plain", 1)] * (not arguments.no_plain)
    for kind, processes in kinds:
        figures = run(kind, processes, arguments)
        print(f"| {kind} | {processes} | {figures['seconds']:.2f} | {figures['bytes'] / 2**20:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
