"""Item features from .npy and Parquet: whose row is whose, what is kept, and which items have none."""

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.data import features as features_module
from infodcl_dist.data.dataset import Dataset, open_dataset
from infodcl_dist.data.prepare import PrepareOptions, prepare

ITEMS = ["a", "b", "c", "d"]
VALUES = np.array([[1.5, -2.0], [3.0, 4.0], [5.0, 0.25]])


def source(folder: Path, items: list) -> Path:
    """Each user has all items but one; a folder of splits, so that no item is filtered."""
    folder.mkdir(exist_ok=True)
    rows = {"train": range(len(items)), "valid": [], "test": []}
    for split, of in (("train", (0, 1)), ("valid", (2,)), ("test", (3,))):
        rows[split] = [(f"u{user}", items[(user + shift) % len(items)]) for user in range(4) for shift in of]
        text = "".join(f"{user},{item}\n" for user, item in rows[split])
        (folder / f"{split}.csv").write_text("user,item\n" + text)
    return folder


def made(tmp_path: Path, file: Path, items: list | None = None) -> Dataset:
    prepare(source(tmp_path / "in", items or ITEMS), tmp_path / "out", PrepareOptions(item_features={"x": file}))
    return open_dataset(tmp_path / "out")


def write(tmp_path: Path, columns: dict) -> Path:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=2)
    return tmp_path / "x.parquet"


def lists(values: np.ndarray, form: str, number: pa.DataType) -> dict:
    cells = [np.asarray(row, number.to_pandas_dtype()) for row in values]
    kinds = {
        "fixed": pa.list_(number, 2),
        "list": pa.list_(number),
        "large": pa.large_list(number),
    }
    if form in kinds:
        return {"vector": pa.array(cells, kinds[form])}
    return {f"x{k}": pa.array([row[k] for row in cells], number) for k in range(2)}


@pytest.mark.parametrize("form", ["fixed", "list", "large", "numbers"])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_parquet_of_any_form_and_type(
    tmp_path: Path, form: str, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(features_module, "CHUNK_BYTES", 8)  # a row or two at a time
    number = pa.type_for_alias(kind)
    file = write(tmp_path, {"id": ["d", "nobody", "a"]} | lists(VALUES, form, number))
    with caplog.at_level("INFO", "infodcl_dist"):
        dataset = made(tmp_path, file)
    expected = np.array([VALUES[2], [np.nan] * 2, [np.nan] * 2, VALUES[0]])
    matrix = dataset.feature("x")
    assert matrix.dtype == ("float16" if kind == "float16" else "float32")
    np.testing.assert_array_equal(matrix, expected.astype(matrix.dtype))
    assert dataset.manifest.features["x"].missing == 2
    assert "feature x: 2 of 4 items have no row; 1 rows belong to no item" in caplog.text


def test_whole_numbers_are_features_and_ids_may_be_of_the_other_kind(tmp_path: Path) -> None:
    file = write(tmp_path, {"age": [7, 9], "id": ["30", "10"], "price": np.array([0.5, 1.5], np.float16)})
    dataset = made(tmp_path, file, [10, 20, 30, 40])
    assert dataset.item_ids().to_pylist() == [10, 20, 30, 40]
    np.testing.assert_array_equal(dataset.feature("x"), [[9, 1.5], [np.nan] * 2, [7, 0.5], [np.nan] * 2])


def test_nulls_and_rows_wholly_nan_are_no_rows(tmp_path: Path) -> None:
    cells = pa.array([[1.0, 2.0], None, [np.nan, np.nan], [None, None]], pa.list_(pa.float32()))
    dataset = made(tmp_path, write(tmp_path, {"id": ITEMS, "v": cells}))
    np.testing.assert_array_equal(dataset.feature("x"), [[1, 2]] + [[np.nan] * 2] * 3)
    fixed = pa.array([[1.0, 2.0], None, [3.0, 4.0], None], pa.list_(pa.float32(), 2))
    prepare(
        tmp_path / "in",
        tmp_path / "fixed",
        PrepareOptions(item_features={"x": write(tmp_path, {"id": ITEMS, "v": fixed})}),
    )
    np.testing.assert_array_equal(
        open_dataset(tmp_path / "fixed").feature("x"), [[1, 2], [np.nan] * 2, [3, 4], [np.nan] * 2]
    )


def test_a_short_matrix_leaves_the_last_items_without(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.0], [np.nan], [3.0]], ">f8"))
    dataset = made(tmp_path, tmp_path / "x.npy", [0, 1, 2, 3])
    np.testing.assert_array_equal(dataset.feature("x"), np.array([[1], [np.nan], [3], [np.nan]], np.float32))
    assert dataset.feature("x").dtype == np.float32
    assert dataset.manifest.features["x"].missing == 2


