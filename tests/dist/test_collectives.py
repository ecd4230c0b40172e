import pytest
import torch
from reference.weights import relative_error

from infodcl_dist.parallel import collectives
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import (
    NOTHING,
    Block,
    Layout,
    Span,
    column_layout,
    column_spans,
    row_layout,
    row_spans,
)

# (rows, width): even, uneven, fewer rows than ranks (some ranks hold none), fewer columns than ranks, one of each.
SHAPES = [(16, 8), (17, 7), (5, 6), (3, 8), (10, 3), (1, 1)]
SUMMED = 1e-6  # sums over at most 4 ranks, one float32 rounding each


def whole(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def exchange(group: Group) -> int:
    """Nothing is reduced here, so everything is compared exactly."""
    visited = 0
    for rows, width in SHAPES:
        matrix, pull = whole(rows, width), whole(rows, width, seed=1)
        own_rows = slice(*row_spans(rows, group.world_size)[group.rank])
        own_columns = slice(*column_spans(width, group.world_size)[group.rank])

        y = matrix[:, own_columns].clone().requires_grad_()
        back = collectives.columns_to_rows(y, width)
        assert torch.equal(back, matrix[own_rows])
        (back * pull[own_rows]).sum().backward()
        assert torch.equal(y.grad, pull[:, own_columns])
        visited += 1
    return visited


def layouts(rows: int, width: int, world_size: int) -> list[Layout]:
    """Rows, columns, all on the last rank, columns on the first ranks alone, and a grid of two by two."""
    whole_rows, whole_columns = Span(0, rows), Span(0, width)
    found = [row_layout(rows, width, world_size), column_layout(rows, width, world_size)]
    found.append([NOTHING] * (world_size - 1) + [Block(whole_rows, whole_columns)])
    if world_size == 4:
        halves = [Block(whole_rows, columns) for columns in column_spans(width, 2)]
        found.append([*halves, NOTHING, NOTHING])
        found.append([Block(r, c) for r in row_spans(rows, 2) for c in column_spans(width, 2)])
    return found


def redistribute(group: Group) -> int:
    """Every layout to every other, values and gradients, exactly."""
    visited = 0
    for rows, width in SHAPES:
        matrix, pull = whole(rows, width), whole(rows, width, seed=1)
        everything = Block(Span(0, rows), Span(0, width))
        for source in layouts(rows, width, group.world_size):
            for target in layouts(rows, width, group.world_size):
                held, wanted = (layout[group.rank].slices_of(everything) for layout in (source, target))
                x = matrix[held].clone().requires_grad_()
                found = collectives.redistribute(x, source, target)
                assert torch.equal(found, matrix[wanted])
                (found * pull[wanted]).sum().backward()
                assert torch.equal(x.grad, pull[held])
                visited += 1
    return visited


def gather_whole_rows(group: Group) -> int:
    visited = 0
    for rows, width in SHAPES:
        matrix = whole(rows, width)
        own_columns = slice(*column_spans(width, group.world_size)[group.rank])
        assert torch.equal(collectives.gather_columns(matrix[:, own_columns], width), matrix), (rows, width)
        visited += 1
    return visited


def reduce(group: Group) -> dict[str, torch.Tensor]:
    """Σ over ranks of a loss that uses every rank's input in a way of its own."""
    x = whole(4, 3, seed=group.rank).requires_grad_()
    pull = whole(4, 3, seed=100 + group.rank)
    total = collectives.sum_over_ranks(x)
    (total * pull).sum().backward()
    mean = collectives.mean_over_ranks(x.detach())
    return {"input": x.detach(), "pull": pull, "sum": total.detach(), "grad": x.grad, "mean": mean}


def gather(group: Group) -> tuple[torch.Tensor, list, str]:
    rows = collectives.gather_rows(torch.full((2, 3), float(group.rank)))
    objects = collectives.gather_objects({"rank": group.rank})
    return rows, objects, collectives.broadcast_object(f"from {group.rank}")


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_rows_and_columns_change_places_exactly_and_so_do_gradients(ranks, world_size):
    assert ranks(world_size, exchange) == [len(SHAPES)] * world_size


@pytest.mark.parametrize(("world_size", "known"), [(1, 3), (2, 3), (4, 5)])
def test_any_layout_becomes_any_other_exactly_and_so_do_gradients(ranks, world_size, known):
    assert ranks(world_size, redistribute) == [len(SHAPES) * known**2] * world_size


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_columns_of_unequal_width_are_gathered_exactly(ranks, world_size):
    assert ranks(world_size, gather_whole_rows) == [len(SHAPES)] * world_size


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_sums_and_their_gradients_reach_every_rank(ranks, world_size):
    results = ranks(world_size, reduce)
    total = torch.stack([result["input"] for result in results]).sum(dim=0)
    pulls = torch.stack([result["pull"] for result in results]).sum(dim=0)
    for result in results:
        assert relative_error(result["sum"], total) < SUMMED
        assert relative_error(result["mean"], total / world_size) < SUMMED
        assert relative_error(result["grad"], pulls) < SUMMED, "what every rank sends back is added"


@pytest.mark.parametrize("world_size", [1, 2])
def test_gathers_and_broadcasts_keep_rank_order(ranks, world_size):
    for rows, objects, word in ranks(world_size, gather):
        assert rows[:, 0].tolist() == [float(rank) for rank in range(world_size) for _ in range(2)]
        assert objects == [{"rank": rank} for rank in range(world_size)]
        assert word == "from 0"


def gather_matrix(group: Group) -> int:
    visited = 0
    for rows, width in SHAPES:
        matrix = whole(rows, width)
        own = slice(*row_spans(rows, group.world_size)[group.rank])
        x = matrix[own].clone().requires_grad_()
        found = collectives.gather_matrix(x, rows)
        assert torch.equal(found, matrix)
        (found * whole(rows, width, seed=1 + group.rank)).sum().backward()
        expected = sum(whole(rows, width, seed=1 + rank) for rank in range(group.world_size))
        assert x.grad.shape == x.shape
        if x.numel() > 0:
            assert relative_error(x.grad, expected[own]) < SUMMED
        visited += 1
    return visited


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_matrix_is_gathered_whole_and_its_gradients_are_summed(ranks, world_size):
    assert ranks(world_size, gather_matrix) == [len(SHAPES)] * world_size
