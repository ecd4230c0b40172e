"""`bench prepare` and `bench similarity`: from raw interactions to a dataset folder, and its similarity graphs."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from infodcl_dist.bench.figures import Figure
from infodcl_dist.bench.setting import Setting
from infodcl_dist.data.prepare import prepare
from infodcl_dist.graph.bipartite import training_graph
from infodcl_dist.graph.similarity import build_sets, nearest_blocks
from infodcl_dist.parallel.ownership import Span, row_span


def measure_preparation(setting: Setting) -> list[Figure]:
    """The training pairs, written as a text of `user item` lines, prepared anew: split, sorted, checksummed."""
    table = pq.read_table(setting.dataset.path / "train", columns=["user", "item"])
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "pairs.txt"
        np.savetxt(source, np.stack([table["user"].to_numpy(), table["item"].to_numpy()], axis=1), fmt="%d")
        outs = (Path(folder) / f"dataset-{number}" for number in range(setting.warm_up + setting.repeats))
        seconds = setting.timed(lambda: prepare(source, next(outs)))
        return [Figure("prepare", seconds, interactions=table.num_rows, bytes=source.stat().st_size)]


def measure_similarity(setting: Setting) -> list[Figure]:
    """Each row's nearest ones, of both sides, this rank's part; a sum over shared neighbours is an addition."""
    graph, made = training_graph(setting.dataset, torch.device("cpu")), setting.config.metadata
    sides = {"items": (graph.users_of_item, graph.items_of_user), "users": (graph.items_of_user, graph.users_of_item)}
    figures = []
    for side, (rows, columns) in sides.items():
        sets = build_sets(rows, columns, made.hub_cap)
        span = row_span(len(sets.sizes), setting.group.rank, setting.group.world_size)

        def find() -> None:
            for _ in nearest_blocks(sets, span, made.neighbours, made.similarity):  # noqa: B023  # called at once
                pass

        additions = float(sets.products(Span(0, len(sets.sizes)))[-1]) / setting.group.world_size
        pairs = setting.dataset.manifest.counts["train"]
        figures.append(Figure(f"similar {side}", setting.timed(find), interactions=pairs, flops=additions))
    return figures
