"""Text files that are broken in one place, or odd but right, made by a seed, each with what `prepare` must make of it.

A whole table has 12 users with 10 items each, a rating and a time; a spoiler changes it in a place drawn from the seed.
"""

import gzip
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

USERS, ITEMS = 12, 10
HEADER = {"csv": "user,item,rating,time", "tsv": "user\titem\trating\ttime"}
HEADER["inter"] = "user_id:token\titem_id:token\trating:float\ttime:float"
DELIMITER = {"csv": ",", "tsv": "\t", "inter": "\t", "pairs": " ", "adjacency": " "}
NAMES = {"csv": "a.csv", "tsv": "a.tsv", "inter": "a.inter", "pairs": "a.txt", "adjacency": "a.txt"}
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Files by name, and either words of the refusal or the pairs, as text, that come out."""

    name: str
    files: dict[str, bytes]
    source: str  # what is prepared: a file's name, or "." for the folder
    at: str = ""  # what the refusal begins with: file, or file:line
    words: str = ""  # stands in the refusal
    pairs: frozenset[Pair] | None = None  # None: refused
    arguments: tuple[str, ...] = ()


def whole_pairs() -> frozenset[Pair]:
    return frozenset((str(user), str(item)) for user in range(1, USERS + 1) for item in range(ITEMS))


def whole_rows(draw: random.Random) -> list[list[str]]:
    """Fields user, item, rating, time in shuffled order."""
    rows = [[user, item, str(draw.randint(1, 5)), str(draw.randint(1, 10**9))] for user, item in sorted(whole_pairs())]
    draw.shuffle(rows)
    return rows


def whole_lines(draw: random.Random, format: str) -> list[str]:
    if format == "adjacency":
        return [" ".join(map(str, [user, *range(ITEMS)])) for user in range(1, USERS + 1)]
    rows = whole_rows(draw)
    if format == "pairs":
        return [f"{user} {item}" for user, item, *_ in rows]
    return [HEADER[format], *(DELIMITER[format].join(row) for row in rows)]


# Column, what its field in one row becomes, words of the refusal, which names the line.
BAD_FIELDS = [
    (0, "", "user id is missing"),
    (1, "", "item id is missing"),
    (0, "NaN", "user id is missing"),
    (1, "null", "item id is missing"),
    (0, "a\0b", "NUL"),
    (2, "", "rating is missing"),
    (2, "nan", "rating is missing"),
    (2, "-inf", "rating is missing"),
    (2, "1e999", "rating"),
    (2, "good", "rating is no number"),
    (2, "4,5", None),  # a field more in csv, no number elsewhere
    (2, "0x10", "rating is no number"),
    (3, "", "time is neither"),
    (3, "soon", "time is neither"),
    (3, "inf", "time is neither"),
    (3, "2020-13-45", "time is neither"),
    (0, "\udcff", "is not UTF-8"),
    (3, "\udcc3(", "is not UTF-8"),
]
# The same for a token of a line of integers.
BAD_TOKENS = [
    ("x", "is no integer id"),
    ("1.0", "is no integer id"),
    ("1e3", "is no integer id"),
    ("NaN", "is no integer id"),
    ("+7", "is no integer id"),
    ("-7", "negative id"),
    ("9223372036854775808", "more than 18 digits"),
    ("9" * 400, "more than 18 digits"),
    ("5\0", "is no integer id"),
    ("٣", "is no integer id"),
    ("3\u00a04", "is no integer id"),
    ("\udcff", "is not UTF-8"),
    ("1,2", "is no integer id"),
    ('"5"', "is no integer id"),
    ("#", "is no integer id"),
    ("5\r6", "carriage return"),
]
# An id that is odd and must come out as it stands.
ODD_IDS = ["-7", "3.0", "007", "9" * 30, "é", "a b", "#", "1e5", "u" * 200_000, "Ｕ１", "nanna"]


def spoil_line(lines: list[str], at: int, format: str, spoiler: str) -> None:
    delimiter = DELIMITER[format]
    lines[at] = {
        "field less": lines[at].rpartition(delimiter)[0],
        "field more": lines[at] + delimiter + "9",
        "all fields less": lines[at].partition(delimiter)[0],
        "another separator": lines[at].replace(delimiter, ";"),
    }[spoiler]


def encoded(lines: list[str], end: str = "\n") -> bytes:
    return (end.join(lines) + end).encode(errors="surrogateescape")


# Changes that leave every pair as it is.
HARMLESS: dict[str, Callable[[random.Random, list[str]], bytes]] = {
    "byte order mark": lambda draw, lines: b"\xef\xbb\xbf" + encoded(lines),
    "CR LF": lambda draw, lines: encoded(lines, "\r\n"),
    "both, and blank lines": lambda draw, lines: b"\xef\xbb\xbf" + encoded(lines, "\r\n\r\n"),
    "no end of line": lambda draw, lines: encoded(lines).rstrip(b"\n"),
    "blank lines above": lambda draw, lines: b"\n\n" + encoded(lines),
    "blank lines below": lambda draw, lines: encoded(lines) + b"\n\n\n",
    "lines twice": lambda draw, lines: encoded([*lines, draw.choice(lines[1:]), draw.choice(lines[1:])]),
}


def delimited_cases(draw: random.Random, format: str) -> Iterator[Case]:
    """Spoilt csv, tsv and inter."""
    file, delimiter, header = NAMES[format], DELIMITER[format], HEADER[format]

    def refused(name: str, content: bytes, words: str, line: int | None = None) -> Case:
        at = file if line is None else f"{file}:{line}"
        return Case(name=f"{format}: {name}", files={file: content}, source=file, at=at, words=words)

    for column, text, said in BAD_FIELDS:
        lines = whole_lines(draw, format)
        at = draw.randrange(1, len(lines))
        fields = lines[at].split(delimiter)
        fields[column] = text
        lines[at] = delimiter.join(fields)
        words = said or ("fields" if format == "csv" else "rating is no number")
        yield refused(f"column {column} is {text!r}", encoded(lines), words, at + 1)
    for spoiler in ("field less", "field more", "all fields less", "another separator"):
        lines = whole_lines(draw, format)
        at = draw.randrange(1, len(lines))
        spoil_line(lines, at, format, spoiler)
        yield refused(spoiler, encoded(lines), "not 4 fields", at + 1)
    for text in ODD_IDS:
        rows = whole_rows(draw)
        column = draw.randrange(2)
        row = draw.choice(rows)
        row[column] = text
        pairs = frozenset((user, item) for user, item, *_ in rows)
        lines = [header, *map(delimiter.join, rows)]
        name = f"{format}: an id is {text[:20]!r}"
        yield Case(name=name, files={file: encoded(lines)}, source=file, pairs=pairs)
    lines = whole_lines(draw, format)
    body = lines[1:]
    at = draw.randrange(1, len(lines))
    long = [*lines[:at], delimiter.join(["1", "2", "3", "4" * 3_000_000]), *lines[at:]]
    yield refused("a line of 3 MB", encoded(long), "longer than 1 MiB", at + 1)
    yield refused("header twice", encoded([*lines[:at], header, *lines[at:]]), "rating is no number", at + 1)
    bare = [delimiter.join(line.split(delimiter)[:2]) for line in lines]
    yield refused("header twice, ids alone", encoded([*bare[:at], bare[0], *bare[at:]]), "header again", at + 1)
    yield refused("no header", encoded(body), "no user column")
    yield refused("a name twice", encoded([header.replace("item", "user"), *body]), "no item column")
    yield refused("a column twice", encoded([header.split(delimiter)[0] + delimiter + header, *body]), "twice")
    yield refused("semicolons", encoded([line.replace(delimiter, ";") for line in lines]), "column found")
    yield refused("header alone", encoded(lines[:1]), "holds no pair")
    yield refused("nothing", b"", "is empty")
    yield refused("blanks", b" \n\r\n\t\n", "is empty")
    yield refused("gzip", gzip.compress(encoded(lines), mtime=0), "is compressed")
    yield refused("UTF-16", "\n".join(lines).encode("utf-16"), "is not UTF-8", 1)
    yield refused("UTF-16 without mark", "\n".join(lines).encode("utf-16-le"), "no user column")
    yield refused("not UTF-8 header", encoded(["\udcff" + header, *body]), "is not UTF-8", 1)
    yield refused("JSON", b'{"user": 1, "item": 2}\n', "no user column")
    yield refused("noise", draw.randbytes(4096), "")
    changes = HARMLESS | {"CR": lambda draw, lines: encoded(lines, "\r")}
    for name, change in changes.items():
        content = change(draw, whole_lines(draw, format))
        yield Case(name=f"{format}: {name}", files={file: content}, source=file, pairs=whole_pairs())
    if format != "inter":
        yield from quoted_cases(draw, format)


def quoted_cases(draw: random.Random, format: str) -> Iterator[Case]:
    """What quotes can do to csv and tsv; a title is the last column."""
    file, delimiter = NAMES[format], DELIMITER[format]
    header = delimiter.join(["user", "item", "title"])
    lines = [header, *(delimiter.join([*row[:2], f'"a{delimiter}b\n{row[3]}"']) for row in whole_rows(draw))]
    good = encoded(lines)
    large = encoded([line.replace("\n", "\n" + "x" * 20_000) for line in lines])
    for name, content in {"line breaks in quotes": good, "and across blocks": large}.items():
        yield Case(name=f"{format}: {name}", files={file: content}, source=file, pairs=whole_pairs())
    # A quote where none counts, as in Nails 5", or with text behind it: odd, and read as it stands.
    plain = [line.replace('"', "").replace(delimiter + "b\n", "") for line in lines]
    odd = [header, *(line + draw.choice(['5"', '"', ""]) for line in plain[1:])]
    odd[-1] = delimiter.join([*odd[-1].split(delimiter)[:2], '"x" y'])
    yield Case(name=f"{format}: odd quotes", files={file: encoded(odd)}, source=file, pairs=whole_pairs())
    at = draw.randrange(1, len(lines))
    spoilt = delimiter.join(["3", "4", '"open'])
    later = draw.randrange(at, len(lines))
    for name, words, content in [
        ("open quote in the last column", "never closes", [*plain[:at], spoilt, *plain[at:]]),
        ("open quote below odd ones", "never closes", [*odd[:at], spoilt, *plain[at:]]),
        ("two open quotes", "never closes", [*plain[:at], spoilt, *plain[at:later], spoilt, *plain[later:]]),
        ("open quote in the last line", "never closes", [*plain, spoilt]),
        ("open quote in an id", "fields", [*plain[:at], delimiter.join(['"3', "4", "t"]), *plain[at + 1 :]]),
    ]:
        line = len(plain) + 1 if "last line" in name else at + 1
        at_line = f"{file}:{line}"
        yield Case(name=f"{format}: {name}", files={file: encoded(content)}, source=file, at=at_line, words=words)


def integer_cases(draw: random.Random, format: str) -> Iterator[Case]:
    """Spoilt pairs and adjacency."""
    file = NAMES[format]
    arguments = ("--format", format)

    def refused(name: str, content: bytes, words: str, line: int | None = None) -> Case:
        at = file if line is None else f"{file}:{line}"
        title = f"{format}: {name}"
        return Case(name=title, files={file: content}, source=file, at=at, words=words, arguments=arguments)

    for token, words in BAD_TOKENS:
        lines = whole_lines(draw, format)
        at = draw.randrange(len(lines))
        tokens = lines[at].split(" ")
        tokens[draw.randrange(len(tokens))] = token
        lines[at] = " ".join(tokens)
        yield refused(f"a token is {token[:20]!r}", encoded(lines), words, at + 1)
    lines = whole_lines(draw, format)
    if format == "pairs":
        for spoiler in ("field less", "field more"):
            spoilt = list(lines)
            at = draw.randrange(len(lines))
            spoil_line(spoilt, at, format, spoiler)
            yield refused(spoiler, encoded(spoilt), "fields in place of `user item`", at + 1)
    else:
        yield refused("users alone", encoded([line.partition(" ")[0] for line in lines]), "holds no pair")
    yield refused("CR", encoded(lines, "\r"), "carriage return", 1)
    yield refused("semicolons", encoded([line.replace(" ", ";") for line in lines]), "is no integer id", 1)
    yield refused("a header", encoded(["user item", *lines]), "is no integer id", 1)
    yield refused("nothing", b"", "is empty")
    yield refused("gzip", gzip.compress(encoded(lines), mtime=0), "is compressed")
    yield refused("UTF-16", "\n".join(lines).encode("utf-16"), "is not UTF-8", 1)
    yield refused("noise", draw.randbytes(4096), "")
    for name, change in (HARMLESS | {"tabs": lambda draw, lines: encoded(lines).replace(b" ", b"\t ")}).items():
        content = change(draw, whole_lines(draw, format))
        title = f"{format}: {name}"
        yield Case(name=title, files={file: content}, source=file, pairs=whole_pairs(), arguments=arguments)
