"""Batches are the same examples whatever the number of ranks, and negatives are uniform outside the training set."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.random import key_for
from infodcl_dist.data.batches import Batch, Batches
from infodcl_dist.data.draws import draw_outside, nth_outside
from infodcl_dist.data.item_rows import ItemRows
from infodcl_dist.data.rows import CompressedRows, compress, map_rows

USERS, ITEMS = 6, 9
# User 0 has the first items, 1 the last, 2 scattered ones, 3 all but one, 4 none, 5 one.
SETS = {0: [0, 1, 2], 1: [7, 8], 2: [0, 3, 4, 8], 3: [0, 1, 2, 3, 4, 6, 7, 8], 4: [], 5: [5]}
PAIRS = [(user, item) for user, items in SETS.items() for item in items]
FIELDS = ("positions", "users", "positives", "negatives")


def rows(pairs: list[tuple[int, int]], users: int = USERS) -> CompressedRows:
    return compress(*np.array(pairs, dtype=np.int32).reshape(-1, 2).T, users)


MATRICES = {
    "text": np.arange(ITEMS * 4, dtype=np.float64).reshape(ITEMS, 4),
    "image": -np.arange(ITEMS * 2, dtype=np.float16).reshape(ITEMS, 2),
}


def made(rank: int = 0, world_size: int = 1, global_batch_size: int = 7, seed: int = 3) -> Batches:
    return Batches(
        rows(PAIRS),
        items=ITEMS,
        global_batch_size=global_batch_size,
        seed=seed,
        metadata={name: ItemRows(matrix) for name, matrix in MATRICES.items()},
        rank=rank,
        world_size=world_size,
    )


def real(batch: Batch, name: str) -> Tensor:
    return getattr(batch, name)[batch.weights > 0]


def all_outside(sets: CompressedRows, user: int, count: int) -> list[int]:
    """Whatever can be drawn for a user, in order."""
    start, degree = int(sets.offsets[user]), int(sets.degrees[user])
    return [nth_outside(sets.indices, start, degree, n) for n in range(count)]


def test_every_draw_is_an_item_outside_the_users_set() -> None:
    visited = 0
    for user, items in SETS.items():
        outside = [item for item in range(ITEMS) if item not in items]
        assert all_outside(rows(PAIRS), user, len(outside)) == outside
        visited += len(outside)
    assert visited == USERS * ITEMS - len(PAIRS)


def test_draws_are_exhaustive_on_random_sets() -> None:
    generator = np.random.default_rng(0)
    visited = 0
    for density in (0.05, 0.5, 0.95):
        dense = generator.random((40, 25)) < density
        dense[np.arange(40), generator.integers(0, 25, 40)] = False
        sets = rows(np.argwhere(dense).tolist(), 40)
        for user in range(40):
            outside = np.flatnonzero(~dense[user]).tolist()
            assert all_outside(sets, user, len(outside)) == outside
            visited += len(outside)
    assert visited > 1_000


def test_negatives_are_uniform() -> None:
    draws = 20_000
    positions = np.arange(draws)
    for user, items in SETS.items():
        drawn = draw_outside(key_for("uniform", user), positions, np.full_like(positions, user), rows(PAIRS), ITEMS)
        counts = np.bincount(drawn, minlength=ITEMS)
        outside = np.setdiff1d(np.arange(ITEMS), items)
        assert counts.sum() == counts[outside].sum() == draws
        # Fixed keys; a fair sampler is below this once in a thousand.
        assert len(outside) == 1 or stats.chisquare(counts[outside]).pvalue > 1e-3


def test_a_user_with_every_item_is_refused() -> None:
    full = [(0, 1), *((1, item) for item in range(4)), (2, 0)]
    with pytest.raises(UserError, match="user index 1 has all 4 items in training"):
        Batches(rows(full, 3), items=4, global_batch_size=7, seed=3, metadata={}, rank=0, world_size=1)


@pytest.mark.parametrize("global_batch_size", [1, 2, 5, 7, len(PAIRS), 100])
def test_an_epoch_visits_each_pair_once(global_batch_size: int) -> None:
    batches = made(global_batch_size=global_batch_size)
    epoch = list(batches.epoch(1))
    assert len(epoch) == batches.steps == -(-len(PAIRS) // global_batch_size)
    visited = [
        pair
        for batch in epoch
        for pair in zip(real(batch, "users").tolist(), real(batch, "positives").tolist(), strict=True)
    ]
    assert sorted(visited) == PAIRS
    assert torch.cat([real(batch, "positions") for batch in epoch]).tolist() == list(range(len(PAIRS)))
    assert [batch.global_examples for batch in epoch[:-1]] == [global_batch_size] * (len(epoch) - 1)
    assert sum(batch.global_examples for batch in epoch) == len(PAIRS)


def together(parts: tuple[Batch, ...], name: str) -> list[int]:
    return torch.cat([real(part, name) for part in parts]).tolist()


def test_ranks_together_have_the_batches_of_one_process() -> None:
    visited = 0
    for world_size, global_batch_size in itertools.product((1, 2, 3, 4), (2, 7, 8, 100)):
        one = made(global_batch_size=global_batch_size)
        ranks = [made(rank, world_size, global_batch_size) for rank in range(world_size)]
        assert {rank.steps for rank in ranks} == {one.steps}
        for whole, *parts in zip(one.epoch(2), *(rank.epoch(2) for rank in ranks), strict=True):
            for name in FIELDS:
                assert together(tuple(parts), name) == real(whole, name).tolist(), (world_size, global_batch_size, name)
            for name, rows in MATRICES.items():
                parts_rows = torch.cat([part.metadata[name][part.weights > 0] for part in parts])
                assert torch.equal(parts_rows, torch.from_numpy(rows[real(whole, "positives")]).float())
            assert {part.global_examples for part in parts} == {whole.global_examples}
            visited += 1
    # 18 pairs are 9, 3, 3 and 1 batches, at four world sizes.
    assert visited == 4 * (9 + 3 + 3 + 1)


def test_no_rank_is_ever_empty_and_padding_weighs_nothing() -> None:
    padded = 0
    for world_size, global_batch_size in itertools.product((1, 2, 3, 4), (1, 2, 7, 8, 100)):
        per_rank = -(-global_batch_size // world_size)
        for rank in range(world_size):
            batches = made(rank, world_size, global_batch_size)
            assert batches.per_rank == per_rank >= 1
            for batch in batches.epoch(1):
                assert all(getattr(batch, name).shape == (per_rank,) for name in (*FIELDS, "weights"))
                assert set(batch.weights.tolist()) <= {0.0, 1.0}
                assert batch.weights.dtype == torch.float32
                # Padding is made of indices that tables can look up.
                assert 0 <= int(batch.users.min()) <= int(batch.users.max()) < USERS
                assert 0 <= int(batch.positives.min()) <= int(batch.positives.max()) < ITEMS
                assert 0 <= int(batch.negatives.min()) <= int(batch.negatives.max()) < ITEMS
                padded += int((batch.weights == 0).sum())
    assert padded > 100


def test_every_negative_is_outside_and_every_positive_inside() -> None:
    visited = 0
    for epoch in range(1, 30):
        for batch in made().epoch(epoch):
            for user, positive, negative in zip(batch.users, batch.positives, batch.negatives, strict=True):
                assert int(positive) in SETS[int(user)]
                assert int(negative) not in SETS[int(user)]
                visited += 1
    assert visited == 29 * 3 * 7


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def all_of(batches: Batches, epoch: int) -> dict[str, list[int]]:
        return {name: together(tuple(batches.epoch(epoch)), name) for name in FIELDS}

    first = all_of(made(), 1)
    assert all_of(made(), 1) == first
    for other in (all_of(made(), 2), all_of(made(seed=4), 1)):
        assert other["positions"] == first["positions"]
        assert list(zip(other["users"], other["positives"], strict=True)) != list(
            zip(first["users"], first["positives"], strict=True)
        )
    # The negatives of a pair change too, not its place alone.
    pairs_with_negative = [
        set(zip(drawn["users"], drawn["positives"], drawn["negatives"], strict=True))
        for drawn in (first, all_of(made(), 2))
    ]
    assert pairs_with_negative[0] != pairs_with_negative[1]


def test_any_batch_can_be_made_alone() -> None:
    batches = made()
    for step, batch in enumerate(batches.epoch(5)):
        alone = batches.batch(5, step)
        assert all(torch.equal(getattr(alone, name), getattr(batch, name)) for name in FIELDS)


def test_metadata_rows_are_those_of_the_positives() -> None:
    for batch in made(rank=1, world_size=2).epoch(1):
        for name, matrix in MATRICES.items():
            assert batch.metadata[name].dtype == torch.float32
            assert torch.equal(batch.metadata[name], torch.from_numpy(matrix[batch.positives]).float())


def test_types_and_moving() -> None:
    batch = made().batch(1, 0)
    assert {getattr(batch, name).dtype for name in FIELDS} == {torch.int64}
    moved = batch.to(torch.device("cpu"))
    assert (moved.epoch, moved.global_examples) == (1, 7)
    assert all(torch.equal(getattr(moved, name), getattr(batch, name)) for name in (*FIELDS, "weights"))
    assert moved.metadata.keys() == MATRICES.keys()


def test_mapped_rows_are_only_read(tmp_path: Path) -> None:
    expected = made().batch(1, 0)
    for name, array in vars(rows(PAIRS)).items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = map_rows(tmp_path / "offsets.npy", tmp_path / "indices.npy")
    before = [array.copy() for array in (mapped.offsets, mapped.indices)]
    batches = Batches(mapped, items=ITEMS, global_batch_size=7, seed=3, metadata={}, rank=0, world_size=1)
    found = batches.batch(1, 0)
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in FIELDS)
    # The arrays, not the files: whoever writes into what is mapped writes into a copy of its own.
    for array, kept in zip((mapped.offsets, mapped.indices), before, strict=True):
        np.testing.assert_array_equal(array, kept)
