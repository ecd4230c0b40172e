"""A data set of any size with power-law degrees, made of nothing: what scale is measured on.

M users, N items, P pairs.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from infodcl_dist.base.files import new_folder
from infodcl_dist.data.pairs import Pairs
from infodcl_dist.data.splits import SPLIT_NAMES, split_by_ratio
from infodcl_dist.data.writer import seal, write_ids, write_split

# The k-th of n drawn with a density ~ (k/n)^(1/power − 1): as in rating data, items are more unequal than users.
USER_POWER, ITEM_POWER = 1.6, 2.2
SEED = 0


def generate(out: Path, *, users: int, items: int, pairs: int) -> None:
    """Makes the dataset folder `out` with P distinct pairs, split 8:1:1 by user.

    Raises:
        UserError: `out` exists.
    """
    made = power_law_pairs(users, items, pairs, np.random.default_rng(SEED))
    split = split_by_ratio(made.users, (8, 1, 1), SEED)
    with new_folder(out) as building:
        for side, count in (("users", users), ("items", items)):
            write_ids(building / f"{side}.parquet", pa.array(np.arange(count)))
        counts = {}
        for number, name in enumerate(SPLIT_NAMES):
            part = made.take(split == number)
            write_split(building, name, part.columns, users=users, items=items)
            counts[name] = len(part)
        seal(
            building,
            name=out.name,
            users=users,
            items=items,
            counts=counts,
            removed={},
            source={"generated": "power law"},
            settings={"seed": SEED, "user power": USER_POWER, "item power": ITEM_POWER},
        )


def power_law_pairs(users: int, items: int, pairs: int, generator: np.random.Generator) -> Pairs:
    """P pairs by (user, item), none twice; users and items drawn by the powers above."""
    keys = np.empty(0, np.int64)
    while len(keys) < pairs:
        count = int((pairs - len(keys)) * 1.3) + 1000
        user = (users * generator.random(count) ** USER_POWER).astype(np.int64)
        item = (items * generator.random(count) ** ITEM_POWER).astype(np.int64)
        keys = np.unique(np.concatenate([keys, user * items + item]))
    keys = np.sort(generator.permutation(keys)[:pairs])
    return Pairs({"user": (keys // items).astype(np.int32), "item": (keys % items).astype(np.int32)})
