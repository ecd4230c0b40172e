"""Parquet files and folders that are broken, or odd but right, made by a seed; see `malformed_text`."""

import datetime
import decimal
import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from malformed_text import Case, delimited_cases, encoded, integer_cases, whole_lines, whole_pairs, whole_rows

FILE = "a.parquet"


def parquet(columns: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def whole_columns(draw: random.Random) -> dict[str, Any]:
    users, items, ratings, times = zip(*whole_rows(draw), strict=True)
    return {
        "user": [int(user) for user in users],
        "item": [int(item) for item in items],
        "rating": [float(rating) for rating in ratings],
        "time": [int(time) for time in times],
    }


def unchecked_text(values: list[bytes]) -> pa.Array:
    """Strings that need not be UTF-8."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


# column, one value put in a row, words; the row is named
BAD_VALUES = [
    ("user", None, "null"),
    ("item", None, "null"),
    ("rating", None, "null"),
    ("time", None, "null"),
    ("rating", float("nan"), "NaN"),
    ("rating", float("inf"), "not finite"),
    ("rating", float("-inf"), "not finite"),
]


def bad_columns(count: int) -> list[tuple[str, str, Any, str]]:
    """What is wrong, a column, its values, words of the refusal."""
    numbers = list(range(count))
    day = datetime.datetime(2020, 1, 1)
    huge = pa.array([2**64 - 1] * count, pa.uint64())
    return [
        ("floats", "user", [float(number) for number in numbers], "no id"),
        ("booleans", "item", [True] * count, "no id"),
        ("lists", "user", [[number] for number in numbers], "no id"),
        ("structs", "item", [{"id": number} for number in numbers], "no id"),
        ("maps", "item", pa.array([[("a", 1)]] * count, pa.map_(pa.string(), pa.int64())), "no id"),
        ("nulls", "user", pa.nulls(count), "null"),
        ("bytes", "user", [b"u"] * count, "no id"),
        ("dates", "user", [day] * count, "no id"),
        ("decimals", "item", [decimal.Decimal(number) for number in numbers], "no id"),
        ("beyond int64", "item", huge, "beyond int64"),
        ("half empty", "item", ["a", ""] * (count // 2), "is empty"),
        ("words for no id", "user", pa.array(["a", "nan"] * (count // 2)).dictionary_encode(), "a word for no id"),
        ("line breaks", "item", ["a", "b\nc"] * (count // 2), "a line break"),
        ("not UTF-8", "user", unchecked_text([b"u", b"\xff"] * (count // 2)), "not UTF-8"),
        ("text", "rating", ["good"] * count, "no rating"),
        ("booleans", "rating", [True] * count, "no rating"),
        ("lists", "rating", [[1.0]] * count, "no rating"),
        ("dictionary", "rating", pa.array(["5"] * count).dictionary_encode(), "no rating"),
        ("text", "time", ["soon"] * count, "no time"),
        ("several kinds of text", "time", ["2020-01-01", "5"] * (count // 2), "several kinds"),
        ("beyond int64", "time", huge, "beyond int64"),
        ("times of day", "time", pa.array([datetime.time(1)] * count), "no time"),
        ("durations", "time", pa.array([datetime.timedelta(1)] * count), "no time"),
        ("structs", "time", [{"at": number} for number in numbers], "no time"),
    ]


def odd_columns(columns: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Types that are read as the same pairs."""
    users, items, ratings = columns["user"], columns["item"], columns["rating"]
    texts = list(map(str, users))
    day = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    return [
        ("dictionary of strings", "user", pa.array(texts).dictionary_encode()),
        ("dictionary of integers", "user", pa.array(users).dictionary_encode()),
        ("large strings", "user", pa.array(texts, pa.large_string())),
        ("string views", "user", pa.array(texts, pa.string_view())),
        ("int8", "item", pa.array(items, pa.int8())),
        ("uint64", "item", pa.array(items, pa.uint64())),
        ("strings", "item", pa.array(list(map(str, items)))),
        ("half floats", "rating", pa.array(ratings, pa.float32()).cast(pa.float16())),
        ("decimals", "rating", pa.array(list(map(decimal.Decimal, map(str, ratings))))),
        ("integers beyond 2^53", "rating", pa.array([2**60 + 1] * len(users))),
        ("timestamps", "time", pa.array([day] * len(users))),
        (
            "text with nanoseconds and a zone",
            "time",
            [f"2020-01-01T00:00:{int(user) % 60:02}.000000001Z" for user in users],
        ),
        ("days", "time", pa.array([day.date()] * len(users))),
        ("a year 9999 in nanoseconds' reach", "time", pa.array([2**62] * len(users))),
    ]


def parquet_cases(draw: random.Random) -> Iterator[Case]:
    def refused(name: str, content: bytes, words: str) -> Case:
        return Case(name=f"parquet: {name}", files={FILE: content}, source=FILE, at=f"{FILE}: ", words=words)

    whole = whole_columns(draw)
    content = parquet(whole)
    for length in sorted(draw.sample(range(4, len(content)), 12)):
        yield refused(f"cut to {length} bytes", content[:length], "cannot be read as Parquet")
    for kept in (4, 100):
        zeroed = content[:kept] + bytes(len(content) - kept)
        yield refused(f"zeros after {kept} bytes", zeroed, "cannot be read as Parquet")
    yield refused("noise", b"PAR1" + draw.randbytes(500) + b"PAR1", "cannot be read as Parquet")
    yield refused("a footer of 4 GB", content[:-8] + b"\xff\xff\xff\xff" + b"PAR1", "cannot be read as Parquet")
    yield refused("CSV by name", encoded(whole_lines(draw, "csv")), "cannot be read as Parquet")
    yield refused("nothing", b"", "is empty")
    yield refused("no rows", parquet({name: column[:0] for name, column in whole.items()}), "")
    yield refused("no columns", parquet({}), "no user column")
    yield refused("no item", parquet({"user": whole["user"]}), "no item column")
    twice = pa.Table.from_arrays([pa.array(whole[name]) for name in ("user", "user", "item")], ["user", "user", "item"])
    sink = pa.BufferOutputStream()
    pq.write_table(twice, sink)
    yield refused("a column twice", sink.getvalue().to_pybytes(), "twice")
    for column, value, words in BAD_VALUES:
        row = draw.randrange(len(whole[column]))
        spoilt = [*whole[column][:row], value, *whole[column][row + 1 :]]
        case = refused(f"{column} {value}", parquet(whole | {column: spoilt}), words)
        yield Case(name=case.name, files=case.files, source=FILE, at=f"{FILE}: row {row}: ", words=words)
    for name, column, values, words in bad_columns(len(whole["user"])):
        yield refused(f"{column} of {name}", parquet(whole | {column: values}), words)
    for name, column, values in odd_columns(whole):
        content = parquet(whole | {column: values})
        yield Case(name=f"parquet: {column} of {name}", files={FILE: content}, source=FILE, pairs=whole_pairs())
    yield Case(name="parquet named .csv", files={"a.csv": parquet(whole)}, source="a.csv", pairs=whole_pairs())


def folder_cases(draw: random.Random) -> Iterator[Case]:
    """Folders of files; a name that ends with a slash is a folder."""
    header = "user,item\n"
    train = (header + "".join(f"{user},{item}\n" for user in "abcd" for item in "vwxyz")).encode()
    files = {"train.csv": train, "valid.csv": (header + "a,q\n").encode(), "test.csv": (header + "b,q\n").encode()}
    keep = ("--unknown-ids", "keep")
    pairs = frozenset({(user, item) for user in "abcd" for item in "vwxyz"} | {("a", "q"), ("b", "q")})

    def folder(name: str, changes: dict[str, bytes | None], at: str, words: str) -> Case:
        spoilt = {file: content for file, content in (files | changes).items() if content is not None}
        return Case(name=f"folder: {name}", files=spoilt, source=".", at=at, words=words, arguments=keep)

    def read(name: str, changes: dict[str, bytes]) -> Case:
        return Case(name=f"folder: {name}", files=files | changes, source=".", pairs=pairs, arguments=keep)

    user, item = draw.choice("abcd"), draw.choice("vwxyz")
    leak = f"{header}a,q\n{user},{item}\n".encode()
    named = f"the pair (user {user}, item {item})"
    yield folder("no file", dict.fromkeys(files), "", "no train file")
    yield folder("a folder named train.csv", {"train.csv": None, "train.csv/": b""}, "", "no train file")
    yield folder("no test", {"test.csv": None}, "", "no test file")
    yield folder("train twice", {"train.txt": b"0 1\n"}, "train.", "is the train split already")
    yield folder("valid twice", {"val.csv": leak}, "val", "is the valid split already")
    yield folder("an empty valid", {"valid.csv": b""}, "valid.csv: ", "is empty")
    yield folder("a valid of its header", {"valid.csv": header.encode()}, "valid.csv: ", "holds no pair")
    yield folder("a leak to valid", {"valid.csv": leak}, "valid.csv:3: ", named)
    yield folder("a leak to test", {"test.csv": leak}, "test.csv:3: ", named)
    yield folder("a leak from valid to test", {"test.csv": header.encode() + b"c,q\na,q\n"}, "test.csv:3: ", "user a")
    yield folder("a ragged test", {"test.csv": header.encode() + b"a,q\nb\n"}, "test.csv:3: ", "not 2 fields")
    yield folder("a cut test", {"test.csv": None, "test.parquet": b"PAR1"}, "test.parquet: ", "cannot be read")
    yield read("odd neighbours", {".DS_Store": b"\0", "notes.md": b"# a", "train/": b"", "a b.json": b"{"})
    mixed = parquet({"user": ["b"], "item": ["q"]})
    yield Case(
        name="folder: mixed formats",
        files={name: files[name] for name in ("train.csv", "valid.csv")} | {"test.parquet": mixed},
        source=".",
        pairs=pairs,
        arguments=keep,
    )


def all_cases(seed: int) -> list[Case]:
    """Every case; the same for the same seed."""
    draw = random.Random(seed)
    text = [case for format in ("csv", "tsv", "inter") for case in delimited_cases(draw, format)]
    integers = [case for format in ("pairs", "adjacency") for case in integer_cases(draw, format)]
    return [*text, *integers, *parquet_cases(draw), *folder_cases(draw)]
