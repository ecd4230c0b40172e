"""The GCN pass of inference (Eq. 16): one function, whatever the plan and wherever the tables lie.

M users, N items, D width, K layers, n_r rows and d_r columns that rank r holds of a table.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from infodcl_dist.base.array_file import ArrayFile, create_array, open_array
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.graph.bipartite import Bipartite, tensor_rows
from infodcl_dist.graph.mean_of_layers import by_dimension
from infodcl_dist.graph.out_of_core import RESULTS, WORK, FilePass, propagate_files, put_results
from infodcl_dist.graph.propagation_plan import PropagationConfig, Ranks, Workload, choose, memory_of_rank
from infodcl_dist.graph.ring import by_row
from infodcl_dist.inference.embeddings import AnyEmbeddings, Embeddings, RowEmbeddings, StoredEmbeddings
from infodcl_dist.parallel.collectives import barrier
from infodcl_dist.parallel.folders import on_rank_zero
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import column_span, row_span

TABLES = ("user", "item")
ROWS_AT_ONCE = 262_144  # of a file: 64 MiB of 64 columns


class TableSource(Protocol):
    """User and item tables, `user` and `item`, of which each rank can have its rows or its columns."""

    @property
    def dim(self) -> int:
        """D."""

    def rows(self, name: str) -> Tensor:
        """This rank's whole rows [n_r, D], those of `row_span`."""

    def columns(self, name: str) -> Tensor:
        """This rank's whole columns [M or N, d_r], those of `column_span`."""


@dataclass(frozen=True)
class StoredTables:
    """Tables in `.npy` files."""

    users: ArrayFile  # [M, D]
    items: ArrayFile  # [N, D]
    group: Group

    @property
    def dim(self) -> int:
        """D."""
        return self.users.shape[1]

    def rows(self, name: str) -> Tensor:
        """This rank's rows, read at once."""
        file = self._file(name)
        span = row_span(file.shape[0], self.group.rank, self.group.world_size)
        return self._on_device(file.read(*span))

    def columns(self, name: str) -> Tensor:
        """This rank's columns, out of spans of whole rows."""
        file = self._file(name)
        columns = slice(*column_span(self.dim, self.group.rank, self.group.world_size))
        found = np.empty((file.shape[0], columns.stop - columns.start), np.float32)
        for start in range(0, file.shape[0], ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, file.shape[0])
            found[start:stop] = file.read(start, stop)[:, columns]
        return self._on_device(found)

    def _file(self, name: str) -> ArrayFile:
        return self.users if name == TABLES[0] else self.items

    def _on_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).float().to(self.group.device)


def propagated(
    tables: TableSource,
    dataset: Dataset,
    graph: Bipartite,
    layers: int,
    *,
    config: PropagationConfig,
    group: Group,
    folder: Path,
    inputs: dict[str, Any],
) -> AnyEmbeddings:
    """The mean of layers 0 … K of both tables, by the plan that `config` names or that fits best. All ranks call it.

    Args:
        tables: layer 0.
        dataset: whose training pairs are the graph.
        graph: the same, on this rank's device.
        layers: K.
        config: plan, precision, limit of memory.
        group: this process's place.
        folder: where an out-of-core pass keeps its files and leaves its results; all ranks see it.
        inputs: what the tables' contents are known by: an unfinished out-of-core pass goes on with the same alone.

    Raises:
        UserError: memory or disk are too small for any plan.
    """
    work = workload(dataset, tables.dim, layers, config)
    memory_bytes = memory_of_rank(config.max_memory_gb, group.local_world_size)
    ranks = Ranks(group.world_size, memory_bytes, group.local_world_size)
    plan = on_rank_zero(lambda: choose(config, work, ranks))
    if plan == "by_dimension":
        held = tables.columns(TABLES[0]), tables.columns(TABLES[1])
        return Embeddings(*by_dimension(graph, held, layers, config.precision), tables.dim)
    if plan == "by_row":
        held = tables.rows(TABLES[0]), tables.rows(TABLES[1])
        return RowEmbeddings(*by_row(graph, held, layers, config.precision), dataset.users, dataset.items)
    on_rank_zero(lambda: folder.mkdir(parents=True, exist_ok=True))
    files = _as_files(tables, (dataset.users, dataset.items), folder, group)
    propagate_files(FilePass(dataset.stored_train(), files, work, inputs, folder), memory_bytes, group)
    users, items = (open_array(folder / name) for name in RESULTS)
    return StoredEmbeddings(users, items, group)


