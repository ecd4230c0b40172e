"""A folder of a table's parts is that table; what is no part of one is refused."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import sha256_of_file
from infodcl_dist.data import ids
from infodcl_dist.data.columns import Columns
from infodcl_dist.data.dataset import Manifest
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.data.sources import read_source

UUID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
ROWS = 600


def log_of(ids_are_text: bool) -> pa.Table:
    draw = np.random.default_rng(3)
    users, items = draw.integers(0, 40, ROWS), draw.integers(0, 30, ROWS)
    return pa.table(
        {
            "user": [f"u{user}" for user in users] if ids_are_text else users,
            "item": items,
            "rating": draw.integers(1, 6, ROWS),
            "time": draw.integers(0, 10**9, ROWS),
        }
    )


def write_spark(folder: Path, table: pa.Table, write: Callable[[pa.Table, Path], None], ending: str) -> None:
    """As Spark does: parts, one of them without rows, a checksum beside each, and a mark that all is there."""
    folder.mkdir()
    for number, (start, stop) in enumerate([(0, 100), (100, 100), (100, 350), (350, ROWS)]):
        name = f"part-0000{number}-{UUID}-c000{ending}"
        write(table.slice(start, stop - start), folder / name)
        (folder / f".{name}.crc").write_bytes(b"crc\0")
    (folder / "_SUCCESS").touch()
    (folder / "_committed.csv").write_text("no data\n")


def write_delimited(table: pa.Table, file: Path) -> None:
    separator = "," if file.suffix == ".csv" else "\t"
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    lines = [separator.join(table.column_names), *(separator.join(map(str, row)) for row in rows)]
    file.write_text("\n".join(lines) + "\n")


def write_lines(table: pa.Table, file: Path) -> None:
    pairs = zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True)
    file.write_text("".join(f"{user} {item}\n" for user, item in pairs) or "\n\n")


WRITERS: list[tuple[str, Callable[[pa.Table, Path], None], bool]] = [
    (".snappy.parquet", pq.write_table, False),
    (".snappy.parquet", pq.write_table, True),
    (".csv", write_delimited, False),
    (".csv", write_delimited, True),
    (".tsv", write_delimited, True),
]


@pytest.mark.parametrize(("ending", "write", "ids_are_text"), WRITERS)
def test_parts_are_the_file_of_all_their_rows(
    tmp_path: Path, ending: str, write: Callable, ids_are_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "WAITING_IDS", 20)  # so that ids of several parts are settled on the way
    table = log_of(ids_are_text)
    write_spark(tmp_path / "parts", table, write, ending)
    write(table, tmp_path / f"whole{ending}")
    options = PrepareOptions(split="temporal", min_rating=2, k_core=3)
    of_parts = prepare(tmp_path / "parts", tmp_path / "a/name", options)
    of_whole = prepare(tmp_path / f"whole{ending}", tmp_path / "b/name", options)
    assert without_source(of_parts) == without_source(of_whole)
    source = of_parts.source["files"]["all"]
    files = sorted((tmp_path / "parts").glob("part-*"))
    assert len(files) == 4
    assert source == {
        "format": ending.rpartition(".")[2],
        "parts": [{"file": file.name, "sha256": sha256_of_file(file)} for file in files],
    }


def without_source(manifest: Manifest) -> dict:
    """All that a manifest says, checksums of what was made among it, but for where it is from."""
    return {key: value for key, value in vars(manifest).items() if key != "source"}


def test_lines_of_integers_are_parts_where_names_differ_in_numbers(tmp_path: Path) -> None:
    table = log_of(ids_are_text=False)
    (tmp_path / "parts").mkdir()
    for number, start in enumerate(range(0, ROWS, 200)):
        write_lines(table.slice(start, 200), tmp_path / f"parts/part-{number}.txt")
    (tmp_path / "parts/part-99.txt").touch()  # Spark has empty ones too
    write_lines(table, tmp_path / "whole.txt")
    one, other = (prepare(tmp_path / name, tmp_path / f"{name} out/x") for name in ("parts", "whole.txt"))
    assert without_source(one) == without_source(other)
    (tmp_path / "parts/part-99.txt").unlink()
    (tmp_path / "parts/part-2.txt").rename(tmp_path / "parts/friends.txt")
    assert "no train file (train.txt, .csv, …) among: friends.txt, part-0.txt" in refused(tmp_path / "parts")


def test_ids_are_strings_where_one_part_has_words(tmp_path: Path) -> None:
    for number, line in enumerate(["7,1,1", "ann,1,2.5", "7,1,3"]):
        (tmp_path / f"{number}.csv").write_text(f"user,item,time\n{line}\n")
    source = read_source(tmp_path, None, Columns())
    assert source.user_ids.to_pylist() == ["7", "ann"]
    assert source.item_ids.to_pylist() == [1]
    pairs = source.files["all"].pairs
    assert pairs.users.tolist() == [0, 1, 0]
    assert pairs.columns["time"].tolist() == [1, 2.5, 3]
    assert [source.files["all"].place(row) for row in range(3)] == [f"{tmp_path}/{part}.csv:2" for part in range(3)]


def refused(folder: Path, format: str | None = None) -> str:
    with pytest.raises(UserError) as raised:
        read_source(folder, format, Columns())
    assert "\n" not in str(raised.value)
    return str(raised.value)


HEADER = "user,item\n"
# files beside a0.csv (HEADER and a pair), what the message begins with (after the folder) and what it holds
UNLIKE = [
    (
        {"a1.csv": "user,item,rating\n1,2,3\n"},
        "a1.csv: has the columns user, item, rating, where a0.csv has user, item",
    ),
    ({"a1.csv": "3,4\n"}, "a1.csv: has the columns 3, 4"),
    ({"a0.csv": "", "a1.csv": ""}, "a0.csv: is empty"),
    ({"b0.csv": HEADER + "1,2\n"}, ": no train file (train.txt, .csv, …) among: a0.csv, b0.csv; or give one file"),
    ({"a0.csv.gz": "\x1f\x8b", "trainset.csv": HEADER, "testset.csv": HEADER}, ": no train file"),
    ({"a1.csv": HEADER + "1\n"}, "a1.csv:2: not 2 fields"),
    ({"a1.tsv": "user\titem\n1\t2\n"}, ": no train file (train.txt, .csv, …) among: a0.csv, a1.tsv; or give one file"),
    ({"my_test.csv": HEADER + "1,2\n"}, ": no train file"),
    ({"test.csv": HEADER + "1,2\n"}, ": no train file"),
    ({"a1.csv.gz": "\x1f\x8b"}, "a1.csv.gz: is compressed"),
    (
        {"a0.csv": "user,item,time\n1,2,3\n", "a1.csv": "user,item,time\n1,2,2024-01-05\n"},
        "a1.csv: the times are written",
    ),
    ({"a0.csv": HEADER, "a1.csv": HEADER}, ": no part holds a pair"),
]


@pytest.mark.parametrize(("files", "message"), UNLIKE)
def test_what_is_no_part_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in ({"a0.csv": HEADER + "1,2\n"} | files).items():
        (tmp_path / name).write_text(text)
    assert refused(tmp_path).startswith(f"{tmp_path}{'' if message[0] == ':' else '/'}{message}")


def test_parquet_parts_of_other_types_are_named(tmp_path: Path) -> None:
    table = log_of(ids_are_text=False)
    pq.write_table(table, tmp_path / "a0.parquet")
    as_text = table.set_column(0, "user", pc.cast(table["user"], pa.string()))
    pq.write_table(as_text, tmp_path / "a1.parquet")
    assert refused(tmp_path) == (
        f"{tmp_path}/a1.parquet: column 'user' is string, where a0.parquet has int64; write all parts alike"
    )
    pq.write_table(table.drop_columns("time"), tmp_path / "a1.parquet")
    assert refused(tmp_path).startswith(f"{tmp_path}/a1.parquet: has the columns user, item, rating, where a0.parquet")
    for name, width in (("a0", pa.int8()), ("a1", pa.int16())):  # as pandas writes categories, by their number
        coded = as_text["user"].cast(pa.dictionary(width, pa.string()))
        pq.write_table(table.set_column(0, "user", coded), tmp_path / f"{name}.parquet")
    assert len(read_source(tmp_path, None, Columns()).files["all"].pairs) == 2 * ROWS


def test_lists_of_items_in_parts_want_their_format_named(tmp_path: Path) -> None:
    (tmp_path / "part-0.txt").write_text("0 1 2 3\n1 2\n")
    (tmp_path / "part-1.txt").write_text("2 1\n")
    assert refused(tmp_path).startswith(f"{tmp_path}/part-0.txt: seems to hold lists of items")
    assert len(read_source(tmp_path, "adjacency", Columns()).files["all"].pairs) == 5


def test_a_folder_of_one_compressed_file_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(b"user,item\n1,2\n"))
    assert refused(tmp_path).startswith(f"{tmp_path}/log.csv.gz: is compressed; unpack it")
