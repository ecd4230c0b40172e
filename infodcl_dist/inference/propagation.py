"""The GCN pass of inference (Eq. 16): one function, whatever the plan and wherever the tables lie.

M users, N items, D width, K layers, n_r rows and d_r columns that rank r holds of a table.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from infodcl_dist.base.array_file import ArrayFile, create_array, open_array
from infodcl_dist.base.machine import NOTHING_HELD, Memory, most_of
from infodcl_dist.data.dataset import Dataset, Manifest
from infodcl_dist.graph.bipartite import Bipartite
from infodcl_dist.graph.mean_of_layers import by_dimension
from infodcl_dist.graph.out_of_core import RESULTS, FilePass, propagate_files
from infodcl_dist.graph.propagation_plan import (
    SHARE_OF_MEMORY,
    Plan,
    PropagationConfig,
    Ranks,
    Workload,
    choose,
    memory_of_rank,
)
from infodcl_dist.graph.ring import by_row
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.scratch import scratch_folder
from infodcl_dist.parallel.collectives import barrier, gather_objects
from infodcl_dist.parallel.folders import on_rank_zero
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import row_span

USER, ITEM = "user", "item"
ROWS_AT_ONCE = 262_144  # written to a file: 64 MiB of 64 columns


class TableSource(Protocol):
    """User and item tables, of which each rank can have its rows or its columns."""

    dim: int

    def rows(self, name: str) -> Tensor:
        """This rank's whole rows [n_r, D] of the table `user` or `item`, those of `row_span`."""

    def columns(self, name: str) -> Tensor:
        """This rank's whole columns [M or N, d_r], those of `column_span`."""


@torch.no_grad()
def propagated(
    tables: TableSource,
    dataset: Dataset,
    graph: Bipartite,
    layers: int,
    *,
    config: PropagationConfig,
    group: Group,
    scratch: Path,
    held: Memory = NOTHING_HELD,
) -> Embeddings:
    """The mean of layers 0 … K of both tables, by the plan that `config` names or that fits best. All ranks call it.

    Args:
        tables: layer 0.
        dataset: whose training pairs are the graph.
        graph: the same, on this rank's device.
        layers: K.
        config: plan, precision, limit of memory.
        group: this process's place.
        scratch: where an out-of-core pass may keep files meanwhile; all ranks see it.
        held: what this rank holds already; that of the rank with the most counts against the limits.

    Raises:
        UserError: memory or disk are too small for any plan.
    """
    work = workload(dataset.manifest, tables.dim, layers, config, loads_results=True)
    # Tables may lie on some ranks alone, and a plan must fit on all.
    ranks = ranks_of(group, config.max_memory_gb, most_of(gather_objects(held)))
    plan = plan_of(work, config, ranks)
    if plan != "out_of_core":
        return in_memory(plan, tables, graph, work)
    counts = dataset.users, dataset.items
    with scratch_folder(scratch) as folder:
        sources = zip((USER, ITEM), counts, strict=True)
        files = [write_rows(folder / f"{name}.npy", count, tables.rows(name), group) for name, count in sources]
        over = FilePass(dataset.stored_train(), (files[0], files[1]), work, {}, folder)
        propagate_files(over, ranks, group)
        users, items = (own_rows(open_array(folder / name), group) for name in RESULTS)
        barrier()
    return Embeddings(users, items, work.width, counts)


def in_memory(plan: Plan, tables: TableSource, graph: Bipartite, work: Workload) -> Embeddings:
    """The pass by dimension or by row: nothing is written. All ranks call it."""
    if plan == "by_dimension":
        columns = tables.columns(USER), tables.columns(ITEM)
        return Embeddings(*by_dimension(graph, columns, work.layers, work.precision), work.width)
    rows = tables.rows(USER), tables.rows(ITEM)
    return Embeddings(*by_row(graph, rows, work.layers, work.precision), work.width, (work.users, work.items))


def ranks_of(group: Group, max_memory_gb: float | None, held: Memory = NOTHING_HELD) -> Ranks:
    """What each rank may take, and where: its part of its host's memory, and a share of its GPU's, if it has one."""
    return Ranks(
        world_size=group.world_size,
        memory_bytes=memory_of_rank(max_memory_gb, group.local_world_size),
        local_world_size=group.local_world_size,
        gpu_bytes=None if group.gpu_bytes is None else int(SHARE_OF_MEMORY * group.gpu_bytes),
        held=held,
    )


def plan_of(work: Workload, config: PropagationConfig, ranks: Ranks) -> Plan:
    """What `config` names or rank 0 finds best within its limits, on every rank."""
    return on_rank_zero(lambda: choose(config, work, ranks))


def workload(
    manifest: Manifest, width: int, layers: int, config: PropagationConfig, *, loads_results: bool
) -> Workload:
    """The sizes of a pass over a dataset's training pairs."""
    return Workload(
        users=manifest.users,
        items=manifest.items,
        pairs=manifest.counts["train"],
        width=width,
        layers=layers,
        precision=config.precision,
        loads_results=loads_results,
    )


def own_rows(file: ArrayFile, group: Group) -> Tensor:
    """This rank's rows of a stored matrix, those of `row_span`, float32 on its device."""
    span = row_span(file.shape[0], group.rank, group.world_size)
    return torch.from_numpy(file.read(*span).astype(np.float32, copy=False)).to(group.device)


def write_rows(path: Path, rows: int, own: Tensor, group: Group) -> ArrayFile:
    """A float32 matrix [rows, D] in a file that all ranks see, of which each writes those of `row_span`, [n_r, D].

    All ranks call it; the file is whole when it returns.
    """
    on_rank_zero(lambda: create_array(path, (rows, own.shape[1])))
    made = open_array(path)
    first = row_span(rows, group.rank, group.world_size).start
    for start in range(0, own.shape[0], ROWS_AT_ONCE):
        made.write(first + start, own[start : start + ROWS_AT_ONCE].float().cpu().numpy())
    barrier()
    return made
