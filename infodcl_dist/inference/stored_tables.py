"""The GCN pass from `.npy` files to `.npy` files.

M users, N items, D width, n_r rows and d_r columns that rank r holds of a table.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infodcl_dist.base.array_file import ArrayFile, open_array
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import writing
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.graph.bipartite import training_graph
from infodcl_dist.graph.out_of_core import (
    RESULTS,
    SETTINGS,
    WORK,
    FilePass,
    check_room,
    discard,
    propagate_files,
    put_results,
)
from infodcl_dist.graph.propagation_plan import Plan, PropagationConfig, Workload
from infodcl_dist.inference.propagation import (
    ROWS_AT_ONCE,
    USER,
    in_memory,
    own_rows,
    plan_of,
    ranks_of,
    workload,
    write_rows,
)
from infodcl_dist.parallel.folders import ENDING_S, on_rank_zero, one_group_at_a_time
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import column_span

LOCK = ".propagation.lock"  # in the folder of the results, until they are there


@dataclass
class StoredTables:
    """Tables in files, of which each rank reads its part."""

    users: ArrayFile  # [M, D]
    items: ArrayFile  # [N, D]
    group: Group

    def __post_init__(self) -> None:
        self.dim = self.users.shape[1]

    def rows(self, name: str) -> Tensor:
        """This rank's rows."""
        return own_rows(self._file(name), self.group)

    def columns(self, name: str) -> Tensor:
        """This rank's columns, out of spans of whole rows."""
        file = self._file(name)
        columns = slice(*column_span(self.dim, self.group.rank, self.group.world_size))
        found = np.empty((file.shape[0], columns.stop - columns.start), np.float32)
        for start in range(0, file.shape[0], ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, file.shape[0])
            found[start:stop] = file.read(start, stop)[:, columns]
        return torch.from_numpy(found).to(self.group.device)

    def _file(self, name: str) -> ArrayFile:
        return self.users if name == USER else self.items


def open_tables(users: Path, items: Path, dataset: Dataset, group: Group) -> StoredTables:
    """Tables of a dataset's users and items.

    Raises:
        UserError: a file is no matrix of floats, or has not a row for each user or item, or widths differ.
    """
    files = open_array(users), open_array(items)
    for file, count, name in zip(files, (dataset.users, dataset.items), ("users", "items"), strict=True):
        if len(file.shape) != 2 or file.shape[1] < 1:
            raise UserError(f"{file.path}: has shape {file.shape}; give a matrix with a column at least")
        if file.shape[0] != count:
            raise UserError(f"{file.path}: has shape {file.shape}; {dataset.path} has {count} {name}: give a row each")
        if file.dtype.kind != "f":
            raise UserError(f"{file.path}: holds {file.dtype}; save it as float32")
    widths = files[0].shape[1], files[1].shape[1]
    if widths[0] != widths[1]:
        raise UserError(f"{items}: has {widths[1]} columns and {users} {widths[0]}; give both one width")
    return StoredTables(*files, group)


@torch.no_grad()
def propagate_stored(
    tables: StoredTables, dataset: Dataset, layers: int, *, config: PropagationConfig, group: Group, out: Path
) -> None:
    """Writes the mean of layers as `users.npy` [M, D] and `items.npy` [N, D], float32, complete or absent.

    All ranks call it, one group of them at a time. An out-of-core pass that was interrupted goes on.

    Args:
        tables: layer 0.
        dataset: whose training pairs are the graph.
        layers: K.
        config: plan, precision, limit of memory.
        group: this process's place.
        out: a folder that all ranks see; made when it is missing.

    Raises:
        UserError: `out` holds such files already, or an unfinished pass over others, or another group writes there;
            memory or disk are too small.
    """
    work = workload(dataset.manifest, tables.dim, layers, config, loads_results=False)
    ranks = ranks_of(group, config.max_memory_gb)
    plan = plan_of(work, config, ranks)
    lock = one_group_at_a_time(out / LOCK, wait_s=ENDING_S, holder="another propagate", is_removed=True)
    with lock, writing(out):
        on_rank_zero(lambda: _refuse_taken(out, plan))
        if plan == "out_of_core":
            inputs = {"dataset": dataset.checksum, "users": _identity(tables.users), "items": _identity(tables.items)}
            over = FilePass(dataset.stored_train(), (tables.users, tables.items), work, inputs, out)
            propagate_files(over, ranks, group)
        else:
            on_rank_zero(lambda: _begin_in_memory(out, work))
            embeddings = in_memory(plan, tables, training_graph(dataset, group.device), work)
            write_rows(out / WORK / RESULTS[0], work.users, embeddings.own_user_rows(), group)
            write_rows(out / WORK / RESULTS[1], work.items, embeddings.own_item_rows(), group)
            on_rank_zero(lambda: put_results(out / WORK, out))


def _refuse_taken(out: Path, plan: Plan) -> None:
    taken = [name for name in RESULTS if (out / name).exists()]
    if taken and not (out / WORK).exists():
        discard(out / WORK)  # of a pass that was killed when all was done but this
        raise UserError(f"{out}: holds {taken[0]} already; choose another folder, or remove it")
    if plan != "out_of_core" and (out / WORK / SETTINGS).exists():
        raise UserError(
            f"{out}: holds an unfinished pass out of core; say --plan out_of_core to go on, choose another folder, or "
            f"remove {out / WORK}"
        )


def _begin_in_memory(out: Path, work: Workload) -> None:
    discard(out / WORK)
    check_room(out, work.table_bytes)
    with writing(out):
        (out / WORK).mkdir()


def _identity(file: ArrayFile) -> list[Any]:
    """What a file is known by: to sum up 10 GB would take as long as a layer."""
    found = file.path.stat()
    return [str(file.path.absolute()), found.st_size, found.st_mtime_ns]
