"""Propagation of some columns out of core: tables are files, of which one lies in memory at a time.

M users, N items, D width, C columns of the slice, K layers.

A layer of one side needs the layer before of the other side alone. So a step makes one side's rows of one layer: it
reads the other side's rows of the layer before, all of them, since neighbours lie anywhere; then, tile by tile, it
reads the edges of some rows, sums, scales, and writes. The last layer is never written: its tiles are added to those of
the layers before, which gives the mean. Every write is a function of files that the step does not change, so a step
that was interrupted goes on at its tile.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from infodcl_dist.base.array_file import ArrayFile, create_array, open_array
from infodcl_dist.base.files import read_json, write_json
from infodcl_dist.data.rows import StoredRows, row_blocks
from infodcl_dist.graph.bipartite import tensor_rows
from infodcl_dist.graph.neighbour_sum import Precision, inverse_root, neighbour_sum, rows_to_gather
from infodcl_dist.parallel.ownership import Span

SIDES = ("user", "item")


class Step(NamedTuple):
    """One side's rows of one layer."""

    side: int  # an index of SIDES
    layer: int


class Tile(NamedTuple):
    """Rows of one step."""

    step: int
    number: int  # among the step's tiles
    rows: Span


def steps_of(layers: int) -> list[Step]:
    """All steps in an order in which each finds what it reads; those of layer K make the results."""
    return [Step(side, layer) for layer in range(min(1, layers), layers + 1) for side in (0, 1)]


def read_by(step: Step, layers: int) -> set[Step]:
    """The layers that a step reads: its source, and for a result the layers before on its own side."""
    source = {Step(1 - step.side, step.layer - 1)} if step.layer > 0 else set()
    return source | ({Step(step.side, layer) for layer in range(layers)} if step.layer == layers else set())


def tile_spans(offsets: np.ndarray, row_bytes: int, edge_bytes: int, tile_bytes: int) -> list[Span]:
    """Spans of all rows that take at most `tile_bytes` with their edges, or of one row.

    Args:
        offsets: of compressed rows [R + 1].
        row_bytes, edge_bytes: what a row and an edge take.
        tile_bytes: the limit.
    """
    # In place: there may be as many offsets as memory holds twice.
    taken = np.multiply(offsets, edge_bytes, dtype=np.int64)
    rows = np.arange(len(offsets), dtype=np.int64)
    rows *= row_bytes
    taken += rows
    del rows
    return [Span(*block) for block in row_blocks(taken, tile_bytes)]


