"""From files to the dataset folder: what comes out, and that nothing comes out of a bad source."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from infodcl_dist.base.errors import UserError
from infodcl_dist.cli.prepare import FORMATS
from infodcl_dist.cli.prepare import prepare as command
from infodcl_dist.data.columns import Columns
from infodcl_dist.data.dataset import Dataset, check_pairs, open_dataset
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.data.readers import FORMATS as READERS_FORMATS

GIVEN = {
    "train.txt": "0 0\n0 1\n0 2\n1 1\n1 3\n2 0\n2 4\n",
    "valid.txt": "0 3\n1 0\n",
    "test.txt": "0 4\n1 2\n2 1\n",
}
RATED = "user,item,rating,time\n" + "".join(
    f"u{user},{item},{1 + (user + item) % 5},{(item * 37 + user * 11) % 97}\n"
    for user in range(12)
    for item in range(10)
)


def make(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def made(source: Path, out: Path, **options: object) -> Dataset:
    prepare(source, out, PrepareOptions(**options))  # type: ignore[arg-type]
    dataset = open_dataset(out)
    check_pairs(dataset)
    return dataset


def listed(dataset: Dataset, split: str) -> list[tuple]:
    """The pairs of a split in the user's own ids."""
    users, items = dataset.user_ids().to_pylist(), dataset.item_ids().to_pylist()
    return [(users[user], items[item]) for user, item in zip(*dataset.items_of_users(split).pairs(), strict=True)]


