"""What the pass in memory takes, measured in a process of its own, beside what its plan says."""

import os
import subprocess
import sys

import pytest

from infodcl_dist.base.machine import GIB
from infodcl_dist.graph.neighbour_sum import Precision
from infodcl_dist.graph.propagation_plan import PROCESS_BYTES, Ranks, Workload, estimates

PAIRS, WIDTH = 400_000, 32
MEASURE = """
import re, sys
from pathlib import Path
import numpy as np, torch
from graphs import build_bipartite
from infodcl_dist.graph.mean_of_layers import by_dimension

users, items, pairs, width, layers = map(int, sys.argv[1:6])
# (getrusage's peak begins with that of the process that started this one.)
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
draw = np.random.default_rng(0)
graph = build_bipartite(draw.integers(users, size=pairs), draw.integers(items, size=pairs), users, items)
few = build_bipartite(np.zeros(1, np.int64), np.zeros(1, np.int64), 2, 2)
by_dimension(few, (torch.ones(2, width), torch.ones(2, width)), layers, sys.argv[6])  # what is made once: kernels
before = peak()
tables = torch.ones(users, width), torch.ones(items, width)
means = by_dimension(graph, tables, layers, sys.argv[6])
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("users", "items", "layers", "precision"),
    [
        (400_000, 40_000, 3, "float32"),
        (40_000, 400_000, 2, "bfloat16"),
        (200_000, 200_000, 3, "float32"),
        (400_000, 40_000, 1, "bfloat16"),
    ],
)
def test_by_dimension_takes_what_its_plan_says(users: int, items: int, layers: int, precision: Precision) -> None:
    """Between two layers the larger side is held twice, which is most where the sides differ most."""
    work = Workload(users, items, PAIRS, WIDTH, layers, precision)
    arguments = [*map(str, (users, items, PAIRS, WIDTH, layers)), precision]
    told = estimates(work, Ranks(1, GIB))[0].rank_bytes - PROCESS_BYTES - work.index_bytes
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments],
        check=True,
        capture_output=True,
        text=True,
        # What is freed goes back at once: the C library keeps blocks of up to 32 MiB, as tables are here.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    # Scales, and blocks of rows that are rounded, are not counted.
    assert 0.95 * told < int(found.stdout) < 1.1 * told
