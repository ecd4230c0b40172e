"""The ranked lists against a plain sort, with many equal scores, in one process.

Embeddings are small whole numbers, so scores are exact and equal ones are equal to the last bit whatever the tiles.
"""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from infodcl_dist.graph.bipartite import Rows, build_bipartite
from infodcl_dist.inference import ranking
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.ranking import neighbours, top_items
from infodcl_dist.parallel.group import Group, process_group

USERS, ITEMS, WIDTH = 23, 41, 3


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    """A process group of this process alone; the environment is as it was afterwards."""
    before = dict(os.environ)
    try:
        with process_group(timeout_s=60) as made:
            yield made
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def embeddings(group: Group) -> Embeddings:
    generator = torch.Generator().manual_seed(5)
    users, items = (
        torch.randint(-2, 3, (rows, WIDTH), generator=generator).float().to(group.device) for rows in (USERS, ITEMS)
    )
    return Embeddings(users, items, WIDTH)


@pytest.fixture(params=["one tile", "small tiles"])
def _tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small tiles":
        monkeypatch.setattr(ranking, "USER_CHUNK", 5)
        monkeypatch.setattr(ranking, "ITEM_TILE", 7)  # 41 items: the last tile has 6
        monkeypatch.setattr(ranking, "SCORE_BLOCK_BYTES", 2 * 12 * 7)  # two users a block


def masks_of(group: Group, seed: int, density: float) -> tuple[Rows, np.ndarray]:
    dense = np.random.default_rng(seed).random((USERS, ITEMS)) < density
    return build_bipartite(*np.nonzero(dense), USERS, ITEMS).items_of_user.to(group.device), dense


def ranked_by_sorting(embeddings: Embeddings, users: list[int], masked: np.ndarray, k: int) -> list[list[tuple]]:
    """For each user the first K of (score, item), masked items left out: by score, of equal ones by item id."""
    scores = (embeddings.users @ embeddings.items.T).cpu().numpy()
    return [
        sorted(
            ((float(scores[user, item]), item) for item in np.flatnonzero(~masked[user])), key=lambda e: (-e[0], e[1])
        )[:k]
        for user in users
    ]


def ranked(embeddings: Embeddings, users: Tensor, group: Group, masks: list[Rows], k: int) -> list[list[tuple]]:
    """The lists of `top_items`, up to the first score −inf; after it there is nothing else."""
    lists, seen = [], []
    for chunk, items, scores in top_items(embeddings, users.to(group.device), group=group, masks=masks, k=k):
        assert items.shape == scores.shape == (len(chunk), min(k, ITEMS))
        assert items.dtype == torch.int64
        assert scores.dtype == torch.float32
        seen += chunk.tolist()
        for row_items, row_scores in zip(items.tolist(), scores.tolist(), strict=True):
            assert len(set(row_items)) == len(row_items)
            finite = [score for score in row_scores if score > -torch.inf]
            assert row_scores[len(finite) :] == [-torch.inf] * (len(row_scores) - len(finite))
            lists.append(list(zip(finite, row_items, strict=False)))
    assert seen == users.tolist()
    return lists


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("k", [1, 5, 20, ITEMS, 100])
def test_lists_are_a_plain_sort(embeddings: Embeddings, group: Group, k: int) -> None:
    users = torch.arange(USERS)
    expected = ranked_by_sorting(embeddings, users.tolist(), np.zeros((USERS, ITEMS), dtype=bool), k)
    scores = [score for row in expected for score, _ in row]
    if k >= 20:
        assert len(set(scores)) < len(scores) / 10, "equal scores are what this is about"
        assert min(scores) < 0 < max(scores)
    assert ranked(embeddings, users, group, [], k) == expected


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("density", [0.1, 0.5, 0.95])
def test_masked_items_are_left_out(embeddings: Embeddings, group: Group, density: float) -> None:
    (first, first_dense), (second, second_dense) = (masks_of(group, seed, density) for seed in (0, 1))
    users = torch.arange(USERS)
    for masks, dense in (([first], first_dense), ([first, second], first_dense | second_dense)):
        expected = ranked_by_sorting(embeddings, users.tolist(), dense, 20)
        assert ranked(embeddings, users, group, masks, 20) == expected
    # At the highest density users have fewer than 20 items left, at the lowest all have 20.
    assert (min(map(len, expected)) < 20) == (density > 0.1)