def propagate_stored(
    tables: StoredTables, dataset: Dataset, layers: int, *, config: PropagationConfig, group: Group, out: Path
) -> None:
    """`propagated` from files to files: `users.npy` [M, D] and `items.npy` [N, D] in `out`, complete or absent.

    Raises:
        UserError: `out` holds such files already; or see `propagated`.
    """
    on_rank_zero(lambda: _make_out(out))
    graph = Bipartite(tensor_rows(dataset.items_of_users("train")), tensor_rows(dataset.users_of_items()))
    inputs = {"dataset": dataset.checksum, "users": _identity(tables.users), "items": _identity(tables.items)}
    embeddings = propagated(
        tables, dataset, graph.to(group.device), layers, config=config, group=group, folder=out, inputs=inputs
    )
    if isinstance(embeddings, StoredEmbeddings):
        return
    building = out / WORK
    on_rank_zero(lambda: _make_empty(building))
    write_rows(embeddings, building, group)
    on_rank_zero(lambda: put_results(building, out))


def open_tables(users: Path, items: Path, dataset: Dataset, group: Group) -> StoredTables:
    """Tables of a dataset's users and items.

    Raises:
        UserError: a file is no matrix of numbers, or has not a row for each user or item, or widths differ.
    """
    files = open_array(users), open_array(items)
    for file, count, name in zip(files, (dataset.users, dataset.items), ("users", "items"), strict=True):
        if len(file.shape) != 2 or file.shape[0] != count or file.shape[1] < 1:
            raise UserError(f"{file.path}: has shape {file.shape}; {dataset.path} has {count:,} {name}, a row each")
        if file.dtype.kind != "f":
            raise UserError(f"{file.path}: holds {file.dtype}; save it as float32")
    if files[0].shape[1] != files[1].shape[1]:
        raise UserError(
            f"{items}: has {files[1].shape[1]} columns and {users} {files[0].shape[1]}; give both one width"
        )
    return StoredTables(*files, group)


def workload(dataset: Dataset, width: int, layers: int, config: PropagationConfig) -> Workload:
    """The sizes of a pass over a dataset's training pairs."""
    return Workload(
        users=dataset.users,
        items=dataset.items,
        pairs=dataset.manifest.counts["train"],
        width=width,
        layers=layers,
        precision=config.precision,
    )


def write_rows(embeddings: AnyEmbeddings, folder: Path, group: Group) -> None:
    """Writes `users.npy` [M, D] and `items.npy` [N, D] into a folder that exists; each rank its own rows."""
    _write_matrix(folder / RESULTS[0], embeddings.user_count, embeddings.own_user_rows(), group)
    _write_matrix(folder / RESULTS[1], embeddings.item_count, embeddings.own_item_rows(), group)


def _make_out(out: Path) -> None:
    taken = [name for name in RESULTS if (out / name).exists()]
    if taken and not (out / WORK).exists():
        raise UserError(f"{out}: holds {taken[0]} already; choose another folder, or remove it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose a folder you may write to") from error


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _identity(file: ArrayFile) -> list[Any]:
    """What a file is known by: reading 10 GB to sum them up would take as long as a layer."""
    found = file.path.stat()
    return [str(file.path.absolute()), found.st_size, found.st_mtime_ns]


def _as_files(tables: TableSource, counts: tuple[int, int], folder: Path, group: Group) -> tuple[ArrayFile, ArrayFile]:
    """Tables as they lie on the disk, or written there by the ranks, each its rows."""
    if isinstance(tables, StoredTables):
        return tables.users, tables.items
    made = [
        _write_matrix(folder / f"{name}-0.npy", count, tables.rows(name).detach(), group)
        for name, count in zip(TABLES, counts, strict=True)
    ]
    return made[0], made[1]


def _write_matrix(path: Path, rows: int, own: Tensor, group: Group) -> ArrayFile:
    """A float32 matrix of which each rank writes its own rows, those of `row_span`. Complete when it returns."""
    on_rank_zero(lambda: _make(path, (rows, own.shape[1])))
    made = open_array(path)
    first = row_span(rows, group.rank, group.world_size).start
    for start in range(0, own.shape[0], ROWS_AT_ONCE):
        made.write(first + start, own[start : start + ROWS_AT_ONCE].float().cpu().numpy())
    barrier()
    return made


def _make(path: Path, shape: tuple[int, int]) -> None:
    create_array(path, shape)
