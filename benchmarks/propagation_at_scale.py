"""`infodcl-dist propagate` on a graph that no memory holds: time, memory of all processes, and whether it is exact.

    python benchmarks/propagation_at_scale.py FOLDER [--users 10000000] [--items 10000000] [--interactions 200000000]
        [--dim 64] [--layers 3] [--max-memory-gb 14] [--nproc 1] [--plan auto] [--keep]

Makes in FOLDER a dataset with power-law degrees and tables of normal values (12 GB as it stands; the pass takes as much
again), runs the command, and removes all of it. Memory is sampled twice a second: the sum over the command's processes
of their proportional set sizes (each shared page counted once), and of their resident ones. What the system keeps of
files in its cache belongs to no process and is not in it.

Exactness. A row of layer 3 depends on all that three steps reach, which is most of the graph, so rows cannot be checked
alone: SciPy propagates every column of every row in float64, a few columns at a time. Errors are relative to the
largest entry of their column, of all rows and of 1,000 random ones a side.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from power_law import write_dataset, write_normal
from scipy import sparse

from infodcl_dist.base.array_file import ArrayFile, open_array
from infodcl_dist.base.console import progress
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.data.rows import StoredRows

ROWS_AT_ONCE = 500_000
CHECKED_ROWS = 1000
COLUMNS_AT_ONCE = 8
SAMPLES_A_SECOND = 2


class Memory(threading.Thread):
    """The largest sums of proportional and of resident memory of a process and its children, bytes."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.proportional, self.resident, self.samples = process, 0, 0, 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(1 / SAMPLES_A_SECOND):
            sums = {"Pss": 0, "Rss": 0}
            for number in _tree(self.process):
                for name, value in _sizes(number).items():
                    sums[name] += value
            self.proportional, self.resident = max(self.proportional, sums["Pss"]), max(self.resident, sums["Rss"])
            self.samples += 1


def _tree(process: int) -> Iterator[int]:
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return
    for child in children:
        yield from _tree(int(child))


def _sizes(process: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {field[0][:-1]: int(field[1]) * 1024 for field in fields if field[0] in {"Pss:", "Rss:"}}


def propagate(folder: Path, given: argparse.Namespace) -> tuple[float, Memory]:
    tables = [f"--users={folder / 'U.npy'}", f"--items={folder / 'I.npy'}", f"--out={folder / 'out'}"]
    choices = [f"--layers={given.layers}", f"--nproc={given.nproc}", f"--plan={given.plan}"]
    choices += [f"--max-memory-gb={given.max_memory_gb}", f"--precision={given.precision}"]
    command = [sys.executable, "-m", "infodcl_dist", "propagate", str(folder / "data"), *tables, *choices]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    memory = Memory(process.pid)
    memory.start()
    status = process.wait()
    took = time.perf_counter() - started
    memory.ended.set()
    memory.join()
    if status != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return took, memory


def product(rows: StoredRows, values: np.ndarray) -> np.ndarray:
    """The 0/1 matrix of the rows times values, float64, by SciPy."""
    sums = np.empty((len(rows), values.shape[1]))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows.read(start, min(start + ROWS_AT_ONCE, len(rows)))
        ones = np.ones(part.pair_count)
        matrix = sparse.csr_matrix((ones, part.indices, part.offsets), shape=(len(part), len(values)))
        sums[start : start + len(part)] = matrix @ values
    return sums


def columns_of(file: ArrayFile, columns: slice) -> np.ndarray:
    """Some columns of a stored matrix, float64."""
    found = np.empty((file.shape[0], columns.stop - columns.start))
    for start in range(0, file.shape[0], ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, file.shape[0])
        found[start:stop] = file.read(start, stop)[:, columns]
    return found


def expected(folder: Path, layers: int, columns: slice) -> list[np.ndarray]:
    sides = open_dataset(folder / "data", verify=False).stored_train()
    degrees = [side.degrees(0, len(side))[:, None].astype(np.float64) for side in sides]
    scales = [np.divide(1, np.sqrt(found), out=np.zeros_like(found), where=found > 0) for found in degrees]
    current = [columns_of(open_array(folder / name), columns) for name in ("U.npy", "I.npy")]
    totals = [values.copy() for values in current]
    for _ in range(layers):
        current = [scales[side] * product(sides[side], scales[1 - side] * current[1 - side]) for side in (0, 1)]
        totals = [total + values for total, values in zip(totals, current, strict=True)]
    return [total / (layers + 1) for total in totals]


def errors(folder: Path, layers: int, dim: int) -> tuple[float, float]:
    """The largest relative error of the chosen rows, and of all."""
    out = [open_array(folder / "out" / name) for name in ("users.npy", "items.npy")]
    generator = np.random.default_rng(5)
    chosen = [generator.choice(side.shape[0], min(CHECKED_ROWS, side.shape[0]), replace=False) for side in out]
    of_chosen, of_all = 0.0, 0.0
    for start in progress(range(0, dim, COLUMNS_AT_ONCE), f"checking, {COLUMNS_AT_ONCE} columns at a time"):
        columns = slice(start, min(start + COLUMNS_AT_ONCE, dim))
        for file, want, rows in zip(out, expected(folder, layers, columns), chosen, strict=True):
            off = np.abs(columns_of(file, columns) - want) / np.abs(want).max(axis=0)
            of_chosen, of_all = max(of_chosen, float(off[rows].max())), max(of_all, float(off.max()))
    return of_chosen, of_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--interactions", type=int, default=200_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--max-memory-gb", type=float, default=14)
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--plan", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--keep", action="store_true", help="leave the data where it was made")
    given = parser.parse_args()
    folder: Path = given.folder
    folder.mkdir(parents=True)
    try:
        started = time.perf_counter()
        write_dataset(folder / "data", given.users, given.items, given.interactions, seed=0)
        write_normal(folder / "U.npy", given.users, given.dim, seed=1)
        write_normal(folder / "I.npy", given.items, given.dim, seed=2)
        made = time.perf_counter() - started
        print(
            f"{given.users:,} users, {given.items:,} items, {given.interactions:,} interactions, {given.dim} columns, "
            f"{given.layers} layers; made in {made:.0f} s; {given.nproc} processes, {given.precision} rows, "
            f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}",
            flush=True,
        )
        took, memory = propagate(folder, given)
        print(f"\npropagate: {took:.1f} s, peak memory of all processes {memory.proportional / 2**30:.2f} GiB", end=" ")
        print(f"(resident {memory.resident / 2**30:.2f} GiB), {memory.samples} samples\n", flush=True)
        of_chosen, of_all = errors(folder, given.layers, given.dim)
        print(f"largest relative error: {of_chosen:.1e} in {CHECKED_ROWS:,} random rows a side, {of_all:.1e} in all")
    finally:
        if not given.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
