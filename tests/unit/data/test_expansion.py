"""A grown data set has the degrees, the splits and the structure of the one it grew from, and no pair twice."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.data import expansion
from infodcl_dist.data.dataset import Dataset, check_pairs, open_dataset
from infodcl_dist.data.expansion import Growth, grow, write_raw
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.data.splits import SPLIT_NAMES

USERS, ITEMS = 30, 25


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("expansion")
    generator = np.random.default_rng(1)
    dense = generator.random((USERS, ITEMS)) < generator.random(ITEMS) ** 2
    dense[:, 0] = True
    lines = [f"u{user},{item}" for user, item in np.argwhere(dense)]
    (folder / "raw.csv").write_text("\n".join(["user,item", *lines]) + "\n")
    prepare(folder / "raw.csv", folder / "set", PrepareOptions())
    return open_dataset(folder / "set")


def all_pairs(dataset: Dataset, split: str) -> set[tuple[str, str]]:
    users, items = dataset.user_ids().to_pylist(), dataset.item_ids().to_pylist()
    return {(users[user], str(items[item])) for user, item in zip(*dataset.items_of_users(split).pairs(), strict=True)}


@pytest.mark.parametrize(("times", "item_times", "mixing"), [(6, 6, 0.3), (5, 2, 0.5), (3, 1, 1.0), (1, 1, 0.2)])
def test_pairs_are_copies_of_pairs(
    original: Dataset, tmp_path: Path, times: int, item_times: int, mixing: float
) -> None:
    grow(original, Growth(times=times, item_times=item_times, mixing=mixing), tmp_path / "grown")
    grown = open_dataset(tmp_path / "grown")
    check_pairs(grown)
    assert (grown.users, grown.items) == (times * original.users, item_times * original.items)
    moved = pairs = 0
    for split in SPLIT_NAMES:
        found, wanted = all_pairs(grown, split), all_pairs(original, split)
        assert len(found) == grown.manifest.counts[split] == times * len(wanted)
        seen: dict[tuple[str, str], set[int]] = {pair: set() for pair in wanted}
        for user, item in found:
            (of_user, copy), (of_item, item_copy) = user.rsplit(".", 1), item.rsplit(".", 1)
            seen[of_user, of_item].add(int(copy))
            moved += int(item_copy) != int(copy) * item_times // times
            pairs += 1
        assert all(copies == set(range(times)) for copies in seen.values()), "each pair once in each copy of its user"
    # A binomial count, within five standard deviations.
    leaving = mixing * (1 - 1 / item_times)
    assert abs(moved - pairs * leaving) <= 5 * (pairs * leaving * (1 - leaving)) ** 0.5
    degrees = grown.items_of_users("train").degrees.reshape(times, original.users)
    assert (degrees == original.items_of_users("train").degrees).all()
    by_origin = grown.users_of_items().degrees.reshape(item_times, original.items).sum(axis=0)
    assert (by_origin == times * original.users_of_items().degrees).all()


def test_the_seed_decides_and_chunks_do_not(original: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def grown(name: str, seed: int) -> list[set[tuple[str, str]]]:
        growth = Growth(times=7, item_times=7, seed=seed)
        grow(original, growth, tmp_path / name)
        write_raw(original, growth, tmp_path / f"{name}.parquet")
        table = pq.read_table(tmp_path / f"{name}.parquet").to_pydict()
        raw = list(zip(table["user_id"], table["item_id"], strict=True))
        made = [all_pairs(open_dataset(tmp_path / name), split) for split in SPLIT_NAMES]
        assert set(raw) == set.union(*made)
        assert len(raw) == len(set(raw))
        assert raw != sorted(raw)
        return made

    first, other = grown("a", 1), grown("b", 2)
    assert first != other
    monkeypatch.setattr(expansion, "CHUNK_PAIRS", 50)
    assert grown("c", 1) == first


def test_a_growth_that_cannot_be_is_refused(original: Dataset, tmp_path: Path) -> None:
    too_many_items, too_many_users = Growth(times=2, item_times=3), Growth(times=10**9, item_times=1)
    for growth, words in ((too_many_items, "--item-times 3"), (too_many_users, "--times 1000000000")):
        with pytest.raises(UserError, match=words):
            grow(original, growth, tmp_path / "grown")
        with pytest.raises(UserError, match=words):
            write_raw(original, growth, tmp_path / "raw.parquet")
    with pytest.raises(UserError, match="cannot be written"):
        write_raw(original, Growth(times=1, item_times=1), tmp_path / ("x" * 300))
    assert list(tmp_path.iterdir()) == []
