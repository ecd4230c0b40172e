"""What holds of every split, checked on random pairs against plain loops."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

import infodcl_dist.data.pairs
import infodcl_dist.data.splits
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.ids import compact, encode
from infodcl_dist.data.pairs import Pairs, first_shared, k_core
from infodcl_dist.data.splits import (
    DROPPED,
    TEST,
    TRAIN,
    VALID,
    parse_ratio,
    split_by_ratio,
    split_by_time,
    split_by_user_time,
    split_leave_one_out,
)


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Users with 1 to some 60 distinct items, sorted by (user, item)."""
    random = np.random.default_rng(3)
    drawn = np.unique(
        np.stack([(random.pareto(1.2, 900) * 2).astype(int) % 50, random.integers(0, 80, 900)], 1), axis=0
    )
    return drawn[:, 0].astype(np.int32), drawn[:, 1].astype(np.int32)


def test_ratio_gives_each_user_the_rounded_share_and_keeps_one_to_train(pairs: tuple) -> None:
    users, _ = pairs
    split = split_by_ratio(users, (8, 1, 1), seed=5)
    seen = 0
    for user in np.unique(users):
        size = int((users == user).sum())
        share = int(size * 0.1 + 0.5)
        of_user = [int((split[users == user] == part).sum()) for part in (TRAIN, VALID, TEST)]
        assert of_user == [size - 2 * share, share, share]
        seen += 1
    assert seen > 30


def test_ratio_of_few_pairs() -> None:
    split = split_by_ratio(np.array([0, 1, 1, 2, 2, 2]), (1, 1, 1), seed=0)
    assert split[0] == TRAIN
    assert sorted(split[1:3]) == [TRAIN, TEST]
    assert sorted(split[3:]) == [TRAIN, VALID, TEST]