@pytest.mark.usefixtures("_tiles")
def test_some_users_only(embeddings: Embeddings, group: Group) -> None:
    """Chunks without any wanted user are empty and do no harm."""
    mask, dense = masks_of(group, 2, 0.3)
    visited = 0
    for wanted in ([0], [22], [3, 4, 17], [0, 5, 10, 15, 20], []):
        users = torch.tensor(wanted, dtype=torch.int64)
        assert ranked(embeddings, users, group, [mask], 8) == ranked_by_sorting(embeddings, wanted, dense, 8)
        visited += 1
    assert visited == 5


@pytest.mark.usefixtures("_tiles")
def test_a_user_with_every_item_masked(embeddings: Embeddings, group: Group) -> None:
    dense = np.zeros((USERS, ITEMS), dtype=bool)
    dense[4] = True
    mask = build_bipartite(*np.nonzero(dense), USERS, ITEMS).items_of_user.to(group.device)
    lists = ranked(embeddings, torch.arange(USERS), group, [mask], 5)
    assert lists[4] == []
    assert {len(row) for user, row in enumerate(lists) if user != 4} == {5}


@pytest.mark.usefixtures("_tiles")
def test_all_scores_equal_are_ranked_by_id(group: Group) -> None:
    for users, items in ((0.0, 1.0), (1.0, -1.0), (-0.0, 1.0)):
        constant = Embeddings(
            torch.full((USERS, WIDTH), users, device=group.device),
            torch.full((ITEMS, WIDTH), items, device=group.device),
            WIDTH,
        )
        lists = ranked(constant, torch.arange(USERS), group, [], 10)
        assert [[item for _, item in row] for row in lists] == [list(range(10))] * USERS


VALUES = [
    *(-torch.inf, torch.finfo(torch.float32).min, -3.5, -1.0000001, -1.0, -1e-38, -1e-45),
    *(0.0, 1e-45, 1e-38, 1.0, 1.0000001, 3.5, torch.finfo(torch.float32).max, torch.inf),
]


def test_keys_order_like_scores_and_give_them_back() -> None:
    scores = torch.tensor([VALUES])
    for first in (0, 7, 2**31):
        keys = ranking._keys(scores, first)
        assert (keys.diff(dim=1) > 0).all()  # ascending scores, and their ids count for nothing
        assert torch.equal(ranking._scores_of(keys), scores)
        assert ranking._items_of(keys).tolist() == [list(range(first, first + len(VALUES)))]


def test_both_zeros_are_one_score() -> None:
    keys = ranking._keys(torch.tensor([[0.0, -0.0, 0.0, -0.0]]), 0)
    assert ranking._items_of(keys.sort(descending=True).values).tolist() == [[0, 1, 2, 3]]
    assert ranking._scores_of(keys).signbit().any().item() is False


def test_neighbours_of_some_rows() -> None:
    dense = np.random.default_rng(1).random((9, 6)) < 0.4
    dense[[0, 4, 8]] = False
    rows = build_bipartite(*np.nonzero(dense), 9, 6).items_of_user
    for wanted in ([3], [0, 1, 4, 7, 8], [8], list(range(9)), []):
        position, item = neighbours(rows, torch.tensor(wanted, dtype=torch.int64))
        expected = [(place, int(item)) for place, row in enumerate(wanted) for item in np.flatnonzero(dense[row])]
        assert list(zip(position.tolist(), item.tolist(), strict=True)) == expected
