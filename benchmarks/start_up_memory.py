"""Memory that a rank takes for its data, at several numbers of processes.

    python benchmarks/start_up_memory.py DATASET [--processes 1 2 4]

Each process opens the dataset, builds its batches and the training graph, and draws three batches; memory is counted
from before the dataset is opened. "Own" is anonymous memory, which no other process shares; "in all" is the sum over
processes of their proportional shares (PSS), mapped file pages counted once.
"""

import argparse
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from infodcl_dist.data.batches import Batches
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.graph.bipartite import training_graph


def memory() -> dict[str, int]:
    """Of this process, in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split()[0]: int(line.split()[1]) // 1024 for line in lines}
    return {"own": found["Anonymous:"], "in all": found["Pss:"]}


def hold_data(path: Path, rank: int, processes: int, barrier: Barrier) -> dict[str, int]:
    """How much memory grew by the data of a rank."""
    torch.arange(10).sum()
    barrier.wait()
    before = memory()
    barrier.wait()
    dataset = open_dataset(path, verify=False)
    rows = dataset.items_of_users("train")
    batches = Batches(
        rows, items=dataset.items, global_batch_size=8000, seed=0, metadata={}, rank=rank, world_size=processes
    )
    graph = training_graph(dataset, torch.device("cpu"))
    drawn = [batches.batch(1, step) for step in range(3)]
    touched = [int(rows.indices.sum()) for rows in (graph.items_of_user, graph.users_of_item)]
    barrier.wait()
    after = memory()
    barrier.wait()
    del drawn, touched, graph, batches
    return {name: after[name] - before[name] for name in after}


def _send(queue, *arguments) -> None:  # type: ignore[no-untyped-def]
    queue.put(hold_data(*arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    given = parser.parse_args()
    context = get_context("spawn")
    print("| processes | own, of the largest, MiB | in all, MiB |\n| --- | --- | --- |")
    for count in given.processes:
        barrier, queue = context.Barrier(count), context.Queue()
        started = [
            context.Process(target=_send, args=(queue, given.dataset, rank, count, barrier)) for rank in range(count)
        ]
        for process in started:
            process.start()
        found = [queue.get(timeout=600) for _ in started]
        for process in started:
            process.join(timeout=60)
        print(f"| {count} | {max(one['own'] for one in found)} | {sum(one['in all'] for one in found)} |", flush=True)


if __name__ == "__main__":
    main()
