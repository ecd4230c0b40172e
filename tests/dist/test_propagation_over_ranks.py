"""The GCN pass by every plan at 1, 2 and 4 ranks against SciPy in float64, and what serves its results."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import Ranks
from scipy import sparse

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import BY_ITEM, FORMAT_VERSION, INDICES, OFFSETS, ROWS, Dataset, Manifest
from infodcl_dist.data.rows import compress, transpose
from infodcl_dist.graph import out_of_core, propagation_plan, ring
from infodcl_dist.graph.bipartite import Bipartite, tensor_rows
from infodcl_dist.graph.column_slice import ColumnSlice, Tile
from infodcl_dist.graph.propagation_plan import PLANS, PropagationConfig
from infodcl_dist.graph.ring import cut_by_block
from infodcl_dist.inference.propagation import propagated
from infodcl_dist.inference.stored_tables import open_tables, propagate_stored
from infodcl_dist.parallel.collectives import gather_row_range, ring_blocks
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import Span, column_span, row_span, row_spans

SIZES = (203, 57)  # divided by neither 2 nor 4 in one way
WIDTH = 7
EDGES = 1500
# Float32 against float64: sums of some ten terms, scaled back to size 1, in up to 3 layers; 6e-8 a rounding.
FLOAT32 = 1e-6
# Rows of layers 0 to 2 are rounded once each, by 2⁻⁹ of themselves at most; roundings of a sum's terms average out.
BFLOAT16 = 4e-3


def edges() -> tuple[np.ndarray, np.ndarray]:
    """Popular rows first, and rows without an edge on both sides."""
    generator = np.random.default_rng(11)
    users = (SIZES[0] * generator.random(EDGES) ** 1.6).astype(np.int64)
    items = (SIZES[1] * generator.random(EDGES) ** 2.2).astype(np.int64)
    keys = np.unique(users * SIZES[1] + items)
    keys = keys[(keys // SIZES[1] % 20 != 3) & (keys % SIZES[1] % 9 != 2)]
    return (keys // SIZES[1]).astype(np.int32), (keys % SIZES[1]).astype(np.int32)


def tables() -> list[np.ndarray]:
    generator = np.random.default_rng(12)
    return [generator.standard_normal((count, WIDTH), np.float32) for count in SIZES]


def by_scipy(layers: int) -> list[np.ndarray]:
    users, items = edges()
    matrix = sparse.csr_matrix((np.ones(len(users)), (users, items)), shape=SIZES)
    degrees = [np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0)]
    assert all((found == 0).any() for found in degrees)
    roots = [np.divide(1, np.sqrt(found), out=np.zeros_like(found), where=found > 0) for found in degrees]
    block = sparse.diags(roots[0]) @ matrix @ sparse.diags(roots[1])
    layer = [table.astype(np.float64) for table in tables()]
    total = [table.copy() for table in layer]
    for _ in range(layers):
        layer = [block @ layer[1], block.T @ layer[0]]
        total = [before + values for before, values in zip(total, layer, strict=True)]
    return [values / (layers + 1) for values in total]


def write_files(folder: Path) -> None:
    """What a pass needs of a dataset folder, and the tables."""
    rows = compress(*edges(), SIZES[0])
    for name, side in (("train", rows), (BY_ITEM, transpose(rows, SIZES[1]))):
        (folder / ROWS / name).mkdir(parents=True)
        np.save(folder / ROWS / name / OFFSETS, side.offsets)
        np.save(folder / ROWS / name / INDICES, side.indices)
    for name, table in zip(("U.npy", "I.npy"), tables(), strict=True):
        np.save(folder / name, table)


def dataset(folder: Path) -> Dataset:
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="random",
        users=SIZES[0],
        items=SIZES[1],
        counts={"train": len(edges()[0]), "valid": 0, "test": 0},
        removed={},
        source={},
        settings={},
        features={},
        files={},
    )
    return Dataset(folder, manifest)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path)
    return tmp_path


def in_ranks(group: Group, folder: Path, plan: str, precision: str, layers: int) -> tuple[np.ndarray, ...]:
    """What a run does: tables of which each rank has its rows or its columns. Own rows, and tiles."""
    own = dict(zip(("user", "item"), tables(), strict=True))
    rank, world_size = group.rank, group.world_size
    source = SimpleNamespace(
        dim=WIDTH,
        rows=lambda name: torch.from_numpy(own[name][slice(*row_span(len(own[name]), rank, world_size))]),
        columns=lambda name: torch.from_numpy(own[name][:, slice(*column_span(WIDTH, rank, world_size))]),
    )
    data = dataset(folder)
    graph = Bipartite(tensor_rows(data.items_of_users("train")), tensor_rows(data.users_of_items()))
    config = PropagationConfig(plan=plan, precision=precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "ROWS_AT_ONCE", 10)
        found = propagated(source, data, graph, layers, config=config, group=group, scratch=folder / "scratch")
    assert (found.user_count, found.item_count, found.width) == (*SIZES, WIDTH)
    assert found.own_user_rows().shape[0] < SIZES[0] or world_size == 1
    for tile, own_rows, count in (
        (found.user_tile, found.own_user_rows(), SIZES[0]),
        (found.item_tile, found.own_item_rows(), SIZES[1]),
    ):
        span = row_span(count, rank, world_size)
        assert torch.equal(tile(0, count)[slice(*span)], own_rows)
    if plan == "out_of_core":
        assert list((folder / "scratch").iterdir()) == []
    tiles = [found.item_tile(start, min(start + 20, SIZES[1])) for start in range(0, SIZES[1], 20)]
    return found.own_user_rows().numpy(), torch.cat(tiles).numpy()


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_is_scipys(ranks: Ranks, folder: Path, plan: str, world_size: int) -> None:
    visited = 0
    for layers in (0, 1, 3):
        users, items = by_scipy(layers)
        for precision, tolerance in (("float32", FLOAT32), ("bfloat16", BFLOAT16)):
            found = ranks(world_size, in_ranks, folder, plan, precision, layers)
            errors = [np.abs(np.concatenate([rows for rows, _ in found]) - users).max()]
            errors += [np.abs(tiles - items).max() for _, tiles in found]
            assert np.isfinite(errors).all(), (layers, precision)  # `max` passes over a NaN that is not first
            assert max(errors) < tolerance, (layers, precision)
            assert precision == "float32" or layers == 0 or max(errors) > 10 * FLOAT32, "rows are rounded"
            visited += 1
    assert visited == 6


def to_files(group: Group, folder: Path, plan: str, columns: int, interrupt_after: int | None = None) -> str | None:
    """What `propagate` does, with at most so many columns at once; perhaps interrupted after so many tiles."""
    run = ColumnSlice.run
    with pytest.MonkeyPatch.context() as patch:
        for module in (propagation_plan, out_of_core):
            patch.setattr(module, "most_columns", lambda work, rank_bytes, tile_bytes: columns)
        patch.setattr(propagation_plan, "SMALLEST_TILE_BYTES", 2000)
        patch.setattr(propagation_plan, "LARGEST_TILE_BYTES", 2000)
        if interrupt_after is not None:
            patch.setattr(ColumnSlice, "run", lambda part: _interrupted(run(part), interrupt_after))
        data, config = dataset(folder), PropagationConfig(plan=plan)
        try:
            stored = open_tables(folder / "U.npy", folder / "I.npy", data, group)
            propagate_stored(stored, data, 3, config=config, group=group, out=folder / "out")
        except (RuntimeError, UserError) as error:
            return str(error)
    return None


def _interrupted(tiles: Iterator[Tile], after: int) -> Iterator[Tile]:
    for number, tile in enumerate(tiles):
        if number == after:
            raise RuntimeError("as if it were killed")
        yield tile


def check_out(folder: Path) -> None:
    assert sorted(file.name for file in (folder / "out").iterdir()) == ["items.npy", "users.npy"]
    for name, expected in zip(("users.npy", "items.npy"), by_scipy(3), strict=True):
        found = np.load(folder / "out" / name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(
    ("plan", "columns"), [("by_dimension", 7), ("by_row", 7), ("out_of_core", 7), ("out_of_core", 2)]
)
def test_files_become_files(ranks: Ranks, folder: Path, plan: str, columns: int, world_size: int) -> None:
    assert ranks(world_size, to_files, folder, plan, columns) == [None] * world_size
    check_out(folder)
    again = ranks(world_size, to_files, folder, plan, columns)
    assert all("holds users.npy already" in str(said) for said in again)


@pytest.mark.parametrize(("first", "then"), [(1, 2), (4, 1), (2, 2)])
def test_an_interrupted_pass_goes_on_at_any_world_size(ranks: Ranks, folder: Path, first: int, then: int) -> None:
    assert ranks(first, to_files, folder, "out_of_core", 2, 5) == ["as if it were killed"] * first
    assert not (folder / "out" / "users.npy").exists()
    assert list((folder / "out" / ".propagation").glob("user-1-*.npy"))
    assert ranks(then, to_files, folder, "out_of_core", 2) == [None] * then
    check_out(folder)


def test_an_unfinished_pass_over_other_arrays_is_refused(ranks: Ranks, folder: Path) -> None:
    ranks(1, to_files, folder, "out_of_core", 7, 2)
    np.save(folder / "U.npy", tables()[0][:, ::-1].copy())
    (said,) = ranks(1, to_files, folder, "out_of_core", 7)
    assert "unfinished pass over other arrays" in said
    np.save(folder / "U.npy", tables()[0][:, :3])
    (said,) = ranks(1, to_files, folder, "out_of_core", 7)
    assert "has 7 columns" in said
    np.save(folder / "U.npy", tables()[0][1:])
    (said,) = ranks(1, to_files, folder, "out_of_core", 7)
    assert f"(202, 7); {folder} has 203 users" in said


def test_another_limit_of_memory_begins_anew_where_it_must(ranks: Ranks, folder: Path) -> None:
    """Slices of an unfinished pass are kept while they fit; then narrower ones are begun."""
    ranks(1, to_files, folder, "out_of_core", 4, 2)
    settings = folder / "out" / ".propagation" / "settings.json"
    made = settings.stat().st_mtime_ns
    ranks(1, to_files, folder, "out_of_core", 7, 2)
    assert settings.stat().st_mtime_ns == made
    ranks(1, to_files, folder, "out_of_core", 2, 2)
    assert settings.stat().st_mtime_ns > made
    assert ranks(1, to_files, folder, "out_of_core", 2) == [None]
    check_out(folder)


def visit(group: Group, rows: list[int], kind: torch.dtype) -> list[int]:
    own = torch.full((rows[group.rank], 3), float(group.rank)).to(kind)
    seen = []
    for owner, block in ring_blocks(own, rows):
        assert torch.equal(block, torch.full((rows[owner], 3), float(owner)).to(kind))
        seen.append(owner)
    return seen


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [[3], [5, 2], [2, 2, 2, 2], [4, 0, 1, 0], [0, 0, 0, 0]])
def test_every_block_visits_every_rank_once(ranks: Ranks, rows: list[int], kind: torch.dtype) -> None:
    world_size = len(rows)
    for rank, seen in enumerate(ranks(world_size, visit, rows, kind)):
        assert seen == [(rank - step) % world_size for step in range(world_size)]


def gather_ranges(group: Group) -> int:
    visited = 0
    for count in (1, 3, 10):
        matrix = torch.arange(count * 2.0).view(count, 2)
        own = matrix[slice(*row_span(count, group.rank, group.world_size))]
        for start in range(count + 1):
            for stop in range(start, count + 1):
                assert torch.equal(gather_row_range(own, count, Span(start, stop)), matrix[start:stop])
                visited += 1
    return visited


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_range_of_rows_is_gathered_from_its_owners(ranks: Ranks, world_size: int) -> None:
    assert ranks(world_size, gather_ranges) == [3 + 10 + 66] * world_size


@pytest.mark.parametrize("blocks", [1, 2, 4, 80])
def test_edges_are_cut_by_the_block_they_lead_into(blocks: int) -> None:
    rows = tensor_rows(compress(*edges(), SIZES[0]))
    spans = row_spans(SIZES[1], blocks)
    parts = cut_by_block(rows, spans)
    assert sum(len(part.indices) for part in parts) == len(rows.indices)
    for row in range(SIZES[0]):
        together: list[int] = []
        for span, part in zip(spans, parts, strict=True):
            found = part.indices[part.offsets[row] : part.offsets[row + 1]] + span.start
            assert all(span.start <= index < span.stop for index in found.tolist())
            together += found.tolist()
        assert together == rows.indices[rows.offsets[row] : rows.offsets[row + 1]].tolist()
