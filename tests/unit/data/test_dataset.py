"""The dataset folder is refused when anything in it is not as it was made."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.data import dataset as dataset_module
from infodcl_dist.data import writer
from infodcl_dist.data.dataset import Dataset, check_pairs, open_dataset
from infodcl_dist.data.writer import seal, write_ids, write_split

PAIRS = {"train": [(0, 0), (0, 1), (1, 1), (2, 0)], "valid": [(0, 2)], "test": [(1, 0), (2, 2)]}


def build(folder: Path, splits: dict[str, list[tuple[int, int]]] | None = None) -> Path:
    """A dataset of 3 users and 3 items, with whatever pairs."""
    folder.mkdir()
    write_ids(folder / "users.parquet", pa.array(["a", "b", "c"]))
    write_ids(folder / "items.parquet", pa.array([10, 20, 30]))
    (folder / "features").mkdir()
    np.save(folder / "features" / "text.npy", np.ones((3, 4), np.float32))
    splits = PAIRS | (splits or {})
    for split, pairs in splits.items():
        users, items = np.array(pairs, np.int32).reshape(-1, 2).T
        write_split(folder, split, {"user": users, "item": items}, users=3, items=3)
    counts = {split: len(pairs) for split, pairs in splits.items()}
    seal(folder, name="small", users=3, items=3, counts=counts, removed={}, source={}, settings={})
    return folder


def change_manifest(folder: Path, **changes: object) -> None:
    stored = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(stored | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build(tmp_path / "set")


def test_reads_back_what_was_written(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert (dataset.name, dataset.users, dataset.items, len(dataset.checksum)) == ("small", 3, 3, 64)
    for split, pairs in PAIRS.items():
        rows = dataset.items_of_users(split)
        users, items = rows.pairs()
        assert list(zip(users.tolist(), items.tolist(), strict=True)) == pairs
        table = pq.read_table(folder / split / "part-0000.parquet")
        assert list(zip(*table.to_pydict().values(), strict=True)) == pairs
        assert users.dtype == items.dtype == rows.offsets.dtype == np.int32
        assert (len(rows), rows.pair_count) == (3, len(pairs))
        assert isinstance(rows.indices, np.memmap)
    items, users = dataset.users_of_items().pairs()
    assert sorted(zip(users.tolist(), items.tolist(), strict=True)) == PAIRS["train"]
    assert items.tolist() == sorted(items.tolist())
    assert dataset.user_ids().to_pylist() == ["a", "b", "c"]
    assert dataset.item_ids().to_pylist() == [10, 20, 30]
    feature = dataset.feature("text")
    assert isinstance(feature, np.memmap)
    assert feature.shape == (3, 4)
    check_pairs(dataset)


def test_parts_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 3)
    dataset = open_dataset(build(tmp_path / "set"))
    parts = [file for file in dataset.manifest.files if file.startswith("train/")]
    assert parts == ["train/part-0000.parquet", "train/part-0001.parquet"]
    assert pa.concat_tables([pq.read_table(dataset.path / part) for part in parts])["user"].to_pylist() == [0, 0, 1, 2]
    assert dataset.items_of_users("train").pairs()[0].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    "file", ["users.parquet", "train/part-0000.parquet", "rows/train/indices.npy", "features/text.npy"]
)
def test_a_changed_byte_and_a_missing_file_are_named(folder: Path, file: str) -> None:
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=rf"{file}: was changed .* prepare` again"):
        open_dataset(folder)
    assert isinstance(open_dataset(folder, verify=False), Dataset)
    (folder / file).unlink()
    with pytest.raises(UserError, match=rf"{file}: is missing; run `infodcl-dist prepare` again"):
        open_dataset(folder, verify=False)


def test_a_file_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))

    dataset = open_dataset(folder)
    monkeypatch.setattr(dataset_module, "sha256_of_file", refused)
    monkeypatch.setattr(np, "load", refused)
    reads = {
        "features/text.npy": lambda: dataset.feature("text"),
        "rows/valid/offsets.npy": lambda: dataset.items_of_users("valid"),
        "rows/train-by-item/offsets.npy": dataset.users_of_items,
        next(iter(dataset.manifest.files)): lambda: open_dataset(folder),
    }
    for file, read in reads.items():
        with pytest.raises(Unavailable, match=rf"^{folder}/{file}: cannot be read \(Permission denied\)"):
            read()


def test_no_folder_no_manifest(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no dataset folder"):
        open_dataset(tmp_path / "none")
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"set: no dataset folder"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "format version 1"),
        ({"users": -1}, "key users"),
        ({"colour": 1}, "key colour"),
        ({"files": 3}, "key files"),
        ({"counts": {}}, "key counts: Value error, must be of train, valid, test"),
    ],
)
def test_a_manifest_that_does_not_fit_is_named(folder: Path, changes: dict, message: str) -> None:
    change_manifest(folder, **changes)
    with pytest.raises(UserError, match=rf"manifest\.json: {message}.*prepare` again"):
        open_dataset(folder)


def test_a_manifest_that_is_no_json(folder: Path) -> None:
    for content in ("{", "[]", "null"):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=r"manifest\.json"):
            open_dataset(folder)


@pytest.mark.parametrize(
    ("array", "values", "message"),
    [
        ("indices", [0, 1, 1, 3], r"not in 0…2"),
        ("indices", [0, -1, 1, 0], r"not in 0…2"),
        ("indices", [1, 0, 1, 0], "a user's items are not sorted"),
        ("indices", [1, 1, 1, 0], "a user's items are not sorted"),
        ("offsets", [0, 3, 2, 4], "the offsets of users do not ascend"),
        ("offsets", [0, 2, 4, 3], "4 pairs, the manifest counts others"),
    ],
)
def test_rows_out_of_range_or_order_are_refused(folder: Path, array: str, values: list, message: str) -> None:
    np.save(folder / "rows" / "train" / f"{array}.npy", np.array(values, np.int32))
    with pytest.raises(UserError, match=rf"train: .*{message}"):
        check_pairs(open_dataset(folder, verify=False))


@pytest.mark.parametrize("block_pairs", [1, 2, 100])
def test_blocks_of_users_miss_no_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_pairs: int) -> None:
    monkeypatch.setattr(dataset_module, "BLOCK_PAIRS", block_pairs)
    every = [(user, item) for user in range(3) for item in range(3)]
    for number, pair in enumerate(every):
        rest = [other for other in every if other != pair]
        made = build(
            tmp_path / f"set-{number}", {"train": rest[:4], "valid": sorted([*rest[4:6], pair]), "test": [pair]}
        )
        with pytest.raises(UserError, match=rf"user {'abc'[pair[0]]}, item {10 * (pair[1] + 1)}\) stands in valid"):
            check_pairs(open_dataset(made))


def test_counts_and_ids_must_be_the_manifests(folder: Path) -> None:
    change_manifest(folder, counts={"train": 9, "valid": 1, "test": 2}, users=4)
    dataset = open_dataset(folder)
    with pytest.raises(UserError, match="4 pairs, the manifest counts others"):
        dataset.items_of_users("train")
    with pytest.raises(UserError, match="3 ids in place of 4"):
        dataset.user_ids()


def test_unknown_feature_and_split_list_what_there_is(folder: Path) -> None:
    dataset = open_dataset(folder)
    with pytest.raises(UserError, match="no item feature 'image'; there are: text"):
        dataset.feature("image")
    with pytest.raises(UserError, match="no split 'dev'; there are train, valid, test"):
        dataset.items_of_users("dev")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_leak_is_named_by_the_users_ids(tmp_path: Path, split: str) -> None:
    dataset = open_dataset(build(tmp_path / "set", {split: [(1, 0), (1, 1), (2, 2)]}))
    with pytest.raises(UserError, match=rf"{split}: the pair \(user b, item 20\)"):
        check_pairs(dataset)


def test_a_pair_of_validation_and_test_is_named(tmp_path: Path) -> None:
    dataset = open_dataset(build(tmp_path / "set", {"valid": [(0, 2), (1, 0)]}))
    with pytest.raises(UserError, match=r"test: the pair \(user b, item 10\) stands in valid too"):
        check_pairs(dataset)


def test_train_by_item_is_what_train_is(folder: Path) -> None:
    """A graph or a similarity over items could else see a pair that training must not."""
    file = folder / "rows" / "train-by-item" / "indices.npy"
    users = np.load(file)
    assert users.tolist() == [0, 2, 0, 1]
    np.save(file, np.array([0, 1, 0, 1], users.dtype))  # user 1's test pair with item 10 in the place of user 2's
    with pytest.raises(UserError, match="train-by-item: the users of item 10 are not those of train"):
        check_pairs(open_dataset(folder, verify=False))
    np.save(file, users)
    np.save(file.with_name("offsets.npy"), np.array([0, 3, 2, 4], users.dtype))
    with pytest.raises(UserError, match="train-by-item: the users of item 10 are not"):
        check_pairs(open_dataset(folder, verify=False))


def test_more_ids_than_arrow_holds_in_one_array_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Parts:
        def combine_chunks(self) -> None:
            raise pa.ArrowInvalid("offset overflow while concatenating arrays, consider casting input from `string`")

    monkeypatch.setattr(dataset_module, "_read_parquet", lambda *_: {"id": Parts()})
    with pytest.raises(UserError, match=f"^{folder}/users.parquet: more than 2 GiB of distinct ids"):
        open_dataset(folder).user_ids()
