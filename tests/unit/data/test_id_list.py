"""Lists of ids: found in the catalogue, or refused by file and line."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.data.id_list import read_id_list, read_known_ids
from infodcl_dist.data.prepare import PrepareOptions, prepare

STRINGS, INTEGERS = pa.array(["ann", "bob", "cäsar"]), pa.array([-3, 7, 12])


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_text_in_any_order_with_repeats_and_empty_lines(tmp_path: Path, ending: str) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes(ending.join(["\ufeffcäsar", "", " ann ", "cäsar", ""]).encode())
    assert read_id_list(file, STRINGS).tolist() == [0, 2]


def test_white_space_of_an_id_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text(" 2\n 7 \n")
    assert read_id_list(file, pa.array([" 2", "2", "7"])).tolist() == [0, 2]
    assert read_known_ids(file, pa.array([" 2", "2"]), "item") == (pytest.approx([0]), 1)


def test_lines_end_where_those_of_interactions_do(tmp_path: Path) -> None:
    ids = ["a\u2028b", "c\x85d", "e\x0bf", "g\x1ch"]
    (tmp_path / "pairs.csv").write_text(
        "user,item\n" + "".join(f"{user},{item}\n" for user in ids for item in "pqrstu")
    )
    prepare(tmp_path / "pairs.csv", tmp_path / "set", PrepareOptions())
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    assert read_id_list(tmp_path / "ids.txt", open_dataset(tmp_path / "set").user_ids()).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("column", ["user", "id"])
def test_parquet_of_integers_and_of_text(tmp_path: Path, column: str) -> None:
    for extension, values in (("parquet", [12, -3]), ("PQ", ["12", "-3"])):
        file = tmp_path / f"ids.{extension}"
        pq.write_table(pa.table({"other": [1, 2], column: values}), file)
        assert read_id_list(file, INTEGERS).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"7\n\n8\n", "line 3: 8 is not in the data set"),
        (b"seven\n", "line 1: seven is not in the data set"),
        (b"\n \n", "holds no id"),
        (b"", "holds no id"),
        (b"\xff\n", "cannot be read as lines of UTF-8"),
    ],
)
def test_bad_text_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"ids.txt: {message}"):
        read_id_list(file, INTEGERS)


def test_bad_parquet_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ids.parquet"
    for write, message in (
        (lambda: file.write_bytes(b"PAR1"), "cannot be read as Parquet"),
        (lambda: pq.write_table(pa.table({"name": [7]}), file), "has no column user or id"),
        (lambda: pq.write_table(pa.table({"user": [7, None, 8]}), file), "row 2: 8 is not in the data set"),
        (lambda: pq.write_table(pa.table({"user": [[7]]}), file), "cannot be read as Parquet"),
        (file.unlink, "cannot be read as Parquet"),
    ):
        write()
        with pytest.raises(UserError, match=f"ids.parquet: {message}"):
            read_id_list(file, INTEGERS)


def test_unknown_ids_of_a_shops_list_are_counted(tmp_path: Path) -> None:
    text, table = tmp_path / "stock.txt", tmp_path / "stock.parquet"
    text.write_text("12\n\n99\n-3\n12\nx\n")
    pq.write_table(pa.table({"item": ["12", "99", "-3", None, "x"]}), table)
    for file in (text, table):
        found, unknown = read_known_ids(file, INTEGERS, "item")
        assert (found.tolist(), unknown) == ([0, 2], 2)
    text.write_text("")
    assert read_known_ids(text, INTEGERS, "item")[0].tolist() == []
    pq.write_table(pa.table({"user": [12]}), table)
    with pytest.raises(UserError, match="has no column item or id"):
        read_known_ids(table, INTEGERS, "item")