LIST = pa.list_(pa.float32())
REFUSED = {
    "no id": ({"key": ITEMS, "v": [1.0] * 4}, "not one; rename the column of item ids to id, and"),
    "no values": ({"id": ITEMS}, "give one column of lists, or columns of numbers"),
    "list and numbers": ({"id": ITEMS, "v": pa.array([[1.0]] * 4, LIST), "w": [1.0] * 4}, "give one column of lists"),
    "text": ({"id": ITEMS, "title": ITEMS}, "column 'title' holds string"),
    "lists of text": ({"id": ITEMS, "v": [["x"]] * 4}, "column 'v' holds string"),
    "pandas": ({"id": ITEMS, "v": [1.0] * 4, "__index_level_0__": [0, 1, 2, 3]}, "is an index of pandas"),
    "doubled": ({"id": ["a", "b", "c", "b"], "v": [1.0] * 4}, "row 3: id b stands in row 1 too"),
    "doubled outside": ({"id": ["z", "b", "z", "y"], "v": [1.0] * 4}, "row 2: id z stands in row 0 too"),
    "null id": ({"id": ["a", None, "c", "d"], "v": [1.0] * 4}, "row 1: column 'id' is null"),
    "ragged": ({"id": ITEMS, "v": pa.array([[1.0], [2.0], [1.0, 2.0], None], LIST)}, "row 2: a list of 2 numbers"),
    "empty lists": ({"id": ITEMS, "v": pa.array([None, [], [], []], LIST)}, "column 'v' holds no numbers"),
    "partly nan": ({"id": ITEMS, "v": [1.0] * 4, "w": [1, 2, np.nan, 4]}, "row 2 holds NaN or infinity"),
    "infinite": ({"id": ITEMS, "v": pa.array([[1.0], [2.0], [3.0], [-np.inf]], LIST)}, "row 3 holds NaN or infinity"),
    "beyond": ({"id": ITEMS, "v": [1.0, 1e300, 1.0, 1.0]}, "row 1 holds NaN or infinity (kept as float32)"),
    "foreign": ({"id": [1, 2, 3], "v": [1.0] * 3}, "has no row for any item"),
    "no rows": ({"id": pa.array([], pa.string()), "v": pa.array([], pa.float32())}, "holds no row"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_file_and_place(tmp_path: Path, name: str) -> None:
    columns, message = REFUSED[name]
    file = write(tmp_path, columns)
    with pytest.raises(UserError) as raised:
        made(tmp_path, file)
    assert str(raised.value).startswith(f"{file}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_parquet(tmp_path: Path) -> None:
    whole = write(tmp_path, {"id": ITEMS, "v": [1.0] * 4}).read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "text": b"id,v\n"}.items():
        file = tmp_path / f"{name}.parquet"
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.parquet: cannot be read as Parquet"):
            made(tmp_path, file)
    with pytest.raises(UserError, match=r"none\.parquet: no such file; check --item-features"):
        made(tmp_path, tmp_path / "none.parquet")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = write(tmp_path, {"id": ITEMS, "v": [1.0] * 4})
    with pytest.raises(UserError, match=r"/out: cannot be written \(No space left on device\); make room"):
        made(tmp_path, file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "x.parquet"]
