import pytest
import torch
from reference import infodcl as reference
from reference.weights import relative_error

from infodcl_dist.parallel import catalogue_softmax
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import row_span

# Exponentials of cosines over temperature, at most e^20 apart, summed in float32 over at most 130 items in tiles:
# measured 2.3e-7.
TOLERANCE = 2e-6
WIDTH = 8
CASES = [  # items, global batch, padding rows on the last rank, tile of views, tile of rows, temperature
    (23, 12, 0, 256, 2048, 0.5),
    (23, 12, 2, 5, 3, 0.5),
    (130, 8, 1, 3, 7, 0.1),
    (4, 4, 0, 1, 1, 1.0),
    (5, 8, 1, 256, 2, 0.5),  # over 4 ranks the last one holds no row
]


def matrices(items: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(items)
    table = torch.randn(items, WIDTH, generator=generator)
    views = torch.randn(batch, WIDTH, generator=generator) * torch.logspace(-2, 2, batch)[:, None]
    return table, views, torch.randint(items, (batch,), generator=generator)


def sharded(group: Group, case: tuple) -> dict[str, torch.Tensor]:
    items, batch, padding, tile_views, tile_rows, temperature = case
    catalogue_softmax.TILE_VIEWS, catalogue_softmax.TILE_ROWS = tile_views, tile_rows
    table, views, positives = matrices(items, batch)
    per_rank = batch // group.world_size
    own = slice(group.rank * per_rank, (group.rank + 1) * per_rank)
    shares = (torch.arange(batch) < batch - padding).float() * group.world_size / (batch - padding)
    rows = table[slice(*row_span(items, group.rank, group.world_size))].clone().requires_grad_()
    generated = views[own].clone().requires_grad_()
    embeddings = table[positives[own]].clone().requires_grad_()
    value = catalogue_softmax.contrastive(generated, embeddings, rows, shares[own], temperature)
    value.backward()
    return {"value": value.detach()[None], "views": generated.grad, "own": embeddings.grad, "rows": rows.grad}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_value_and_gradients_of_every_row_equal_the_dense_softmax(ranks, world_size):
    visited = 0
    for case in CASES:
        items, batch, padding, _, _, temperature = case
        results = ranks(world_size, sharded, case)
        found = {name: torch.cat([result[name] for result in results]) for name in results[0]}

        table, views, positives = (x[:batch] if x.shape[0] == batch else x for x in matrices(items, batch))
        real = batch - padding
        dense, dense_views = table.double().requires_grad_(), views[:real].double().requires_grad_()
        expected = reference.contrastive(dense_views, positives[:real], dense, temperature)
        expected.backward()

        assert relative_error(found["value"].mean(), expected) < TOLERANCE
        # Each rank's loss is W × its share; what DeepSpeed and TorchRec average over ranks is averaged here.
        assert relative_error(found["views"][:real] / world_size, dense_views.grad) < TOLERANCE
        assert (found["views"][real:] == 0).all()
        rows = found["rows"].index_add(0, positives, found["own"] / world_size)
        assert relative_error(rows, dense.grad) < TOLERANCE
        assert (found["rows"].abs().sum(dim=1) > 0).all(), "the gradient reaches every row of every rank"
        visited += 1
    assert visited == 5


def test_the_own_row_counts_in_the_denominator():
    """One item and one view: the softmax over it alone is 1, whatever the cosine."""
    table = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0))
    assert float(reference.contrastive(-table, torch.tensor([0]), table, 0.5)) == pytest.approx(0, abs=1e-6)
