"""The ranked lists against a plain sort, with many equal scores, in one process.

Embeddings are small whole numbers, so scores are exact and equal ones are equal to the last bit whatever the tiles.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from graphs import build_bipartite
from torch import Tensor

from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.inference import ranking, shortlists
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.ranking import rank_items, rows_of, top_items
from infodcl_dist.inference.scan import inner_product, surely_reached
from infodcl_dist.inference.shortlists import DeviceShortlists, HostShortlists
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


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "LIST_PLACES", 100)  # of 20 items: five users a chunk
    monkeypatch.setattr(ranking, "ITEM_TILE", 7)  # 41 items: the last tile has 6
    monkeypatch.setattr(shortlists, "BLOCK_USERS", 2)
    monkeypatch.setattr(shortlists, "BLOCK_ITEMS", 3)
    monkeypatch.setattr(shortlists, "DEVICE_BLOCK_BYTES", 2 * 16 * 7)  # two users a block
    monkeypatch.setattr(shortlists, "DEVICE_GATHERED_BYTES", 5 * 3 * 8 * WIDTH)


def use(form: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks by one of the two forms, whatever the device."""
    monkeypatch.setattr(ranking, "open_shortlists", lambda vectors, seen, k: form(vectors.float(), seen, k))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        assert torch.get_num_threads() == count, "ranking leaves torch's threads as they were"
        torch.set_num_threads(before)


@pytest.fixture(params=["one tile", "small tiles", "small tiles, three threads", "operations", "operations, small"])
def _tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if "small" in request.param:
        cut_small(monkeypatch)
    if "operations" in request.param:
        use(DeviceShortlists, monkeypatch)
    with threads(3 if "three" in request.param else 1):
        yield


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
            finite = [score for score in row_scores if score > -torch.inf]
            assert len(set(row_items[: len(finite)])) == len(finite)
            assert row_items[len(finite) :] == [-1] * (len(row_items) - len(finite))
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


def test_lists_longer_than_the_catalogue_make_no_smaller_chunks(
    embeddings: Embeddings, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "LIST_PLACES", USERS * ITEMS)
    chunks = top_items(embeddings, torch.arange(USERS).to(group.device), group=group, masks=[], k=100 * ITEMS)
    assert [tuple(items.shape) for _, items, _ in chunks] == [(USERS, ITEMS)]


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
        keys = shortlists.pack(scores, torch.arange(first, first + len(VALUES)))
        assert (keys.diff(dim=1) > 0).all()  # ascending scores, and their ids count for nothing
        assert torch.equal(shortlists.scores_of(keys), scores)
        assert shortlists.items_of(keys).tolist() == [list(range(first, first + len(VALUES)))]


def test_both_zeros_are_one_score() -> None:
    keys = shortlists.pack(torch.tensor([[0.0, -0.0, 0.0, -0.0]]), torch.arange(4))
    assert shortlists.items_of(keys.sort(descending=True).values).tolist() == [[0, 1, 2, 3]]
    assert shortlists.scores_of(keys).signbit().any().item() is False


def real_embeddings(users: int, items: int, width: int) -> Embeddings:
    """Rows whose scores are rounded; every fifth item is a copy of another, up to the last bit of one number."""
    generator = torch.Generator().manual_seed(11)
    rows = torch.randn(users + items, width, generator=generator)
    rows[users + 5 :: 5] = rows[users : users + items - 5 : 5]
    rows[users + 5 :: 10, 0] *= 1 + 2**-22
    return Embeddings(rows[:users], rows[users:], width)


@pytest.mark.parametrize("form", [HostShortlists, DeviceShortlists])
@pytest.mark.parametrize("width", [64, 13])
def test_lists_are_those_of_float64_whatever_the_tiles(
    group: Group, monkeypatch: pytest.MonkeyPatch, form: type, width: int
) -> None:
    """Near-equal items: a plain float32 product would order some by its own rounding (the control)."""
    use(form, monkeypatch)
    made = real_embeddings(60, 500, width)
    products = (made.users.double() @ made.items.double().T).float()
    order = torch.argsort(-products, dim=1, stable=True)[:, :50]
    plain = torch.argsort(-(made.users @ made.items.T), dim=1, stable=True)[:, :50]
    assert (plain != order).any(), "the control: rounding decides somewhere"
    seen = rows_of([], torch.arange(60))
    for tile, users, items in ((16_384, 512, 4096), (64, 7, 11), (37, 1, 500), (500, 60, 1)):
        monkeypatch.setattr(ranking, "ITEM_TILE", tile)
        monkeypatch.setattr(shortlists, "BLOCK_USERS", users)
        monkeypatch.setattr(shortlists, "BLOCK_ITEMS", items)
        monkeypatch.setattr(shortlists, "DEVICE_BLOCK_BYTES", users * 16 * tile)
        found, scores = rank_items(made, made.users, seen=seen, k=50)
        assert torch.equal(found, order)
        assert torch.equal(scores, products.gather(1, order))


