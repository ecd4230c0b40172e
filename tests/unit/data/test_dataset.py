"""The dataset folder is refused when anything in it is not as it was made."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.data import writer
from infodcl_dist.data.dataset import Dataset, check_no_leak, open_dataset
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
        write_split(folder / split, {"user": users, "item": items})
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
        read = dataset.interactions(split)
        assert list(zip(read.users.tolist(), read.items.tolist(), strict=True)) == pairs
        assert read.users.dtype == read.items.dtype == np.int32
        assert len(read) == len(pairs)
    assert dataset.user_ids().to_pylist() == ["a", "b", "c"]
    assert dataset.item_ids().to_pylist() == [10, 20, 30]
    feature = dataset.feature("text")
    assert isinstance(feature, np.memmap)
    assert feature.shape == (3, 4)
    check_no_leak(dataset)


def test_parts_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 3)
    dataset = open_dataset(build(tmp_path / "set"))
    assert [file for file in dataset.manifest.files if file.startswith("train/")] == [
        "train/part-0000.parquet",
        "train/part-0001.parquet",
    ]
    assert dataset.interactions("train").users.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("file", ["users.parquet", "train/part-0000.parquet", "features/text.npy"])
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


def test_no_folder_no_manifest(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no dataset folder"):
        open_dataset(tmp_path / "none")
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"set: no dataset folder"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"users": -1}, "key users"),
        ({"colour": 1}, "key colour"),
        ({"files": 3}, "key files"),
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
    ("pairs", "message"),
    [
        ([(0, 3)], "an index is not int32 in 0…2"),
        ([(-1, 0)], "an index is not int32 in 0…2"),
        ([(1, 0), (0, 1)], "not sorted"),
        ([(0, 1), (0, 0)], "not sorted"),
        ([(0, 1), (0, 1)], "not sorted"),
    ],
)
def test_pairs_out_of_range_or_order_are_refused(tmp_path: Path, pairs: list, message: str) -> None:
    dataset = open_dataset(build(tmp_path / "set", {"valid": pairs}))
    with pytest.raises(UserError, match=rf"valid: .*{message}"):
        dataset.interactions("valid")


def test_counts_and_ids_must_be_the_manifests(folder: Path) -> None:
    change_manifest(folder, counts={"train": 9, "valid": 1, "test": 2}, users=4)
    dataset = open_dataset(folder)
    with pytest.raises(UserError, match="4 pairs, the manifest counts others"):
        dataset.interactions("train")
    with pytest.raises(UserError, match="3 ids in place of 4"):
        dataset.user_ids()


def test_unknown_feature_and_split_list_what_there_is(folder: Path) -> None:
    dataset = open_dataset(folder)
    with pytest.raises(UserError, match="no item feature 'image'; there are: text"):
        dataset.feature("image")
    with pytest.raises(UserError, match="no split 'dev'; there are train, valid, test"):
        dataset.interactions("dev")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_leak_is_named_by_the_users_ids(tmp_path: Path, split: str) -> None:
    dataset = open_dataset(build(tmp_path / "set", {split: [(1, 0), (1, 1), (2, 2)]}))
    with pytest.raises(UserError, match=rf"{split}: the pair \(user b, item 20\)"):
        check_no_leak(dataset)


def test_a_pair_of_validation_and_test_is_named(tmp_path: Path) -> None:
    dataset = open_dataset(build(tmp_path / "set", {"valid": [(0, 2), (1, 0)]}))
    with pytest.raises(UserError, match=r"test: the pair \(user b, item 10\) stands in valid too"):
        check_no_leak(dataset)
