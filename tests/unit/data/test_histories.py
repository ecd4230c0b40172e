"""Histories of new users: what the data set knows of them, and what it does not."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.histories import read_histories

TEXTS, INTEGERS = pa.array(["a", "b", "c", "d"]), pa.array([10, 20, 30])


def test_known_items_of_known_and_skipped_users(tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_text("user,item\nzoe,d\nann,b\nzoe,a\nzoe,d\nbob,x\nann,x\nbob,y\n")
    found = read_histories(file, TEXTS)
    assert found.user_ids.to_pylist() == ["ann", "zoe"]
    assert found.items.offsets.tolist() == [0, 1, 3]
    assert found.items.indices.tolist() == [1, 0, 3]
    assert found.skipped.to_pylist() == ["bob"]
    assert (found.unknown_pairs, found.unknown_items) == (3, 2)


def test_every_format_and_ids_compared_as_text(tmp_path: Path) -> None:
    visited = 0
    for name, content in (
        ("new.csv", "user,item\n7,30\n8,10\n8,11\n"),
        ("new.tsv", "user\titem\n7\t30\n8\t10\n8\t11\n"),
        ("new.inter", "user_id:token\titem_id:token\n7\t30\n8\t10\n8\t11\n"),
        ("pairs.txt", "7 30\n8 10\n8 11\n"),
        ("adjacency.txt", "7 30\n8 10 11\n"),
    ):
        (tmp_path / name).write_text(content)
        visited += 1
    pq.write_table(pa.table({"user": [7, 8, 8], "item": ["30", "10", "11"]}), tmp_path / "new.parquet")
    files = sorted(tmp_path.iterdir())
    assert len(files) == visited + 1 == 6
    for file in files:
        found = read_histories(file, INTEGERS)
        assert [str(user) for user in found.user_ids.to_pylist()] == ["7", "8"]
        assert found.items.indices.tolist() == [2, 0]
        assert (found.unknown_pairs, found.unknown_items, len(found.skipped)) == (1, 1, 0)


def test_ratings_and_times_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("user,item,rating,timestamp\nann,b,?,yesterday\nbob,a,,\n")
    (tmp_path / "new.inter").write_text("user_id:token\titem_id:token\trating:float\nann\tb\tgood\nbob\ta\t\n")
    table = pa.table({"user": ["ann", "bob"], "item": ["b", "a"], "rating": ["?", None], "time": [None, 1]})
    pq.write_table(table, tmp_path / "new.parquet")
    visited = 0
    for file in tmp_path.iterdir():
        found = read_histories(file, TEXTS)
        assert found.user_ids.to_pylist() == ["ann", "bob"]
        assert found.items.indices.tolist() == [1, 0]
        visited += 1
    assert visited == 3


def test_nothing_known_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_text("user,item\nann,x\nbob,y\n")
    with pytest.raises(UserError, match=r"new\.csv: none of its 2 items is in the data set"):
        read_histories(file, TEXTS)


def test_columns_that_no_option_names_are_to_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("who,item\nann,b\n")
    pq.write_table(pa.table({"user": ["ann"], "what": ["b"]}), tmp_path / "new.parquet")
    for name, role, there in (("new.csv", "user", "who, item"), ("new.parquet", "item", "user, what")):
        with pytest.raises(UserError) as raised:
            read_histories(tmp_path / name, TEXTS)
        assert str(raised.value) == (
            f"{tmp_path / name}: no {role} column found; rename it to {role}; the columns are: {there}"
        )
