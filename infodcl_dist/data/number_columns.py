"""Columns of numbers as they are read, chunk by chunk."""

import pyarrow as pa
import pyarrow.compute as pc


class NumberColumn:
    """Chunks of one type, one behind the other."""

    def __init__(self) -> None:
        self._parts: list[pa.Array] = []

    def add(self, chunk: pa.Array) -> None:
        """Appends a chunk."""
        self._parts.append(chunk)

    def whole(self) -> pa.ChunkedArray:
        """All of them, when at least one chunk was added."""
        return pa.chunked_array(self._parts)


class TimeColumn:
    """Texts that become int64, else float64, else dates as int64 microseconds since 1970: all of them the same."""

    def __init__(self) -> None:
        self._parts: list[pa.Array] = []
        self._are_dates: set[bool] = set()
        self._failed = False

    def add(self, texts: pa.Array) -> None:
        """Appends a chunk of strings."""
        if len(texts) == 0 or self._failed:
            return
        found = _numbers(texts)
        self._are_dates.add(found is None)
        found = _dates(texts) if found is None else found
        self._failed = found is None or len(self._are_dates) == 2
        self._parts.append(found)

    def whole(self) -> pa.ChunkedArray | None:
        """All of them; None where a text is neither, or where some are numbers and some dates."""
        if self._failed:
            return None
        kind = pa.float64() if any(pa.types.is_floating(part.type) for part in self._parts) else pa.int64()
        return pa.chunked_array([part.cast(kind, safe=False) for part in self._parts], kind)


def _numbers(texts: pa.Array) -> pa.Array | None:
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = texts.cast(kind)
        except pa.ArrowInvalid:
            continue
        if pc.all(pc.is_finite(numbers)).as_py():
            return numbers
    return None


def _dates(texts: pa.Array) -> pa.Array | None:
    try:
        return texts.cast(pa.timestamp("us")).cast(pa.int64())
    except pa.ArrowInvalid:
        return None
