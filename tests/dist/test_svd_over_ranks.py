import pytest
import torch
from reference import infodcl as reference
from reference.weights import relative_error

from infodcl_dist.model.psnet import global_svd
from infodcl_dist.parallel.collectives import sum_over_ranks
from infodcl_dist.parallel.group import Group

# As in one process (tests/unit/model/test_global_svd.py): the Gram matrix is summed over ranks in float64.
VALUES, GRADIENTS = 5e-7, 5e-6
WIDTH = 6
# Rows of each rank that count, of 8 that it has: even, uneven, a rank of padding alone, fewer rows than columns.
CASES = {1: [(8,), (3,)], 2: [(8, 8), (8, 3), (8, 0), (3, 0)], 4: [(8, 8, 8, 8), (8, 8, 5, 0), (2, 0, 1, 1)]}


def inputs(world_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.randn(2, world_size, 8, WIDTH, generator=torch.Generator().manual_seed(world_size))
    return made[0], made[1]


def decompose(group: Group, counts: tuple[int, ...]) -> dict[str, torch.Tensor]:
    matrix, pull = (x[group.rank] for x in inputs(group.world_size))
    rows = matrix.clone().requires_grad_()
    weights = (torch.arange(8) < counts[group.rank]).float()
    left, values, right = global_svd(rows, weights, sum_over_ranks)
    # Only rank 0 pulls at the shared parts: what every rank does with them is added.
    shared = values.square().sum() + (right[:, 0] * pull[0]).sum() if group.rank == 0 else 0.0 * values.sum()
    ((weights[:, None] * left * pull).sum() + shared).backward()
    return {"left": left.detach(), "values": values.detach(), "right": right.detach(), "grad": rows.grad}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_it_is_the_svd_of_the_global_batch_with_its_gradient(ranks, world_size):
    visited = 0
    matrix, pull = inputs(world_size)
    for counts in CASES[world_size]:
        results = ranks(world_size, decompose, counts)
        kept = [slice(0, count) for count in counts]
        dense = torch.cat([x[k] for x, k in zip(matrix, kept, strict=True)]).double().requires_grad_()
        left, values, right = reference.svd(dense)
        pulls = torch.cat([x[k] for x, k in zip(pull, kept, strict=True)])
        ((left * pulls).sum() + values.square().sum() + (right[:, 0] * pull[0, 0]).sum()).backward()
        found = {n: torch.cat([r[n][k] for r, k in zip(results, kept, strict=True)]) for n in ("left", "grad")}
        assert relative_error(found["left"], left) < VALUES, counts
        assert relative_error(found["grad"], dense.grad) < GRADIENTS, counts
        for rank, result in enumerate(results):
            assert relative_error(result["values"], values) < VALUES
            assert relative_error(result["right"][:, : right.shape[1]], right) < VALUES
            assert torch.equal(result["right"], results[0]["right"]), "bit for bit the same on every rank"
            assert (result["grad"][counts[rank] :] == 0).all()
        visited += 1
    assert visited == len(CASES[world_size])