def test_ratio_is_a_function_of_the_seed(pairs: tuple) -> None:
    users, _ = pairs
    first, again, other = (split_by_ratio(users, (8, 1, 1), seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_ratio_carves_validation_alone_when_test_has_no_share() -> None:
    split = split_by_ratio(np.zeros(90, np.int32), (8, 1, 0), seed=0)
    assert np.bincount(split).tolist() == [80, 10]


def test_time_cuts_at_two_moments_and_drops_the_unseen() -> None:
    users = np.array([0, 0, 0, 1, 1, 1, 0, 1, 0, 2])
    items = np.array([0, 1, 2, 0, 1, 3, 4, 2, 3, 0])
    split = split_by_time(users, items, np.arange(10), (8, 1, 1))
    assert split.tolist() == [TRAIN] * 8 + [VALID, DROPPED]  # user 2 was never seen
    at_once = split_by_time(users, items, np.array([1] * 5 + [2] * 4 + [3]), (8, 1, 1))
    assert set(at_once[5:9]) <= {VALID, DROPPED}


def test_time_order_holds(pairs: tuple) -> None:
    users, items = pairs
    time = np.random.default_rng(0).integers(0, 1000, len(users))
    split = split_by_time(users, items, time, (8, 1, 1))
    assert time[split == TRAIN].max() < time[split == VALID].min()
    assert time[split == VALID].max() < time[split == TEST].min()
    assert set(users[split > TRAIN]) <= set(users[split == TRAIN])
    assert set(items[split > TRAIN]) <= set(items[split == TRAIN])


def test_a_users_newest_pairs_are_tested(pairs: tuple) -> None:
    users, items = pairs
    time = np.random.default_rng(0).integers(-9, 10, len(users))  # ties, and times before 1970
    by_ratio = split_by_ratio(users, (8, 1, 1), seed=5)
    for kind in (np.int64, np.float64):
        split = split_by_user_time(users, items, time.astype(kind), (8, 1, 1))
        seen = 0
        for user in np.unique(users):
            mine = np.flatnonzero(users == user)
            ordered = mine[np.lexsort((items[mine], time[mine]))]
            assert (np.diff(split[ordered]) >= 0).all(), "train, then validation, then test"
            assert sorted(split[mine]) == sorted(by_ratio[mine]), "as many as a draw takes"
            seen += 1
        assert seen > 30


@pytest.mark.parametrize("split", [split_by_time, split_by_user_time])
def test_time_is_required_for_the_temporal_split(split: Callable[..., np.ndarray]) -> None:
    with pytest.raises(UserError, match="--time-column"):
        split(np.array([0]), np.array([0]), None, (8, 1, 1))


def test_blocks_change_nothing(pairs: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    users, items = pairs
    random = np.random.default_rng(2)
    time, shuffled = random.integers(0, 50, len(users)), random.integers(0, len(users), 3 * len(users))
    twice = Pairs({"user": users[shuffled], "item": items[shuffled], "rating": np.arange(float(len(shuffled)))})

    def results() -> list[np.ndarray]:
        return [
            split_by_ratio(users, (8, 1, 1), seed=1),
            split_by_user_time(users, items, time, (8, 1, 1)),
            split_leave_one_out(users, items, time, seed=1),
            split_leave_one_out(users, items, None, seed=1),
            k_core(users, items, 4),
            *twice.sorted_without_duplicates().columns.values(),
        ]

    whole = results()
    for block_pairs in (1, 7, 100):
        for module in (infodcl_dist.data.pairs, infodcl_dist.data.splits):
            monkeypatch.setattr(module, "BLOCK_PAIRS", block_pairs)
        for found, expected in zip(results(), whole, strict=True):
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("timed", [True, False])
def test_leave_one_out(pairs: tuple, timed: bool) -> None:
    users, items = pairs
    time = np.random.default_rng(1).permutation(len(users)) if timed else None
    split = split_leave_one_out(users, items, time, seed=4)
    seen = 0
    for user in np.unique(users):
        mine = np.flatnonzero(users == user)
        expected = [len(mine) - 2, 1, 1] if len(mine) >= 3 else [len(mine), 0, 0]
        assert [int((split[mine] == part).sum()) for part in (TRAIN, VALID, TEST)] == expected
        if time is not None and len(mine) >= 3:
            newest = mine[np.argsort(time[mine])]
            assert split[newest[-1]] == TEST
            assert split[newest[-2]] == VALID
        seen += 1
    assert seen > 30


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("8:1:1", (8, 1, 1)),
        ("0.8:0.1:0.1", (8, 1, 1)),
        ("7:2:1", (7, 2, 1)),
        ("0.6:0.1:0.30000000000000004", (600_000, 100_000, 300_000)),
        ("0.3333333333333333333333:0.3:0.3", (357_143, 321_429, 321_429)),
    ],
)
def test_ratio_is_read_exactly_or_to_millionths(text: str, shares: tuple) -> None:
    assert parse_ratio(text) == shares


@pytest.mark.parametrize("text", ["8:1", "8:1:1:1", "8:2:0", "a:b:c", "8:-1:1", "1/0:1:1", "nan:1:1", "1e30:1:1", ""])
def test_bad_ratio_is_named(text: str) -> None:
    with pytest.raises(UserError, match="--ratio"):
        parse_ratio(text)


@pytest.mark.parametrize("k", [0, 1, 2, 4, 6, 50])
def test_k_core_equals_a_plain_loop(pairs: tuple, k: int) -> None:
    users, items = pairs
    left = set(zip(users.tolist(), items.tolist(), strict=True))
    while True:
        of_user = [user for user, _ in left]
        of_item = [item for _, item in left]
        stay = {(user, item) for user, item in left if of_user.count(user) >= k and of_item.count(item) >= k}
        if stay == left:
            break
        left = stay
    kept = k_core(users, items, k)
    assert set(zip(users[kept].tolist(), items[kept].tolist(), strict=True)) == left


def test_duplicates_keep_the_earliest_or_the_lowest_rated() -> None:
    pairs = Pairs(
        {"user": np.array([1, 0, 1, 0]), "item": np.array([2, 5, 2, 1]), "rating": np.array([3.0, 1.0, 4.0, 2.0])}
    )
    distinct = pairs.sorted_without_duplicates()
    assert distinct.users.tolist() == [0, 0, 1]
    assert distinct.items.tolist() == [1, 5, 2]
    assert distinct.columns["rating"].tolist() == [2.0, 1.0, 3.0]
    timed = Pairs(pairs.columns | {"time": np.array([20, 5, 10, 5])}).sorted_without_duplicates()
    assert timed.columns["time"].tolist() == [5, 5, 10]
    assert timed.columns["rating"].tolist() == [2.0, 1.0, 4.0]


def test_first_shared() -> None:
    assert first_shared(np.array([1, 4, 9]), np.array([2, 9, 4])) == 1
    assert first_shared(np.array([1, 4, 9]), np.array([10, 0])) is None
    assert first_shared(np.array([], np.int64), np.array([1])) is None


def test_ids_are_numbered_ascending_by_their_kind() -> None:
    ids, (first, second) = encode([pa.array(column).dictionary_encode() for column in ([10, 2, 9], [2, 100])])
    assert ids.to_pylist() == [2, 9, 10, 100]
    assert (first.tolist(), second.tolist()) == ([2, 0, 1], [0, 3])
    assert first.dtype == np.int32
    ids, (first, second) = encode([pa.array(column).dictionary_encode() for column in ([10, 2, 9], ["b", "2"])])
    assert ids.to_pylist() == ["10", "2", "9", "b"]
    assert (first.tolist(), second.tolist()) == ([0, 1, 2], [3, 1])


def test_compact_drops_unused_ids() -> None:
    ids, (codes,) = compact(pa.array(["a", "b", "c", "d"]), [np.array([3, 1, 3])])
    assert ids.to_pylist() == ["b", "d"]
    assert codes.tolist() == [1, 0, 1]
    assert codes.dtype == np.int32