@dataclass(frozen=True)
class ColumnSlice:
    """One slice of the columns, and where its files lie.

    Attributes:
        graph: edges of users and of items.
        tables: users [M, D] and items [N, D], the layer 0.
        columns: which of the D.
        layers: K.
        precision: of the rows in memory; files and sums are float32.
        tile_bytes: what a tile takes at most, in memory.
        folder: for the layers, the results, and the progress, under names with `name`.
    """

    graph: tuple[StoredRows, StoredRows]
    tables: tuple[ArrayFile, ArrayFile]
    columns: Span
    layers: int
    precision: Precision
    tile_bytes: int
    folder: Path
    name: str

    def result(self, side: int) -> Path:
        """The file of the mean of layers of one side, [M or N, C]; whole when `tiles_left` yields no more."""
        return self.folder / f"{SIDES[side]}-mean-{self.name}.npy"

    def tile_count(self) -> int:
        """Tiles of all steps."""
        return sum(len(self._spans(step.side)) for step in steps_of(self.layers))

    def tiles_done(self) -> int:
        """How many of them earlier attempts finished."""
        step, tile = self._progress()
        return sum(len(self._spans(done.side)) for done in steps_of(self.layers)[:step]) + tile

    def run(self) -> Iterator[Tile]:
        """Goes on where the progress file says; yields each tile when it is on the disk and noted."""
        first_step, first_tile = self._progress()
        for number, step in enumerate(steps_of(self.layers)):
            if number < first_step:
                continue
            begin = first_tile if number == first_step else 0
            yield from self._run_step(number, step, begin)
            self._note(number + 1, 0)
            self._drop_unread(number + 1)

    def _run_step(self, number: int, step: Step, begin: int) -> Iterator[Tile]:
        spans = self._spans(step.side)
        if begin >= len(spans):
            return
        target = self._target(step, is_new=begin == 0)
        source = self._source(step)
        # One tile is written while the next is summed.
        with ThreadPoolExecutor(1) as writer:
            written: Future[Tile] | None = None
            for place in range(begin, len(spans)):
                tile = Tile(number, place, spans[place])
                values = self._tile(step, spans[place], source)
                if written is not None:
                    yield written.result()
                written = writer.submit(self._store, target, tile, values)
            if written is not None:
                yield written.result()

    def _store(self, target: ArrayFile, tile: Tile, values: Tensor) -> Tile:
        target.write(tile.rows.start, values.numpy())
        self._note(tile.step, tile.number + 1)
        return tile

    def _source(self, step: Step) -> Tensor | None:
        """The other side's rows of the layer before, scaled: [N or M, C]."""
        if step.layer == 0:
            return None
        before = Step(1 - step.side, step.layer - 1)
        graph = self.graph[before.side]
        source = rows_to_gather(len(graph), self.columns.size, self.precision, torch.device("cpu"))
        for span in self._spans(before.side):
            source[span.start : span.stop] = self._layer(before, span) * self._scale(before.side, span)
        return source

    def _tile(self, step: Step, span: Span, source: Tensor | None) -> Tensor:
        """Some rows of a layer, or for the last layer of the mean of layers: [rows, C]."""
        if source is None:
            return self._layer(step, span)
        edges = tensor_rows(self.graph[step.side].read(span.start, span.stop))
        values = neighbour_sum(source, edges).mul_(inverse_root(edges.degrees))
        if step.layer < self.layers:
            return values
        total = self._layer(Step(step.side, 0), span)
        for layer in range(1, self.layers):
            total += self._layer(Step(step.side, layer), span)
        return total.add_(values).div_(self.layers + 1)

    def _layer(self, layer: Step, span: Span) -> Tensor:
        """Rows of a layer that is a file, float32 [rows, C]."""
        if layer.layer > 0:
            return torch.from_numpy(open_array(self._file(layer)).read(span.start, span.stop))
        rows = self.tables[layer.side].read(span.start, span.stop)[:, self.columns.start : self.columns.stop]
        return torch.from_numpy(np.ascontiguousarray(rows, np.float32))

    def _scale(self, side: int, span: Span) -> Tensor:
        return inverse_root(torch.from_numpy(self.graph[side].degrees(span.start, span.stop)))

    def _spans(self, side: int) -> list[Span]:
        # In memory at once: rows as they were read, as they are written, and one on its way to the disk; edges twice.
        row_bytes = self.tables[side].row_bytes + 3 * 4 * self.columns.size
        rows = self.graph[side]
        edge_bytes = 2 * rows.indices.dtype.itemsize
        return tile_spans(rows.offsets.read(0, len(rows) + 1), row_bytes, edge_bytes, self.tile_bytes)

    def _file(self, layer: Step) -> Path:
        return self.folder / f"{SIDES[layer.side]}-{layer.layer}-{self.name}.npy"

    def _target(self, step: Step, *, is_new: bool) -> ArrayFile:
        path = self.result(step.side) if step.layer == self.layers else self._file(step)
        if is_new:
            return create_array(path, (len(self.graph[step.side]), self.columns.size))
        return open_array(path)

    def _drop_unread(self, step: int) -> None:
        """Removes the layers that no step from `step` on reads."""
        left = steps_of(self.layers)[step:]
        needed = {layer for later in left for layer in read_by(later, self.layers)}
        for done in steps_of(self.layers)[:step]:
            if done.layer < self.layers and done not in needed:
                self._file(done).unlink(missing_ok=True)

    def _progress(self) -> tuple[int, int]:
        """Steps that are done, and tiles of the next one."""
        file = self._progress_file()
        if not file.exists():
            return 0, 0
        found = read_json(file)
        return found["steps"], found["tiles"]

    def _note(self, steps: int, tiles: int) -> None:
        write_json(self._progress_file(), {"steps": steps, "tiles": tiles})

    def _progress_file(self) -> Path:
        return self.folder / f"progress-{self.name}.json"