def test_given_splits_stay(tmp_path: Path) -> None:
    dataset = made(make(tmp_path / "in", GIVEN), tmp_path / "out")
    assert (dataset.name, dataset.users, dataset.items) == ("out", 3, 5)
    assert dataset.manifest.counts == {"train": 7, "valid": 2, "test": 3}
    assert dataset.manifest.settings["split"] == "given"
    assert listed(dataset, "test") == [(0, 4), (1, 2), (2, 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("name", ["val.txt", "validation.txt", "small.valid.txt"])
def test_validation_has_several_names(tmp_path: Path, name: str) -> None:
    files = {"train.txt": GIVEN["train.txt"], name: GIVEN["valid.txt"], "test.txt": GIVEN["test.txt"]}
    assert made(make(tmp_path / "in", files), tmp_path / "out").manifest.counts["valid"] == 2


def test_validation_is_drawn_from_train_when_there_is_none(tmp_path: Path) -> None:
    train = "".join(f"{user} {' '.join(map(str, range(2, 11)))}\n" for user in range(10))
    test = "".join(f"{user} 0 1\n" for user in range(10))
    dataset = made(make(tmp_path / "in", {"train.txt": train, "test.txt": test}), tmp_path / "out")
    assert dataset.manifest.counts == {"train": 80, "valid": 10, "test": 20}
    assert dataset.items_of_users("valid").degrees.tolist() == [1] * 10


def test_train_tells_pairs_from_adjacency(tmp_path: Path) -> None:
    by_line = {"train.txt": "0 0 1 2\n1 1 3\n2 0 4\n", "valid.txt": "0 3\n1 0\n", "test.txt": "0 4\n1 2\n2 1\n"}
    dataset = made(make(tmp_path / "in", by_line), tmp_path / "out")
    assert {file["format"] for file in dataset.manifest.source["files"].values()} == {"adjacency"}
    ragged = make(tmp_path / "ragged", GIVEN | {"test.txt": "0 4\n1 2 3\n"})
    assert "test.txt:2: 3 fields" in refused(ragged, tmp_path / "none")


@pytest.mark.parametrize("split", ["ratio", "temporal", "leave-one-out"])
def test_one_table_is_split(tmp_path: Path, split: str) -> None:
    source = make(tmp_path, {"all.csv": RATED}) / "all.csv"
    dataset = made(source, tmp_path / "out", split=split)
    assert sum(dataset.manifest.counts.values()) + sum(dataset.manifest.removed.values()) == 120
    assert dataset.user_ids().to_pylist() == sorted(f"u{user}" for user in range(12))
    assert {field.name for field in pq.read_schema(tmp_path / "out/train/part-0000.parquet")} == {
        "user",
        "item",
        "rating",
        "time",
    }


def test_leave_one_out_draws_only_where_no_time_can_be_meant(tmp_path: Path) -> None:
    source = make(tmp_path, {"all.csv": RATED.replace("time", "created_at")}) / "all.csv"
    said = refused(source, tmp_path / "out", split="leave-one-out")
    assert f"{source}: no time column found" in said
    assert "--time-column NAME" in said
    assert "--time-column ''" in said
    by_time = made(source, tmp_path / "timed", split="leave-one-out", columns=Columns(time="created_at"))
    drawn = made(source, tmp_path / "drawn", split="leave-one-out", columns=Columns(time=""))
    assert by_time.manifest.counts == drawn.manifest.counts == {"train": 96, "valid": 12, "test": 12}
    assert listed(by_time, "test") != listed(drawn, "test")
    pairs = "".join(f"{user} {item}\n" for user in range(12) for item in range(10))
    again = made(make(tmp_path, {"all.txt": pairs}) / "all.txt", tmp_path / "pairs", split="leave-one-out")
    assert again.manifest.counts == drawn.manifest.counts


def test_a_folder_of_one_file_is_that_file(tmp_path: Path) -> None:
    source = make(tmp_path / "in", {"all.csv": RATED, "notes.md": "x"})
    assert made(source, tmp_path / "out").manifest.settings["split"] == "ratio"


def test_filters_are_counted(tmp_path: Path) -> None:
    source = make(tmp_path, {"all.csv": RATED + "u0,0,5,7\nu0,0,1,7\nlonely,0,5,1\n"}) / "all.csv"
    dataset = made(source, tmp_path / "out", min_rating=2, k_core=3)
    assert dataset.manifest.removed == {"low rating": 25, "k-core": 1}
    assert "lonely" not in dataset.user_ids().to_pylist()
    again = made(source, tmp_path / "again")
    assert again.manifest.removed == {"duplicates": 2}


def test_same_input_same_bytes_whatever_its_order(tmp_path: Path) -> None:
    twice = "u3,4,5,1\nu3,4,2,1\nu7,2,3,99\n"  # at other times, and rated otherwise at one time
    header, *rows = (RATED + twice).splitlines()
    source = make(tmp_path, {"all.csv": RATED + twice, "turned.csv": "\n".join([header, *reversed(rows)])})
    first = made(source / "all.csv", tmp_path / "a/set")
    again = made(source / "all.csv", tmp_path / "b/set")
    turned = made(source / "turned.csv", tmp_path / "c/set")
    other = made(source / "all.csv", tmp_path / "d/set", seed=1)
    assert (first.path / "manifest.json").read_bytes() == (again.path / "manifest.json").read_bytes()
    assert first.checksum == again.checksum == turned.checksum != other.checksum


def test_strings_in_one_file_make_strings_of_all(tmp_path: Path) -> None:
    files = {
        "train.csv": "user,item\n1,10\n2,9\n3,x\n",
        "valid.csv": "user,item\n1,9\n",
        "test.csv": "user,item\n2,10\n",
    }
    dataset = made(make(tmp_path / "in", files), tmp_path / "out")
    assert dataset.item_ids().to_pylist() == ["10", "9", "x"]
    assert listed(dataset, "valid") == [(1, "9")]


def test_features_follow_the_catalogue(tmp_path: Path) -> None:
    source = make(tmp_path / "in", GIVEN | {"train.txt": "0 0\n0 1\n0 2\n1 1\n1 3\n2 0\n2 6\n"})
    matrix = np.arange(14, dtype=np.float16).reshape(7, 2)
    np.save(tmp_path / "m.npy", matrix)
    dataset = made(source, tmp_path / "out", item_features={"image": tmp_path / "m.npy"})
    assert dataset.item_ids().to_pylist() == [0, 1, 2, 3, 4, 6]
    assert dataset.feature("image").dtype == np.float16
    np.testing.assert_array_equal(dataset.feature("image"), matrix[[0, 1, 2, 3, 4, 6]])


UNKNOWN = GIVEN | {"test.txt": "0 4\n1 2\n2 999999\n77 1\n"}


def test_unknown_ids_by_policy(tmp_path: Path) -> None:
    source = make(tmp_path / "in", UNKNOWN)
    kept = made(source, tmp_path / "kept", unknown_ids="keep")
    assert (kept.users, kept.items, kept.manifest.counts["test"]) == (4, 6, 4)
    dropped = made(source, tmp_path / "dropped", unknown_ids="drop")
    assert (dropped.users, dropped.items, dropped.manifest.removed) == (3, 5, {"unknown ids": 2})
    np.save(tmp_path / "m.npy", np.ones((5, 2)))
    fits = made(source, tmp_path / "fits", unknown_ids="drop", item_features={"x": tmp_path / "m.npy"})
    assert fits.feature("x").shape == (5, 2)


def test_an_item_with_a_feature_row_is_known(tmp_path: Path) -> None:
    source = make(tmp_path / "in", GIVEN | {"test.txt": "0 4\n1 2\n2 5\n"})
    np.save(tmp_path / "m.npy", np.ones((6, 2)))
    assert made(source, tmp_path / "out", item_features={"x": tmp_path / "m.npy"}).items == 6


def test_an_item_whose_feature_row_is_none_is_not_known(tmp_path: Path) -> None:
    """A .npy matrix cannot leave a row out, but by NaN; a Parquet file can hold a null."""
    source = make(tmp_path / "in", GIVEN | {"test.txt": "0 4\n1 2\n2 5\n"})
    matrix = np.ones((6, 2))
    matrix[5] = np.nan
    np.save(tmp_path / "m.npy", matrix)
    pq.write_table(pa.table({"id": [0, 5], "x": [[1.0, 2.0], None]}), tmp_path / "m.parquet")
    features = {"x": tmp_path / "m.npy", "y": tmp_path / "m.parquet"}
    assert "test.txt:3: item 5 never occurs in train" in refused(source, tmp_path / "out", item_features=features)
    pq.write_table(pa.table({"id": [5, 0], "x": [[1.0, 2.0], None]}), tmp_path / "m.parquet")
    assert made(source, tmp_path / "out", item_features=features).items == 6


def test_what_low_ratings_leave_must_be_known_too(tmp_path: Path) -> None:
    header = "user,item,rating\n"
    files = {
        "train.csv": header + "ann,b,5\nann,c,4\nbob,b,5\nbob,x,1\n",
        "valid.csv": header + "ann,d,1\nbob,c,5\n",
        "test.csv": header + "ann,y,1\nbob,d,1\nbob,x,4\nann,x,4\n",
    }
    source = make(tmp_path / "in", files)
    said = refused(source, tmp_path / "out", min_rating=3)
    assert said.startswith(f"{source}/test.csv:4: item x never occurs in train;")
    kept = made(source, tmp_path / "kept", min_rating=3, unknown_ids="keep")
    assert kept.manifest.removed == {"low rating": 4}
    assert "no pair is left for train" in refused(source, tmp_path / "out", min_rating=6)
    make(source, {"test.csv": header + "ann,y,1\nbob,x,4\nann,b,1\nbob,c,4\n"})
    said = refused(source, tmp_path / "out", min_rating=3, unknown_ids="drop")
    assert said.startswith(f"{source}/test.csv:5: the pair (user bob, item c)")


def test_no_train_pair_rated_so_well_is_no_fault_of_ours(tmp_path: Path) -> None:
    files = {f"{split}.csv": f"user,item,rating\n1,2,{rating}\n" for split, rating in (("train", 1), ("test", 5))}
    source = make(tmp_path / "in", files)
    assert "item 2 never occurs in train" in refused(source, tmp_path / "out", min_rating=3)


def refused(source: Path, out: Path, **options: object) -> str:
    """The one-line message of a refusal that left nothing behind."""
    before = sorted(path.name for path in out.parent.iterdir())
    with pytest.raises(UserError) as raised:
        prepare(source, out, PrepareOptions(**options))  # type: ignore[arg-type]
    assert sorted(path.name for path in out.parent.iterdir()) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


# files that differ from GIVEN, options, what the message begins with (after the folder) or holds
BAD_FOLDERS = [
    ({"test.txt": None}, {}, "in: no test file"),
    ({"train.txt": None}, {}, "in: no train file"),
    ({"valid.txt": None, "valid.txt.gz": "\x1f"}, {}, "in/valid.txt.gz: is compressed"),
    ({"valid.txt": None, "dev.json": "[]"}, {}, "in/dev.json: is of no kind that can be read"),
    ({"dev.csv": "user,item\n1,2\n"}, {}, "in/valid.txt: dev.csv is the valid split already"),
    ({"train.csv": "user,item\n1,2\n"}, {}, "in/train.txt: train.csv is the train split already"),
    ({"valid.txt": ""}, {}, "in/valid.txt: is empty"),
    ({"valid.txt": "5\n6\n"}, {"format": "adjacency"}, "in/valid.txt: holds no pair"),
    ({"train.txt": "0 0\n0 x\n"}, {}, "in/train.txt:2: 'x' is no integer id"),
    ({"test.txt": b"0 1\n\xff 1\n"}, {}, "in/test.txt:2: is not UTF-8"),
    ({"test.txt": "0 4\n2 0\n"}, {}, "in/test.txt:2: the pair (user 2, item 0) stands in"),
    ({"valid.txt": "0 3\n1 999999\n"}, {}, "in/valid.txt:2: item 999999 never occurs in train"),
    ({"test.txt": "0 3\n1 2\n77 1\n"}, {}, "in/test.txt:3: user 77 never occurs in train"),
    ({"test.txt": "0 4\n1 0\n"}, {}, "in/test.txt:2: the pair (user 1, item 0) stands in"),
    ({"test.txt": "0 9\n0 4\n0 1\n"}, {"unknown_ids": "drop"}, "in/test.txt:3: the pair (user 0, item 1) stands in"),
    (
        {"test.txt": "77 1\n"},
        {"unknown_ids": "drop"},
        "in: no pair is left for test; give --unknown-ids keep, or a test file",
    ),
    ({"valid.txt": None}, {}, "in: no pair is left for valid; give a file of it, a --ratio with more for valid"),
]


@pytest.mark.parametrize(("changes", "options", "message"), BAD_FOLDERS)
def test_bad_folders_leave_nothing(tmp_path: Path, changes: dict, options: dict, message: str) -> None:
    files = {name: content for name, content in (GIVEN | changes).items() if content is not None}
    said = refused(make(tmp_path / "in", files), tmp_path / "out", **options)
    assert said.startswith(f"{tmp_path}/{message}")


BAD_OPTIONS = [
    ({"min_rating": 9.0}, "no pair is left for train; lower --min-rating"),
    ({"k_core": 50}, "no pair is left for train; lower --min-rating or --k-core"),
    ({"ratio": (98, 1, 1)}, "no pair is left for valid; take another --split, a --ratio"),
    (
        {"columns": Columns(user="who")},
        "all.csv: no column 'who' (--user-column); the columns are: user, item, rating, time",
    ),
    ({"format": "pairs"}, "all.csv:1: 'user,item,rating,time' is no integer id"),
    ({"time_cut": "user"}, "--time-cut user: is for --split temporal alone"),
    ({"ratio": (8, 1, 1), "split": "leave-one-out"}, "--ratio 8:1:1: --split leave-one-out takes no shares"),
    ({"unknown_ids": "drop"}, "all.csv brings no splits; leave it out"),
    ({"item_features": {"social": Path("m.npy")}}, "--item-features social=…: social is a computed channel"),
    ({"item_features": {"my-x": Path("m.npy")}}, "--item-features my-x=…: the name must be"),
    ({"item_features": {"2d": Path("m.npy")}}, "a digit not first"),
    ({"item_features": {"x": Path("none.npy")}}, "none.npy: no such file"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options_leave_nothing(tmp_path: Path, options: dict, message: str) -> None:
    assert message in refused(make(tmp_path, {"all.csv": RATED}) / "all.csv", tmp_path / "out", **options)


def test_options_that_given_splits_refuse(tmp_path: Path) -> None:
    source = make(tmp_path / "in", GIVEN)
    assert refused(source, tmp_path / "out", k_core=2).startswith("--k-core 2:")
    assert refused(source, tmp_path / "out", split="ratio").startswith("--split ratio:")
    assert refused(source, tmp_path / "out", time_cut="user").startswith("--time-cut user:")
    assert refused(source, tmp_path / "out", ratio=(8, 1, 1)).startswith("--ratio 8:1:1:")
    assert refused(source, tmp_path / "out", min_rating=2.0).startswith("--min-rating 2.0:")
    (tmp_path / "there").mkdir()
    assert "exists already" in refused(source, tmp_path / "there")
    for name in ("none", "x" * 300):
        assert "no such file or folder" in refused(tmp_path / name, tmp_path / "out")
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe", tmp_path / "out").startswith(f"{tmp_path}/pipe: cannot be read")


def test_a_leak_is_named_by_both_places_and_own_ids(tmp_path: Path) -> None:
    header = "user,item\n"
    files = {
        "train.csv": header + "ann,b\nbob,a\nbob,b\n",
        "valid.csv": header + "ann,a\nann,c\nbob,c\n",
        "test.csv": header + "bob,d\nann,a\n",
    }
    source = make(tmp_path / "in", files)
    said = refused(source, tmp_path / "out", unknown_ids="keep")
    assert said == (
        f"{source}/test.csv:3: the pair (user ann, item a) stands in {source}/valid.csv:2 too; "
        "take it out of one of them"
    )
    make(source, {"test.csv": header + "bob,d\nann,d\n"})
    assert made(source, tmp_path / "out", unknown_ids="keep").items == 4


def test_leak_in_drawn_folder_is_still_found(tmp_path: Path) -> None:
    files = {"train.txt": "0 1\n0 2\n", "test.txt": "0 2\n"}
    assert "in/test.txt:1: the pair (user 0, item 2)" in refused(make(tmp_path / "in", files), tmp_path / "out")


BAD_FEATURES = [
    (np.ones((6, 2)), "m.npy: 6 rows, more than 5"),
    (np.full((5, 2), np.nan), "m.npy: has no row for any item"),
    (np.array([[1.0], [2], [1e39], [4], [5]]), "m.npy: row 2 holds NaN or infinity (kept as float32)"),
    (np.ones(5), "m.npy: has shape (5,)"),
    (np.ones((5, 0)), "m.npy: has shape (5, 0)"),
    (np.ones((5, 2), np.int64), "m.npy: holds int64"),
    (np.array([[1.0, 1], [2, 2], [np.nan, 3], [4, 4], [np.inf, 5]]), "m.npy: row 2 holds NaN or infinity"),
    (np.array([[1.0], [2], [np.nan], [4], [np.inf]]), "m.npy: row 4 holds NaN or infinity"),
    (b"no array", "m.npy: cannot be read as .npy"),
    (b"PK\x03\x04no archive", "m.npy: cannot be read as .npy"),
]


@pytest.mark.parametrize(("matrix", "message"), BAD_FEATURES)
def test_bad_features_leave_nothing(tmp_path: Path, matrix: np.ndarray | bytes, message: str) -> None:
    source, file = make(tmp_path / "in", GIVEN), tmp_path / "m.npy"
    if isinstance(matrix, bytes):
        file.write_bytes(matrix)
    else:
        np.save(file, matrix)
    said = refused(source, tmp_path / "out", item_features={"x": file})
    assert said.startswith(f"{tmp_path}/{message}")


def test_features_need_integer_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.ones((5, 2)))
    source = make(tmp_path, {"a.csv": "user,item\n1,a\n"}) / "a.csv"
    assert "item ids are strings" in refused(source, tmp_path / "out", item_features={"x": tmp_path / "m.npy"})


def test_parquet_source(tmp_path: Path) -> None:
    rows = [(user, item) for user in range(8) for item in range(10)]
    table = pa.table({"user": [f"u{user}" for user, _ in rows], "item": [item for _, item in rows]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert made(tmp_path / "a.parquet", tmp_path / "out").manifest.counts == {"train": 64, "valid": 8, "test": 8}


def test_command(tmp_path: Path) -> None:
    source = make(tmp_path / "in", GIVEN)
    np.save(tmp_path / "m.npy", np.ones((5, 2)))
    arguments = [str(source), "--out", str(tmp_path / "out"), "--item-features", f"x={tmp_path / 'm.npy'}"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert open_dataset(tmp_path / "out").feature("x").shape == (5, 2)
    assert FORMATS == READERS_FORMATS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--item-features", "x"], "write NAME=FILE"),
        (["--item-features", "x=a", "--item-features", "x=b"], "given twice"),
        (["--format", "xml"], "'xml' is not one of"),
        (["--seed", "-1"], "-1"),
        ([], "--out"),
    ],
)
def test_command_refuses(tmp_path: Path, arguments: list[str], message: str) -> None:
    out = ["--out", str(tmp_path / "out")] if arguments else []
    done = CliRunner().invoke(command, [str(make(tmp_path / "in", GIVEN)), *out, *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_command_raises_user_errors_for_main_to_print(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--ratio 8:1"):
        CliRunner().invoke(
            command, [str(tmp_path), "--out", str(tmp_path / "o"), "--ratio", "8:1"], catch_exceptions=False
        )
