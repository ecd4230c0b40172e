"""A Parquet file of features: a column `id`, the user's own, and one column of lists or columns of numbers.

Legend: H rows of the file, R rows of a batch, F width.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.ids import IdColumn, are_integers
from infodcl_dist.data.parquet_table import ColumnPart, batches_of, open_parquet

ID = "id"
BUFFER_BYTES = 1 << 16  # of each column, of which there may be thousands; a row group may be the whole file
LOOKED_AT = 1024  # rows of a first look for a list's length
# What pandas writes when a table has an index that is no plain count; it would pass for a feature.
PANDAS_INDEX = "__index_level_"


class FeatureTable:
    """See `features.FeatureFile`. Ids are held, rows are not; a null list, or a row of nulls, counts as wholly NaN.

    Raises:
        UserError: no column `id`, no columns of numbers beside it, a null id, or an id that stands there twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_parquet(path) as file:
                self._columns = _value_columns(path, file.schema_arrow)
                kinds = [file.schema_arrow.field(name).type for name in self._columns]
                self._is_list = _is_list(kinds[0])
                self.dtype = _kept_as([kinds[0].value_type] if self._is_list else kinds)
                self.width = self._list_length(kinds[0]) if self._is_list else len(kinds)
                self._ids = self._read_ids(file)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; check --item-features") from None

    def __len__(self) -> int:
        return len(self._ids)

    def rows_of(self, item_ids: pa.Array) -> np.ndarray:
        """The row of each item, int64 [n], or -1; compared as text where either side's ids are strings."""
        own = self._ids
        if are_integers(item_ids) != are_integers(own):
            own, item_ids = own.cast(pa.string()), item_ids.cast(pa.string())
        rows: np.ndarray = pc.index_in(item_ids, value_set=own).fill_null(-1).to_numpy().astype(np.int64)
        return rows

    def check_items(self, item_ids: pa.Array) -> None:
        """Any ids will do."""

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """All rows, some at a time; what float32 cannot hold becomes infinite."""
        first = 0
        with open_parquet(self.path, BUFFER_BYTES) as file:
            for batch in file.iter_batches(rows, columns=self._columns):
                yield self._lists(batch.column(0), first) if self._is_list else self._numbers(batch)
                first += len(batch)

    def _numbers(self, batch: pa.RecordBatch) -> np.ndarray:
        block = np.empty((len(batch), self.width), self.dtype)
        with np.errstate(over="ignore"):
            for number, name in enumerate(self._columns):
                block[:, number] = batch.column(name).to_numpy(zero_copy_only=False)
        return block

    def _lists(self, lists: pa.Array, first: int) -> np.ndarray:
        lengths = pc.list_value_length(lists).fill_null(self.width).to_numpy()
        if (wrong := lengths != self.width).any():
            row = int(wrong.argmax())
            raise UserError(
                f"{self.path}: row {first + row}: a list of {lengths[row]} numbers, those before have {self.width}; "
                "make all equally long"
            )
        block = np.full((len(lists), self.width), np.nan, self.dtype)
        with np.errstate(over="ignore"):
            given = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.width)
            block[lists.is_valid().to_numpy(zero_copy_only=False)] = given
        return block

    def _list_length(self, kind: pa.DataType) -> int:
        """F, the length that the type names, or that of the first list that is not null."""
        if pa.types.is_fixed_size_list(kind) and kind.list_size > 0:
            return int(kind.list_size)
        with open_parquet(self.path, BUFFER_BYTES) as file:
            for batch in file.iter_batches(LOOKED_AT, columns=self._columns):
                lengths = pc.list_value_length(batch.column(0)).drop_null()
                if len(lengths) and (length := lengths[0].as_py()) > 0:
                    return int(length)
                if len(lengths):
                    break
        raise UserError(f"{self.path}: column {self._columns[0]!r} holds no numbers; give a list an item")

    def _read_ids(self, file: pa.parquet.ParquetFile) -> pa.Array:
        column = IdColumn()
        for first_row, batch in batches_of(self.path, file, [ID]):
            column.add(ColumnPart(self.path, ID, batch.column(ID), first_row).ids())
        coded = column.whole()
        if len(coded) == 0:
            raise UserError(f"{self.path}: holds no row; give a row an item")
        # Distinct ids are numbered as they come, so that the first that differs is one that came before.
        codes = coded.indices.to_numpy()
        if (again := codes != np.arange(len(codes))).any():
            row = int(again.argmax())
            before = int(np.argmax(codes == codes[row]))
            named = coded.dictionary[int(codes[row])]
            raise UserError(f"{self.path}: row {row}: id {named} stands in row {before} too; keep one of them")
        return coded.dictionary


def _value_columns(path: Path, schema: pa.Schema) -> list[str]:
    """The columns beside `id`: one of lists, or all of numbers."""
    there = ", ".join(schema.names)
    if schema.names.count(ID) != 1:
        raise UserError(
            f"{path}: has {schema.names.count(ID)} columns named {ID}, not one; rename the column of item ids to {ID}, "
            f"and it alone; the columns are: {there}"
        )
    names = [name for name in schema.names if name != ID]
    lists = [name for name in names if _is_list(schema.field(name).type)]
    if not names or (lists and len(names) > 1):
        raise UserError(f"{path}: give one column of lists, or columns of numbers, beside {ID}; there are: {there}")
    for name in names:
        kind = schema.field(name).type
        kind = kind.value_type if lists else kind
        if not (pa.types.is_floating(kind) or (pa.types.is_integer(kind) and not lists)):
            raise UserError(f"{path}: column {name!r} holds {kind}, which is no feature; cast it to float32")
        if name.startswith(PANDAS_INDEX):
            raise UserError(f"{path}: column {name!r} is an index of pandas; write the table with index=False")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two columns have one name; rename one; the columns are: {there}")
    return names


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _kept_as(kinds: list[pa.DataType]) -> str:
    return "float16" if all(pa.types.is_float16(kind) for kind in kinds) else "float32"
