"""All-ranking metrics over ranks against sets and loops, and the GCN pass against a dense Â."""

import numpy as np
import pytest
import torch
from reference import infodcl as reference
from reference.weights import relative_error

from infodcl_dist.graph.bipartite import Bipartite, build_bipartite
from infodcl_dist.inference import ranking
from infodcl_dist.inference.embeddings import propagate_tables
from infodcl_dist.inference.evaluation import evaluate
from infodcl_dist.parallel.collectives import rows_to_columns
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import row_span

USERS, ITEMS, LAYERS, CUTOFFS = 21, 30, 2, (1, 5, 20, 50)
SPLITS = {"train": (90, 0), "valid": (25, 1), "test": (40, 2)}


def split(name: str) -> tuple[np.ndarray, np.ndarray]:
    count, seed = SPLITS[name]
    keys = np.sort(np.random.default_rng(seed).choice(USERS * ITEMS, size=count, replace=False))
    return (keys // ITEMS).astype(np.int32), (keys % ITEMS).astype(np.int32)


def graph(name: str) -> Bipartite:
    return build_bipartite(*split(name), USERS, ITEMS)


def tables(width: int, ties: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """With ties: small integers, so that sums are exact and many items of a user score the same."""
    generator = torch.Generator().manual_seed(width)
    values = torch.randn(USERS + ITEMS, width, generator=generator)
    if ties:
        values = values.round().clamp(-1, 1)
    return values[:USERS], values[USERS:]


def measured(group: Group, width: int, ties: bool, layers: int) -> tuple[dict[str, float], torch.Tensor]:
    ranking.USER_CHUNK, ranking.ITEM_TILE = 4, 7  # several chunks a rank, tiles that do not divide N
    users, items = tables(width, ties)
    own_users, own_items = (slice(*row_span(n, group.rank, group.world_size)) for n in (USERS, ITEMS))
    train = graph("train")
    users, items = (rows_to_columns(x[own], x.shape[0]) for x, own in ((users, own_users), (items, own_items)))
    embeddings = propagate_tables(users, items, width, train, layers)
    masks = [train.items_of_user, graph("valid").items_of_user]
    truth = graph("test").items_of_user
    found = evaluate(embeddings, truth=truth, masks=masks, cutoffs=CUTOFFS, group=group)
    return found, embeddings.own_user_rows()


def sets(*names: str) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(USERS)]
    for name in names:
        for user, item in zip(*(codes.tolist() for codes in split(name)), strict=True):
            found[user].add(item)
    return found


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("width", [8, 6])
def test_metrics_equal_sets_and_loops(ranks, width, world_size):
    visited = 0
    a = reference.adjacency(*(torch.from_numpy(codes).long() for codes in split("train")), USERS, ITEMS)
    for ties, layers in ((True, 0), (False, 0), (False, LAYERS)):
        users, items = (x.double() for x in tables(width, ties))
        users, items = reference.propagate(a, users, items, layers)
        expected = reference.metrics(users @ items.T, sets("test"), sets("train", "valid"), CUTOFFS)
        assert 0 < expected["recall@5"] < 1
        results = ranks(world_size, measured, width, ties, layers)
        # Float32 rounding of propagated rows: measured 7e-8.
        assert relative_error(torch.cat([rows for _, rows in results]), users) < 1e-6
        for found, _ in results:
            assert found == pytest.approx(expected, abs=1e-12), "sums of float64, a list that ties cannot change"
            visited += 1
    assert visited == 3 * world_size
