"""One slice of columns out of core: the order of steps, tiles, and that an interruption anywhere changes nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from infodcl_dist.base.array_file import open_array
from infodcl_dist.data.rows import compress, stored_rows, transpose
from infodcl_dist.graph.bipartite import Bipartite, tensor_rows
from infodcl_dist.graph.column_slice import ColumnSlice, Step, read_by, steps_of, tile_spans
from infodcl_dist.graph.mean_of_layers import by_dimension
from infodcl_dist.graph.neighbour_sum import Precision
from infodcl_dist.parallel.ownership import Span

WIDTH = 6


def stored(small: np.ndarray, folder: Path) -> tuple[Bipartite, list[np.ndarray]]:
    """The graph and its tables, also as files."""
    rows = compress(*np.nonzero(small), small.shape[0])
    sides = rows, transpose(rows, small.shape[1])
    for name, side in zip(("user", "item"), sides, strict=True):
        np.save(folder / f"{name}-offsets.npy", side.offsets)
        np.save(folder / f"{name}-indices.npy", side.indices)
    tables = [np.random.default_rng(2).standard_normal((count, WIDTH), np.float32) for count in small.shape]
    for name, table in zip(("user", "item"), tables, strict=True):
        np.save(folder / f"{name}.npy", table)
    return Bipartite(*(tensor_rows(side) for side in sides)), tables


def column_slice(folder: Path, layers: int, precision: Precision = "float32", tile_bytes: int = 400) -> ColumnSlice:
    graph = [stored_rows(folder / f"{name}-offsets.npy", folder / f"{name}-indices.npy") for name in ("user", "item")]
    tables = [open_array(folder / f"{name}.npy") for name in ("user", "item")]
    return ColumnSlice(
        graph=(graph[0], graph[1]),
        tables=(tables[0], tables[1]),
        columns=Span(1, 5),
        layers=layers,
        precision=precision,
        tile_bytes=tile_bytes,
        folder=folder,
        name="part",
    )


def results(part: ColumnSlice) -> list[np.ndarray]:
    return [np.load(part.result(side)) for side in (0, 1)]


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 5])
def test_every_step_reads_what_steps_before_it_made(layers: int) -> None:
    made = {Step(0, 0), Step(1, 0)}
    for step in steps_of(layers):
        assert read_by(step, layers) <= made, step
        # The last layer is added to the mean as it is made, and is no file.
        made |= {step} if step.layer < layers else set()
    assert set(steps_of(layers)[-2:]) == {Step(0, layers), Step(1, layers)}
    assert len(steps_of(layers)) == 2 * max(1, layers)


@pytest.mark.parametrize("limit", [1, 30, 100, 10**6])
def test_tiles_cover_all_rows_and_keep_to_their_limit(limit: int) -> None:
    offsets = np.array([0, 0, 3, 50, 51, 51, 60, 61], np.int32)
    spans = tile_spans(offsets, row_bytes=8, edge_bytes=2, tile_bytes=limit)
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == 7
    for start, stop in spans:
        assert stop - start == 1 or 8 * (stop - start) + 2 * (offsets[stop] - offsets[start]) <= limit
    assert len(spans) == 1 or limit < 10**6
    assert tile_spans(np.zeros(1, np.int32), 8, 2, limit) == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_results_are_those_in_memory(small: np.ndarray, tmp_path: Path, layers: int, precision: Precision) -> None:
    graph, tables = stored(small, tmp_path)
    part = column_slice(tmp_path, layers, precision)
    tiles = list(part.run())
    assert len(tiles) == part.tile_count() == part.tiles_done() > 2 * 2 * max(1, layers)
    cut = [torch.from_numpy(table[:, 1:5].copy()) for table in tables]
    expected = by_dimension(graph, (cut[0], cut[1]), layers, precision)
    for found, wanted in zip(results(part), expected, strict=True):
        # Float32 on both sides, layers added in another order.
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=3e-7)
    left = {file.name for file in tmp_path.glob("*-part.*")}
    assert left == {"user-mean-part.npy", "item-mean-part.npy", "progress-part.json"}, (
        "layers go when nobody reads them"
    )


def test_an_interruption_after_any_tile_changes_nothing(small: np.ndarray, tmp_path: Path) -> None:
    stored(small, tmp_path)
    whole = column_slice(tmp_path, 3)
    count = len(list(whole.run()))
    expected = [values.tobytes() for values in results(whole)]
    assert count > 20
    for after in range(0, count, 3):
        for file in tmp_path.glob("*-part.*"):
            file.unlink()
        part = column_slice(tmp_path, 3)
        running = part.run()
        for _ in range(after):
            next(running)
        running.close()
        # One tile more may have been written and noted than was told of.
        done = part.tiles_done()
        assert after <= done <= after + 1
        assert len(list(column_slice(tmp_path, 3).run())) == count - done
        assert [values.tobytes() for values in results(part)] == expected
