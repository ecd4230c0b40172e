"""Sums of neighbours' rows against float64, of float32 and of bfloat16 rows."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.graph.neighbour_sum import inverse_root, neighbour_sum, part_of, rows_to_gather
from infodcl_dist.parallel.ownership import Span

ROWS, SOURCES = 40, 300
# Sums of up to 250 terms of size 1, about 16 in size, with a float32 rounding each: measured 2e-6 of the largest sum.
SUMMED = 1e-6


@pytest.fixture
def rows() -> Rows:
    """Rows of 0 to 250 neighbours; the first, the last and one between have none."""
    generator = np.random.default_rng(3)
    degrees = generator.integers(1, 250, ROWS)
    degrees[[0, 17, ROWS - 1]] = 0
    offsets = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int32)
    return Rows(torch.from_numpy(offsets), torch.from_numpy(generator.integers(0, SOURCES, offsets[-1], np.int32)))


def values(columns: int, kind: torch.dtype) -> Tensor:
    return torch.randn(SOURCES, columns, generator=torch.Generator().manual_seed(columns)).to(kind)


def by_loops(table: Tensor, rows: Rows) -> Tensor:
    parts = [table.double()[rows.indices[start:stop].long()].sum(dim=0) for start, stop in rows.offsets.unfold(0, 2, 1)]
    return torch.stack(parts)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("columns", [1, 16, 33, 64])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_sums_are_those_of_loops_in_float64(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, kind: torch.dtype, columns: int, threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    table = values(columns, kind)
    found = neighbour_sum(table, rows)
    assert found.dtype == torch.float32
    assert error(found, by_loops(table, rows)) < SUMMED


def test_torchs_own_bag_rounds_sums_to_bfloat16(rows: Rows) -> None:
    """Why there is another kernel: if this fails, torch's may do."""
    table = values(64, torch.bfloat16)
    found = embedding_bag(rows.indices, table, rows.offsets, mode="sum", include_last_offset=True)
    assert error(found, by_loops(table, rows)) > 100 * SUMMED


def test_wide_indices_and_no_rows(rows: Rows) -> None:
    wide = Rows(rows.offsets.long(), rows.indices.long())
    for kind in (torch.float32, torch.bfloat16):
        table = values(4, kind)
        assert torch.equal(neighbour_sum(table, wide), neighbour_sum(table, rows))
        none = Rows(torch.zeros(1, dtype=torch.int32), torch.zeros(0, dtype=torch.int32))
        assert neighbour_sum(table, none).shape == (0, 4)
        lonely = Rows(torch.zeros(4, dtype=torch.int32), torch.zeros(0, dtype=torch.int32))
        assert torch.equal(neighbour_sum(table[:0], lonely), torch.zeros(3, 4))


def test_parts_of_rows_have_the_sums_of_the_whole(rows: Rows) -> None:
    table = values(8, torch.float32)
    whole, visited = neighbour_sum(table, rows), 0
    for start in range(0, ROWS, 7):
        for stop in (start, start + 1, ROWS):
            part = part_of(rows, Span(start, stop))
            assert torch.equal(neighbour_sum(table, part), whole[start:stop])
            visited += 1
    assert visited == 18


def test_scales_of_lonely_rows_are_zero() -> None:
    found = inverse_root(torch.tensor([0, 1, 4, 0], dtype=torch.int32))
    assert found.tolist() == [[0.0], [1.0], [0.5], [0.0]]


def test_rows_to_gather_have_the_type_that_is_asked_for() -> None:
    for precision, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        made = rows_to_gather(3, 2, precision, torch.device("cpu"))
        assert (made.dtype, made.shape) == (kind, (3, 2))
        made.copy_(torch.ones(3, 2))
        assert made.sum() == 6
