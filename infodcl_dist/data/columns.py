"""Which column of a table is the user, the item, the rating, the time; and ids that stay what they are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from infodcl_dist.base.errors import UserError

# Tried in this order, compared without case, spaces and underscores.
COMMON_NAMES = {
    "user": ("user", "userid", "uid", "reviewerid", "customerid", "visitorid", "sessionid"),
    "item": ("item", "itemid", "iid", "movieid", "productid", "asin", "parentasin", "bookid", "businessid", "songid"),
    "rating": ("rating", "ratings", "score", "stars", "overall"),
    "time": ("timestamp", "time", "unixreviewtime", "datetime", "date"),
}
REQUIRED = ("user", "item")
# What other tools write where an id is missing; never an id.
MISSING_ID = ("", "nan", "NaN", "null", "NULL", "None")
# In an id, the sign of a quote or a column gone wrong.
BROKEN_ID = r"[\x00\r\n]"
# Written as an integer is written, within int64: `7`, never `007` or `+7`, which are other ids than `7`.
INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the columns in the user's file; None is looked for among the common names, "" is none at all."""

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time: str | None = None
    have_options: bool = True
    """Whether the user could name them (`--user-column` …); otherwise a column is to be renamed in the file."""

    @property
    def by_role(self) -> dict[str, str | None]:
        """The name of each role."""
        return {role: getattr(self, role) for role in COMMON_NAMES}

    @property
    def named(self) -> dict[str, str]:
        """The names the user gave, by role."""
        return {role: name for role, name in self.by_role.items() if name is not None}


def find_columns(path: Path, header: Sequence[str], columns: Columns) -> dict[str, str]:
    """The header's name for each role: `user` and `item` always, `rating` and `time` where there are any.

    Raises:
        UserError: a named column is not there, a required one is not found, or one column would play two roles.
    """
    there = ", ".join(header)
    found = {role: name for role, name in columns.named.items() if name}
    for role, name in found.items():
        if name not in header:
            whose = f" (--{role}-column)" if columns.have_options else ", which it must have"
            raise UserError(f"{path}: no column {name!r}{whose}; the columns are: {there}")
    for role, common in COMMON_NAMES.items():
        if role not in REQUIRED and columns.named.get(role) == "":
            continue
        matching = [name for known in common for name in header if _plain(name) == known and name not in found.values()]
        if role not in found and matching:
            found[role] = matching[0]
        elif role not in found and role in REQUIRED:
            remedy = f"name one with --{role}-column" if columns.have_options else f"rename it to {role}"
            raise UserError(f"{path}: no {role} column found; {remedy}; the columns are: {there}")
    for role, name in found.items():
        if header.count(name) > 1:
            raise UserError(f"{path}: column {name!r} stands in the header twice; rename one")
        if list(found.values()).count(name) > 1:
            raise UserError(f"{path}: column {name!r} is named for two roles; correct --{role}-column")
    return {role: found[role] for role in COMMON_NAMES if role in found}


def way_out(role: str) -> str:
    """What to do with a column that was found by its name, and need not be read."""
    return f"or leave the column out (--{role}-column '')"


def _plain(name: str) -> str:
    """A header field as common names are compared: `User_ID:token` is `userid`."""
    return re.sub(r"[\s_]", "", name.partition(":")[0]).lower()


def integers_where_exact(texts: pa.Array) -> pa.Array:
    """The texts as int64 where each is the way that integer is written, so that nothing is lost; else as they are."""
    exact = len(texts) > 0 and pc.all(pc.match_substring_regex(texts, INTEGER)).as_py()
    return texts.cast(pa.int64()) if exact else texts


def first_true(mask: pa.Array | pa.ChunkedArray) -> int | None:
    """The index of the first true element, or None."""
    index = pc.index(mask, True).as_py()
    return None if index < 0 else index
