"""Users that a data set has not, given by their items.

H pairs, n users.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.id_list import indices_of
from infodcl_dist.data.ids import encode
from infodcl_dist.data.readers import read_pairs
from infodcl_dist.data.rows import CompressedRows, compress


@dataclass(frozen=True)
class Histories:
    """What is known of some users: which of the data set's items they have.

    Attributes:
        user_ids: own ids of the users with at least one known item, int64 or string [n], ascending.
        items: their known items, n rows.
        skipped: own ids of the users without any.
        unknown_pairs, unknown_items: what was left out, since the data set has not the item.
    """

    user_ids: pa.Array
    items: CompressedRows
    skipped: pa.Array
    unknown_pairs: int
    unknown_items: int


def read_histories(file: Path, item_ids: pa.Array) -> Histories:
    """Reads pairs of a user and an item, in any of the formats of `prepare`; ratings and times are not read.

    Args:
        file: the file.
        item_ids: the data set's own ids of items, int64 or string [N].

    Raises:
        UserError: the file cannot be read, or no item of it is known.
    """
    table = read_pairs(file)
    user_ids, (users,) = encode([table["user"].combine_chunks()])
    listed, (codes,) = encode([table["item"].combine_chunks()])
    found = indices_of(listed, item_ids)
    items = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)[codes]
    is_known = items >= 0
    if not is_known.any():
        raise UserError(f"{file}: none of its {len(listed):,} items is in the data set; give items by their own ids")
    keys = np.unique(users[is_known].astype(np.int64) * len(item_ids) + items[is_known])
    kept, rows = np.unique(keys // len(item_ids), return_inverse=True)
    skipped = np.setdiff1d(np.arange(len(user_ids)), kept)
    return Histories(
        user_ids=user_ids.take(pa.array(kept)),
        items=compress(rows.astype(np.int32), (keys % len(item_ids)).astype(np.int32), len(kept)),
        skipped=user_ids.take(pa.array(skipped)),
        unknown_pairs=int((~is_known).sum()),
        unknown_items=found.null_count,
    )
