"""Every format is read to the same table; what is broken is named by file and line."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.data import integer_lines, sources
from infodcl_dist.data.columns import Columns
from infodcl_dist.data.feature_table import FeatureTable
from infodcl_dist.data.readers import FORMATS, detect_format, place_of_row, read_interactions
from infodcl_dist.data.sources import read_source
from infodcl_dist.data.triples import read_triples


def zipped(text: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("log.csv", text)
    return packed.getvalue()


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


INTEGER_TABLE = {"user": [0, 0, 7], "item": [3, 12, 3]}
RATED_TABLE = INTEGER_TABLE | {"rating": [5.0, 3.5, 1.0], "time": [100, 200, 300]}
STRINGS = {"user": ["0", "0", "7"], "item": ["3", "12", "3"]}

# name, content, format found, table
GOOD = [
    ("a.txt", "0 3\n0 12\n7 3\n", "pairs", INTEGER_TABLE),
    ("a.txt", "0\t3\n0\t12\n7\t3", "pairs", INTEGER_TABLE),
    ("a.txt", "\n0   3 \n\n 0\t12\n7 3\n\n", "pairs", INTEGER_TABLE),
    ("a.txt", "\ufeff0 3\r\n0 12\r\n7 3\r\n", "pairs", INTEGER_TABLE),
    ("a.txt", "0 3 12\n7 3\n", "adjacency", INTEGER_TABLE),
    ("a.txt", "0 3 12\n5\n7 3\n", "adjacency", INTEGER_TABLE),
    (
        "a.txt",
        "0 3 " + "12 " * 400_000 + "\n7 3\n",
        "adjacency",
        {"user": [0] * 400_001 + [7], "item": [3] + [12] * 400_000 + [3]},
    ),
    ("a.txt", "1 2\n0 3 12", "adjacency", {"user": [1, 0, 0], "item": [2, 3, 12]}),
    ("a.csv", "user,item\n", "csv", {"user": [], "item": []}),
    ("a.csv", "user_id,item_id,rating,timestamp\n0,3,5,100\n0,12,3.5,200\n7,3,1,300\n", "csv", RATED_TABLE),
    ("a.csv", "\ufeffuserId,movieId\r\n0,3\r\n0,12\r\n\r\n7,3\r\n", "csv", INTEGER_TABLE),
    ("a.csv", 'item,title,user\n3,"a, b",0\n12,c,0\n3,d,7\n', "csv", INTEGER_TABLE),
    ("a.txt", "user,item\n0,3\n0,12\n7,3\n", "csv", INTEGER_TABLE),
    ("a.tsv", "user\titem\n0\t3\n0\t12\n7\t3\n", "tsv", INTEGER_TABLE),
    ("a.txt", "user\titem\n0\t3\n0\t12\n7\t3\n", "tsv", INTEGER_TABLE),
    (
        "a.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n0\t3\t5\t100\n0\t12\t3.5\t200\n7\t3\t1\t300\n",
        "inter",
        RATED_TABLE | STRINGS,
    ),
    ("a.csv", "user,item\n007,a\n7,b\n", "csv", {"user": ["007", "7"], "item": ["a", "b"]}),
    ("a.csv", "user,item,time\n1,2,1.5\n1,3,2\n", "csv", {"user": [1, 1], "item": [2, 3], "time": [1.5, 2.0]}),
    ("a.csv", "user,item,date\n1,2,1970-01-02\n", "csv", {"user": [1], "item": [2], "time": [86_400_000_000]}),
    ("a.csv", "user,item,time\n1,2,1970-01-01T00:00:00.0000015\n", "csv", {"user": [1], "item": [2], "time": [1]}),
    (
        "a.csv",
        "user,item,time\n1,2,1970-01-01 02:00:01+02:00\n",
        "csv",
        {"user": [1], "item": [2], "time": [1_000_000]},
    ),
    ("a.csv", "user,item,time\n1,2,1970-01-01T00:00:00.5Z\n", "csv", {"user": [1], "item": [2], "time": [500_000]}),
    ("a.csv", "user,item\n-9,2\n", "csv", {"user": [-9], "item": [2]}),
]


@pytest.mark.parametrize(("name", "content", "format", "table"), GOOD)
def test_reads_every_text_format(tmp_path: Path, name: str, content: str, format: str, table: dict) -> None:
    path = write(tmp_path / name, content)
    assert detect_format(path) == format
    assert read_interactions(path).to_pydict() == table


def test_reads_parquet_of_any_id_type(tmp_path: Path) -> None:
    columns = {
        "user": pa.array(["a", "b"]).dictionary_encode(),
        "item": pa.array([1, 2], pa.uint16()),
        "rating": pa.array([1, 2], pa.float32()),
        "timestamp": pa.array([5, 6], pa.int32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    table = read_interactions(tmp_path / "a.parquet")
    kinds = [getattr(field.type, "value_type", field.type) for field in table.schema]
    assert list(map(str, kinds)) == ["string", "int64", "double", "int64"]
    assert table.to_pydict() == {"user": ["a", "b"], "item": [1, 2], "rating": [1.0, 2.0], "time": [5, 6]}


def test_named_columns_come_before_common_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user,item,who\n1,2,3\n")
    assert read_interactions(path, columns=Columns(user="who")).to_pydict() == {"user": [3], "item": [2]}


def test_a_column_that_is_not_wanted_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user,item,rating,date\n1,2,good,01/02/2020\n")
    with pytest.raises(UserError, match="rating is no number; correct the line, or leave the column out"):
        read_interactions(path)
    with pytest.raises(UserError, match=r"neither a number nor a date; .* \(--time-column ''\)"):
        read_interactions(path, columns=Columns(rating=""))
    assert read_interactions(path, columns=Columns(rating="", time="")).to_pydict() == {"user": [1], "item": [2]}
    table = pa.table({"user": [1], "item": [2], "rating": pa.array([None], pa.float32())})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"is null or NaN; correct the row, .* \(--rating-column ''\)"):
        read_interactions(tmp_path / "a.parquet")
    assert read_interactions(tmp_path / "a.parquet", columns=Columns(rating="")).num_rows == 1


def test_chunks_end_where_lines_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{user} {user * 31 % 1009}" for user in range(2000)]
    path = write(tmp_path / "a.txt", "\n".join(lines))
    whole = read_interactions(path, "pairs")
    monkeypatch.setattr(integer_lines, "CHUNK_BYTES", 37)
    assert read_interactions(path, "pairs").equals(whole)
    assert whole.to_pydict() == {"user": list(range(2000)), "item": [user * 31 % 1009 for user in range(2000)]}
    write(path, "\n".join([*lines, "1 x"]))
    with pytest.raises(UserError, match=r"a\.txt:2001: 'x' is no integer id"):
        read_interactions(path, "pairs")


def test_a_guess_is_held_against_the_whole_file(tmp_path: Path) -> None:
    lines = [f"{user} {user} 1234567" for user in range(5000)]
    path = write(tmp_path / "a.txt", "\n\n".join([*lines, "3 4 1234567"]))
    assert detect_format(path) == "adjacency"
    with pytest.raises(UserError, match=r"a\.txt:10001: user 3 opens a line again.* --format adjacency"):
        read_interactions(path)
    assert read_interactions(path, "adjacency").num_rows == 10002
    write(path, "\n".join(["0 1 2", *(f"{user} 3" for user in range(1, 20_000)), "7 4"]))
    with pytest.raises(UserError, match=r"a\.txt:20001: user 7 opens a line again"):
        read_interactions(path)


def test_place_of_row_skips_blank_lines_and_counts_items(tmp_path: Path) -> None:
    assert place_of_row(write(tmp_path / "a", "\n0 1\n\n0 2\n"), "pairs", 1).endswith("a:4")
    assert place_of_row(write(tmp_path / "a", "0 1 2\n5\n6 7\n"), "adjacency", 2).endswith("a:3")
    assert place_of_row(write(tmp_path / "a", 'u,i\n\n1,"x\ny"\n2,z\n'), "csv", 1).endswith("a:5")


# name, content, what the message says after the folder
BAD = [
    ("a.txt", "", "a.txt: is empty"),
    ("a.txt", " \n\n", "a.txt: is empty"),
    ("a.txt", "\ufeff", "a.txt: is empty"),
    ("a.txt", "0 1\n0 x\n", "a.txt:2: 'x' is no integer id"),
    ("a.txt", "0 1\n0 2.5\n", "a.txt:2: '2.5' is no integer id"),
    ("a.txt", "0\tx\n", "a.txt:1: 'x' is no integer id"),
    ("a.txt", "0 1\n0 1é\n", "a.txt:2: '1é' is no integer id"),
    ("a.txt", "0 1\n0 -2\n", "a.txt:2: negative id -2"),
    ("a.txt", "0 1\n0 2 3\n", "a.txt:2: 3 fields in place of"),
    ("a.txt", "0 1\n0 2\n0\n", "a.txt:3: 1 fields in place of"),
    ("a.txt", "0 1\n0 1234567890123456789\n", "a.txt:2: an id has more than 18 digits"),
    ("a.txt", b"0 1\n0 2\n0 \xff\n", "a.txt:3: is not UTF-8"),
    ("a.txt", "0 1 2\n1 2 3\n2 x\n", "a.txt:3: 'x' is no integer id"),
    (
        "a.csv",
        "who,item\n1,2\n",
        "a.csv: no user column found; name one with --user-column; the columns are: who, item",
    ),
    ("a.csv", "", "a.csv: is empty"),
    ("a.csv", b"user,item,title\n1,2,\xff\n1\n", "a.csv:3: not 3 fields"),
    ("a.csv", "user,item\n1,2\n1\n", "a.csv:3: not 2 fields"),
    ("a.csv", "user,item\n1,2\n\n1,2,3\n", "a.csv:4: not 2 fields"),
    ("a.csv", "user,item\n1,2\n,3\n", "a.csv:3: the user id is missing"),
    ("a.csv", "user,item\n1,2\n3,nan\n", "a.csv:3: the item id is missing"),
    ("a.csv", "user,item,rating\n1,2,3\n1,3,nan\n", "a.csv:3: the rating is missing or NaN"),
    ("a.csv", "user,item,rating\n1,2,3\n1,3,\n", "a.csv:3: the rating is missing or NaN"),
    ("a.csv", "user,item,rating\n1,2,3\n1,3,good\n", "a.csv:3: the rating is no number"),
    ("a.csv", "user,item,time\n1,2,3\n1,3,\n", "a.csv:3: the time is neither"),
    ("a.csv", "user,item,time\n1,2,3\n1,3,soon\n", "a.csv:3: the time is neither"),
    ("a.csv", "user,item,time\n1,2,3\n1,3,2020-01-01\n", "a.csv:3: the time is written otherwise"),
    ("a.csv", "user,item,time\n1,2,2020-01-01\n1,3,2020-01-01T00:00:00Z\n", "a.csv:3: the time is written otherwise"),
    ("a.csv", "user,item,item\n1,2,3\n", "a.csv: column 'item' stands in the header twice"),
    ("a.csv", b"user,item\n1,2\n1,\xff\n", "a.csv:3: is not UTF-8"),
    ("a.csv", b"us\xffer,item\n1,2\n", "a.csv:1: is not UTF-8"),
    ("a.inter", "user_id:token\titem_id:token\n1\t2\n1\n", "a.inter:3: not 2 fields"),
    ("a.parquet", b"PAR1 and no more", "a.parquet: cannot be read as Parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_broken_files_are_named_with_their_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError) as raised:
        read_interactions(path)
    assert str(raised.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(raised.value)


BAD_PARQUET = [
    ({"user": [1.0, 2.0], "item": [1, 2]}, "column 'user' is double, which is no id"),
    ({"user": [1, None], "item": [1, 2]}, "row 1: column 'user' is null"),
    ({"user": [1, 2], "item": ["a", ""]}, "row 1: column 'item' is empty"),
    ({"user": [1, 2], "item": [1, 2], "rating": [1.0, float("nan")]}, "row 1: column 'rating' is null or NaN"),
    ({"user": [1, 2], "item": [1, 2], "rating": [1.0, float("inf")]}, "row 1: column 'rating' is not finite"),
    ({"user": [1, 2], "item": [1, 2], "rating": ["a", "b"]}, "column 'rating' is string, which is no rating"),
    ({"user": [1, 2], "thing": [1, 2]}, "no item column found"),
    ({"user": pa.array([1, 2**64 - 1], pa.uint64()), "item": [1, 2]}, "column 'user' holds ids beyond int64"),
]


@pytest.mark.parametrize(("columns", "message"), BAD_PARQUET)
def test_broken_parquet_is_named_with_its_column(tmp_path: Path, columns: dict, message: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UserError) as raised:
        read_interactions(path)
    assert str(raised.value).startswith(f"{path}: {message}")


def test_truncated_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user": np.arange(1000), "item": np.arange(1000)}), path)
    write(path, path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read as Parquet .* make it again"):
        read_interactions(path)


def test_an_empty_file_is_empty_in_every_format(tmp_path: Path) -> None:
    for format in FORMATS:
        with pytest.raises(UserError, match=r"a: is empty"):
            read_interactions(write(tmp_path / "a", ""), format)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda text: pa.Codec("zstd").compress(text, asbytes=True),
    "zip": zipped,
}


@pytest.mark.parametrize("packer", PACKERS)
def test_a_packed_file_is_to_be_unpacked(tmp_path: Path, packer: str) -> None:
    for name in (f"log.csv.{packer}", "log.csv"):  # it is known by its bytes, whatever its name
        file = tmp_path / name
        file.write_bytes(PACKERS[packer](b"user,item\n1,2\n"))
        for format in (None, "csv", "parquet", "pairs"):
            with pytest.raises(UserError, match=f"^{file}: is compressed; decompress it first"):
                read_interactions(file, format)


def test_missing_file_and_misplaced_column_option(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: cannot be read \(No such file"):
        read_interactions(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        read_interactions(tmp_path / "none.csv", "csv")
    with pytest.raises(UserError, match="--user-column"):
        read_interactions(write(tmp_path / "a.txt", "0 1\n"), columns=Columns(user="who"))
    with pytest.raises(UserError, match=r"no column 'who' \(--user-column\); the columns are: user, item"):
        read_interactions(write(tmp_path / "a.csv", "user,item\n0,1\n"), columns=Columns(user="who"))
    with pytest.raises(UserError, match="column 'user' is named for two roles"):
        read_interactions(write(tmp_path / "a.csv", "user,x\n0,1\n"), columns=Columns(user="user", item="user"))


def no_room(*_: object, **__: object) -> None:
    """What Arrow says of dictionaries that hold more together than its strings do."""
    raise pa.ArrowCapacityError("array cannot contain more than 2147483646 bytes, have 2148015780")


def test_more_text_than_arrow_holds_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.csv", "user,item\nann,b\n")
    write(tmp_path / "facts.tsv", "b\tkind\tpen\n")
    pq.write_table(pa.table({"user": ["ann"], "item": ["b"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": ["b"], "x": [1.0]}), tmp_path / "x.parquet")
    with monkeypatch.context() as patched:
        patched.setattr(sources, "encode", no_room)  # the ids of several files together
        with pytest.raises(UserError, match=f"^{tmp_path / 'a.csv'}: more than 2 GiB of distinct ids"):
            read_source(tmp_path / "a.csv", None, Columns())
    monkeypatch.setattr(pa, "chunked_array", no_room)  # where `IdColumn` brings its parts together
    readers = {"a.csv": read_interactions, "a.parquet": read_interactions}
    for name, reader in (readers | {"facts.tsv": read_triples, "x.parquet": FeatureTable}).items():
        with pytest.raises(UserError, match=f"^{tmp_path / name}: more than 2 GiB of distinct ids"):
            reader(tmp_path / name)
