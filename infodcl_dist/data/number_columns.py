"""Columns of numbers as they are read, chunk by chunk."""

import pyarrow as pa
import pyarrow.compute as pc

TIME_KIND = b"time kind"  # in a table's metadata: which kind of text its times were, `TimeColumn.kind`
DATES = [pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("us", "ns")]


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
    """Texts that become int64, else float64, else dates as int64 microseconds since 1970: all of them of one kind."""

    def __init__(self) -> None:
        self._parts: list[pa.Array] = []
        self._kinds: set[str] = set()
        self._failed = False

    def add(self, texts: pa.Array) -> None:
        """Appends a chunk of strings."""
        if len(texts) == 0 or self._failed:
            return
        found, kind = parse_times(texts)
        self._kinds.add(kind)
        self._failed = found is None or len(self._kinds) > 1
        self._parts.append(found)

    @property
    def kind(self) -> str:
        """Which kind all of them are, as `parse_times` names it; "" before there is any."""
        return next(iter(self._kinds), "")

    def whole(self) -> pa.ChunkedArray | None:
        """All of them; None where a text is neither, or where they are of several kinds."""
        if self._failed:
            return None
        kind = pa.float64() if any(pa.types.is_floating(part.type) for part in self._parts) else pa.int64()
        return pa.chunked_array([part.cast(kind, safe=False) for part in self._parts], kind)


def parse_times(texts: pa.Array) -> tuple[pa.Array | None, str]:
    """The texts as numbers, and their kind: numbers, dates, or dates with a zone; None where they are not of one."""
    if (numbers := _numbers(texts)) is not None:
        return numbers, "number"
    for date in DATES:
        try:
            # The resolution of more than six digits is lost, as Parquet's is.
            return texts.cast(date).cast(pa.timestamp("us", date.tz), safe=False).cast(pa.int64()), f"date, {date.tz}"
        except pa.ArrowInvalid:
            continue
    return None, ""


def _numbers(texts: pa.Array) -> pa.Array | None:
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = texts.cast(kind)
        except pa.ArrowInvalid:
            continue
        if pc.all(pc.is_finite(numbers)).as_py():
            return numbers
    return None
