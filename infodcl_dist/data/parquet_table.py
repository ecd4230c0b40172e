"""Interactions in a Parquet file, read a batch at a time: strings become codes before the next batch is read.

Legend: P rows of the file, R rows of a batch.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infodcl_dist.base.console import progress
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.columns import BROKEN_ID, MISSING_ID, REQUIRED, Columns, find_columns, first_true, way_out
from infodcl_dist.data.ids import IdColumn, within_text_limit
from infodcl_dist.data.number_columns import TIME_KIND, NumberColumn, TimeColumn

PARQUET = (".parquet", ".pq")
BATCH_ROWS = 1 << 22  # some hundred megabytes of strings; fewer rows make more dictionaries to unify


def read_parquet(path: Path, columns: Columns) -> pa.Table:
    """The Parquet form of `readers.read_interactions`."""
    with open_parquet(path) as file:
        names = find_columns(path, file.schema_arrow.names, columns)
        made = {role: _column(role, file.schema_arrow.field(name).type) for role, name in names.items()}

        def add(role: str, batch: pa.RecordBatch, first_row: int) -> None:
            part = ColumnPart(path, names[role], batch.column(names[role]), first_row, role)
            made[role].add(part.ids() if role in REQUIRED else part.numbers(role))

        with ThreadPoolExecutor(len(names)) as threads:
            for first_row, batch in batches_of(path, file, list(names.values())):
                list(threads.map(partial(add, batch=batch, first_row=first_row), names))
    with within_text_limit(path):
        read = {role: column.whole() for role, column in made.items()}
    if "time" in read and read["time"] is None:
        raise UserError(
            f"{path}: column {names['time']!r} is text that is no time, or times of several kinds; correct it, "
            f"{way_out('time')}"
        )
    is_text_time = isinstance(made.get("time"), TimeColumn)
    return pa.table(read, metadata={TIME_KIND: made["time"].kind} if is_text_time else None)


def _column(role: str, kind: pa.DataType) -> Any:
    """What gathers the parts of a column."""
    if role in REQUIRED:
        return IdColumn()
    return TimeColumn() if role == "time" and _is_text(kind) else NumberColumn()


def _is_text(kind: pa.DataType) -> bool:
    """Whether values are strings, or codes of strings."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


@contextmanager
def open_parquet(path: Path, buffer_bytes: int = 0) -> Iterator[pq.ParquetFile]:
    """The file, open; what Arrow stumbles over inside the block is told as the file's fault.

    Args:
        path: the file.
        buffer_bytes: read so much of a column at a time; 0: all that a row group has of it.

    Raises:
        UserError: the file is no whole Parquet file.
        FileNotFoundError: there is none.
    """
    try:
        # By default Arrow reads ahead all that a row group has of the columns.
        with (
            within_text_limit(path),
            pq.ParquetFile(path, buffer_size=buffer_bytes, pre_buffer=buffer_bytes == 0) as file,
        ):
            yield file
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        fault = str(error).splitlines()[0][:120]
        raise UserError(f"{path}: cannot be read as Parquet ({fault}); it may be cut short: make it again") from error


def batches_of(path: Path, file: pq.ParquetFile, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The first row's number and the columns of each batch; first one without rows, which shows the types alone."""
    yield 0, pa.RecordBatch.from_pylist([], pa.schema([file.schema_arrow.field(name) for name in names]))
    rows, done = file.metadata.num_rows, 0
    batches = _read_ahead(file.iter_batches(BATCH_ROWS, columns=names))
    for batch in progress(batches, f"reading {path.name}", -(-rows // BATCH_ROWS)):
        yield done, batch
        done += len(batch)


def _read_ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Reads the next batch while one is worked on."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


class ColumnPart:
    """R rows of a column of the file; of an optional one the role is given, for messages."""

    def __init__(self, path: Path, name: str, values: pa.Array, first_row: int, role: str | None = None) -> None:
        self._path, self._name, self._values, self._first_row = path, name, values, first_row
        self._way_out = "" if role is None or role in REQUIRED else f", {way_out(role)}"
        self._refuse(pc.is_null(values, nan_is_null=True), "is null or NaN")

    def ids(self) -> pa.Array:
        """As int64, or as a dictionary of strings, of which each distinct one is looked at once; [R]."""
        kind = self._values.type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        texts = _is_text(kind)
        if not texts and not pa.types.is_integer(kind):
            raise UserError(f"{self._column} is {kind}, which is no id; cast it to int64 or string")
        if texts:
            self._refuse_bad_utf8()
        try:
            ids = self._values.cast(pa.string() if texts else pa.int64())
        except pa.ArrowInvalid as error:
            raise UserError(f"{self._column} holds ids beyond int64; cast it to string") from error
        if not texts:
            return ids
        ids = ids.dictionary_encode()
        missing = pc.is_in(ids.dictionary, value_set=pa.array(MISSING_ID))
        broken = pc.match_substring_regex(ids.dictionary, BROKEN_ID)
        self._refuse(missing.take(ids.indices), "is empty or a word for no id")
        self._refuse(broken.take(ids.indices), "holds a line break or a NUL byte")
        return ids

    def numbers(self, role: str) -> pa.Array:
        """As float64 [R], times as int64 where they are whole; points in time as microseconds since 1970.

        Times that are text stay text, for `TimeColumn`.
        """
        kind = self._values.type
        if role == "time" and _is_text(kind):
            self._refuse_bad_utf8()
            return self._values.cast(pa.string())
        if role == "time" and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            return self._values.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise UserError(f"{self._column} is {kind}, which is no {role}; cast it to a number{self._way_out}")
        exact_integer = role == "time" and pa.types.is_integer(kind)
        try:
            # A rating beyond 2^53 may be rounded; a time may not.
            numbers = self._values.cast(pa.int64() if exact_integer else pa.float64(), safe=exact_integer)
        except pa.ArrowInvalid as error:
            raise UserError(f"{self._column} holds a {role} beyond int64; correct it{self._way_out}") from error
        if not exact_integer:
            self._refuse(pc.invert(pc.is_finite(numbers)), "is not finite")
        return numbers

    @property
    def _column(self) -> str:
        return f"{self._path}: column {self._name!r}"

    def _refuse(self, faults: pa.Array, what: str) -> None:
        if (row := first_true(faults)) is not None:
            place = f"{self._path}: row {self._first_row + row}: column {self._name!r}"
            raise UserError(f"{place} {what}; correct the row{self._way_out}")

    def _refuse_bad_utf8(self) -> None:
        """Parquet's writers need not check their strings, and Arrow does so only when it is told to."""
        try:
            self._values.validate(full=True)
        except (pa.ArrowInvalid, pa.ArrowIndexError) as error:
            last = self._first_row + len(self._values) - 1
            raise UserError(
                f"{self._path}: rows {self._first_row} to {last}: column {self._name!r} holds text that is not UTF-8; "
                "write it as UTF-8"
            ) from error
