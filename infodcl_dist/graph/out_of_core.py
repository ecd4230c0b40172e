"""Propagation of tables that no memory holds: files in, files out, and it goes on where it was interrupted.

M users, N items, D width.

Columns are independent, so slices of them are passes of their own (`column_slice`), which ranks share and between which
nobody speaks. Where there are several, their results are joined, tile by tile. Beside the results stands a folder with
the layers, the progress, and what they were made from; it goes when the results have their final names.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infodcl_dist.base.array_file import ArrayFile, create_array, open_array
from infodcl_dist.base.console import log, progress_bar
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import read_json, write_json, writing
from infodcl_dist.data.rows import StoredRows
from infodcl_dist.graph.column_slice import ColumnSlice
from infodcl_dist.graph.propagation_plan import Ranks, Slicing, Workload, left_for_files, most_columns, slicing
from infodcl_dist.parallel.collectives import barrier, side_group
from infodcl_dist.parallel.folders import on_rank_zero
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import column_spans, row_span

WORK, SETTINGS = ".propagation", "settings.json"
DISCARDED = ".propagation.discarded"  # what `WORK` is called while it is removed
RESULTS = ("users.npy", "items.npy")
MIB = 2**20
PASS_S = 7 * 24 * 3600.0  # ranks wait for each other at a pass's end alone, and some may have no slice at all


@dataclass(frozen=True)
class FilePass:
    """A pass over files.

    Attributes:
        graph: edges of users and of items.
        tables: users [M, D] and items [N, D].
        work: its sizes, layers and precision.
        inputs: what the files' contents are known by; as JSON. A pass goes on only with the same.
        out: an existing folder that all ranks see, for `users.npy` and `items.npy`.
    """

    graph: tuple[StoredRows, StoredRows]
    tables: tuple[ArrayFile, ArrayFile]
    work: Workload
    inputs: dict[str, Any]
    out: Path

    @property
    def folder(self) -> Path:
        """Of what is unfinished."""
        return self.out / WORK

    def slices(self, cut: Slicing) -> list[ColumnSlice]:
        """The parts."""
        return [
            ColumnSlice(
                graph=self.graph,
                tables=self.tables,
                columns=columns,
                layers=self.work.layers,
                precision=self.work.precision,
                tile_bytes=cut.tile_bytes,
                folder=self.folder,
                name=f"{columns.start}-{columns.stop}",
            )
            for columns in column_spans(self.work.width, cut.slices)
        ]


def propagate_files(over: FilePass, ranks: Ranks, group: Group) -> None:
    """Writes the mean of layers of both tables, float32, or goes on with it. All ranks call it.

    Args:
        over: the pass.
        ranks: what a rank may take; rank 0's counts.
        group: this process's place.

    Raises:
        UserError: memory or disk are too small, or the folder holds an unfinished pass over something else.
    """
    waits = side_group(PASS_S)
    slices = over.slices(on_rank_zero(lambda: _begin(over, ranks)))
    own = slices[group.rank :: group.world_size]
    total, done = sum(part.tile_count() for part in own), sum(part.tiles_done() for part in own)
    if done > 0:
        log.info("propagation  goes on after tile %s of %s on rank %s", f"{done:,}", f"{total:,}", group.rank)
    with progress_bar() as bar:
        task = bar.add_task("propagation, tiles", total=total, completed=done)
        for part in own:
            for _ in part.run():
                bar.advance(task)
    barrier(waits)
    if len(slices) > 1:
        _join(over, slices, group)
    on_rank_zero(lambda: _finish(over, slices))


def _begin(over: FilePass, ranks: Ranks) -> Slicing:
    """How the pass is cut: as an unfinished one was, where that fits into memory."""
    file = over.folder / SETTINGS
    settings = {
        "inputs": over.inputs,
        "layers": over.work.layers,
        "precision": over.work.precision,
    }
    cut = slicing(over.work, ranks)
    if file.exists():
        found = read_json(file)
        known = Slicing(**found.pop("cut"))
        if found != settings:
            raise UserError(
                f"{over.out}: holds an unfinished pass over other arrays or with other settings; give it the same to "
                f"go on, choose another folder, or remove {over.folder}"
            )
        widest = -(-over.work.width // known.slices)
        if widest <= most_columns(over.work, left_for_files(over.work, ranks), known.tile_bytes):
            return known
        log.warning("propagation  begins anew: the unfinished pass takes more memory than it may now")
    discard(over.folder)
    check_room(over.out, most_bytes(over.work, cut, ranks.world_size))
    with writing(over.out):
        over.folder.mkdir(parents=True)
        write_json(file, settings | {"cut": {"slices": cut.slices, "tile_bytes": cut.tile_bytes}})
    return cut


def most_bytes(work: Workload, cut: Slicing, world_size: int) -> int:
    """Bytes of files that lie there at a time: results, and layers 1 … K − 1 of the slices in work; or, while several
    slices' results are joined, these twice."""
    in_work = min(work.width, min(world_size, cut.slices) * -(-work.width // cut.slices))  # columns
    layers = work.table_bytes * max(0, work.layers - 1) * in_work // work.width
    return work.table_bytes + max(layers, work.table_bytes if cut.slices > 1 else 0)


def check_room(out: Path, needed_bytes: int) -> None:
    """Refuses a pass that needs more than is free where `out` lies."""
    free_bytes = shutil.disk_usage(out).free
    if free_bytes < needed_bytes:
        raise UserError(
            f"{out}: the pass needs {-(-needed_bytes // MIB):,} MiB and {free_bytes // MIB:,} MiB are free; "
            "choose a folder on a larger disk"
        )


def _join(over: FilePass, slices: list[ColumnSlice], group: Group) -> None:
    """The slices' results side by side; each rank joins its rows."""
    on_rank_zero(lambda: _make_results(over))
    for side, name in enumerate(RESULTS):
        target = open_array(over.folder / name)
        parts = [open_array(part.result(side)) for part in slices]
        span = row_span(target.shape[0], group.rank, group.world_size)
        step = max(1, slices[0].tile_bytes // (2 * max(1, target.row_bytes)))
        for start in range(span.start, span.stop, step):
            stop = min(start + step, span.stop)
            target.write(start, np.concatenate([part.read(start, stop) for part in parts], axis=1))
    barrier()


def _make_results(over: FilePass) -> None:
    for name, table in zip(RESULTS, over.tables, strict=True):
        create_array(over.folder / name, table.shape)


def _finish(over: FilePass, slices: list[ColumnSlice]) -> None:
    if len(slices) == 1:
        for side, name in enumerate(RESULTS):
            # One that is missing had its final name before an interruption.
            if slices[0].result(side).exists():
                slices[0].result(side).replace(over.folder / name)
    put_results(over.folder, over.out)


def put_results(folder: Path, out: Path) -> None:
    """Gives finished results, `RESULTS` in `folder`, their names in `out`, and removes the folder."""
    for name in RESULTS:
        if (folder / name).exists():
            (folder / name).replace(out / name)
    discard(folder)


def discard(folder: Path) -> None:
    """Removes a folder of unfinished work, or what an earlier call left of one.

    It loses its name in one step: of a half that is left no pass could go on.
    """
    discarded = folder.with_name(DISCARDED)
    shutil.rmtree(discarded, ignore_errors=True)
    if folder.exists():
        folder.rename(discarded)
        shutil.rmtree(discarded, ignore_errors=True)