@pytest.mark.parametrize("width", [8, 512])
def test_pairs_are_scored_in_blocks_of_as_many_bytes_whatever_the_width(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(shortlists, "DEVICE_GATHERED_BYTES", 100_000)
    made, gathered, double = real_embeddings(60, 500, width), [], Tensor.double

    def watched(x: Tensor) -> Tensor:
        gathered.append(x.numel() * 8)
        return double(x)

    monkeypatch.setattr(Tensor, "double", watched)
    user, place = (torch.arange(60).repeat_interleave(50), torch.arange(50).repeat(60))
    found = shortlists._scores_of_pairs(made.users, made.items, user, place)
    assert found.shape == (3000,)
    assert 30_000 < max(gathered) <= 100_000 / 3


def test_products_turn_no_item_away_wrongly() -> None:
    """The slack holds for products in any order of summation: forwards, backwards, by halves."""
    made = real_embeddings(40, 300, 64)
    exact = made.users.double() @ made.items.double().T
    slack = shortlists.slack_of(made.users, made.items)[:, None]
    terms = made.users[:, None, :] * made.items[None]
    for orders in (terms, terms.flip(2), torch.cat([terms[:, :, ::2], terms[:, :, 1::2]], dim=2)):
        found = torch.zeros(40, 300)
        for part in orders.unbind(2):
            found = found + part
        error = (found.double() - exact).abs()
        assert (error < slack / 4).all()
        assert error.max() > 0
    assert shortlists.slack_of(torch.zeros(1, 64), made.items).item() == 0


def test_a_score_is_the_rounded_inner_product_in_float64() -> None:
    made = real_embeddings(5, 400, 64)
    for width in (1, 7, 8, 9, 64):
        users, items = made.users[:, :width].numpy(), made.items[:, :width].numpy()
        found = [[inner_product(user, item) for item in items] for user in users]
        np.testing.assert_array_equal(found, (users.astype(np.float64) @ items.T.astype(np.float64)).astype(np.float32))


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("chosen", [[0], [40], [3, 4, 5, 21, 22], list(range(0, 41, 2)), list(range(41))])
def test_some_items_only(embeddings: Embeddings, group: Group, chosen: list[int]) -> None:
    mask, dense = masks_of(group, 2, 0.3)
    left_out = dense.copy()
    left_out[:, np.setdiff1d(np.arange(ITEMS), chosen)] = True
    users = torch.arange(USERS)
    items, scores = rank_items(
        embeddings, embeddings.users, seen=rows_of([mask], users), k=8, candidates=torch.tensor(chosen)
    )
    expected = ranked_by_sorting(embeddings, users.tolist(), left_out, 8)
    assert items.shape == (USERS, min(8, len(chosen)))
    lists = [
        [(score, item) for score, item in zip(*both, strict=True) if item >= 0]
        for both in zip(scores.tolist(), items.tolist(), strict=True)
    ]
    assert lists == expected


@pytest.mark.parametrize("form", [HostShortlists, DeviceShortlists])
@pytest.mark.parametrize("order", ["as drawn", "best last", "best first"])
def test_the_best_items_are_seen_and_ids_follow_scores(
    group: Group, monkeypatch: pytest.MonkeyPatch, form: type, order: str
) -> None:
    """A first bar must allow for seen items, which are a user's best; the order of the catalogue is no help."""
    use(form, monkeypatch)
    made = real_embeddings(30, 600, 16)
    if order != "as drawn":
        by_score = torch.argsort(made.users.sum(0) @ made.items.T, descending=order == "best first")
        made = Embeddings(made.users, made.items[by_score].contiguous(), 16)
    scores = (made.users.double() @ made.items.double().T).float()
    ranked = torch.argsort(-scores, dim=1, stable=True)
    seen = Rows(torch.arange(31) * 12, ranked[:, :12].sort(dim=1).values.reshape(-1))
    for tile in (600, 250, 16):
        monkeypatch.setattr(ranking, "ITEM_TILE", tile)
        items, _ = rank_items(made, made.users, seen=seen, k=20)
        assert torch.equal(items, ranked[:, 12:32])


@pytest.mark.parametrize("kind", ["drawn", "ascending", "equal", "few values", "with infinity", "with NaN"])
def test_a_first_bar_is_reached_by_as_many_as_wanted_and_by_hardly_more(kind: str) -> None:
    generator = np.random.default_rng(4)
    for wanted in (1, 7, 60):
        scores = generator.standard_normal(2_000).astype(np.float32)
        if kind == "ascending":
            scores.sort()
        elif kind == "equal":
            scores[:] = 0.5
        elif kind == "few values":
            scores = np.round(scores)
        elif kind == "with infinity":
            scores[::300] = np.inf
        elif kind == "with NaN":
            scores[::2] = np.nan
        bar = surely_reached(scores, wanted)
        reached = int((scores >= bar).sum())
        assert reached >= wanted
        if kind == "drawn":
            assert reached < 1.5 * wanted + 4
        if len(set(scores[np.isfinite(scores)].tolist())) > 1 and kind != "with NaN":
            assert bar > scores.min(), "a bar turns something away"
    assert surely_reached(np.zeros(30, np.float32), 4) == -np.inf, "too few to group"
