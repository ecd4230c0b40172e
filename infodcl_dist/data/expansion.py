"""A data set grown K×: the Kronecker product of its pairs with a random K × B matrix of copies.

M users, N items, P pairs of the original; K copies of its users, B ≤ K of its items.

User u's copy t has all items of u, each in the copy ⌊t B / K⌋ of the items or, with probability `mixing`, in a copy
drawn at random. So a user's copy has its origin's degree, an item's copies K / B times theirs give or take chance; no
pair comes twice, since a user's copy meets every item in one copy alone; a pair's copies stay in its split. What there
is to learn: who liked what in the original, within each copy, and that copies belong together.
(After the idea of Belletti et al., "Scalable Realistic Recommendation Datasets through Fractal Expansions", 2019, with
a factor near the identity in place of a shrunken data set, which keeps degrees as they are.)
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from infodcl_dist.base.console import progress
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import new_file, new_folder
from infodcl_dist.base.random import integers, key_for, permuted, uniform
from infodcl_dist.data.dataset import Dataset, Manifest
from infodcl_dist.data.splits import SPLIT_NAMES
from infodcl_dist.data.writer import SplitWriter, seal, write_ids

CHUNK_PAIRS = 1 << 22  # assumption: some hundred megabytes of temporary arrays
LARGEST = 2**31 - 1  # indices are int32


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How much a data set grows."""

    times: int
    """K, copies of the users, and so of the pairs."""
    item_times: int
    """B, copies of the items, at most K; fewer make items more popular."""
    mixing: float = 0.2
    """Share of pairs that leave their copy."""
    seed: int = 0
    """Of who leaves, where to, and of the order of raw interactions."""


def grow(dataset: Dataset, growth: Growth, out: Path) -> Manifest:
    """Makes the dataset folder `out` from an open one; item features and graphs are not carried along.

    Ids are the original's with the copy behind a dot: `B00017.4`. Memory is bounded by the original and the numbers of
    users and items, not by the pairs, but for the train split's rows of items, which are sorted at the end.

    Raises:
        UserError: more users, items or copies than there can be, or `out` cannot be made.
    """
    users, items = _sizes(dataset, growth)
    with new_folder(out) as building:
        write_ids(building / "users.parquet", _ids(dataset.user_ids(), growth.times))
        write_ids(building / "items.parquet", _ids(dataset.item_ids(), growth.item_times))
        counts = {split: dataset.manifest.counts[split] * growth.times for split in SPLIT_NAMES}
        for split in SPLIT_NAMES:
            writer = SplitWriter(building, split, pairs=counts[split], users=users, items=items)
            for columns in _copied_pairs(dataset, split, growth):
                writer.add(columns)
            writer.finish()
        return seal(
            building,
            name=out.resolve().name,
            users=users,
            items=items,
            counts=counts,
            removed={},
            source={"path": str(dataset.path), "checksum": dataset.checksum},
            settings=asdict(growth),
        )


def write_raw(dataset: Dataset, growth: Growth, out: Path) -> int:
    """Writes all pairs of all splits, in a random order, to a Parquet file of string ids: input for `prepare`.

    Returns:
        The number of pairs.

    Raises:
        UserError: as `grow`.
    """
    _sizes(dataset, growth)
    pairs = [dataset.items_of_users(split).pairs() for split in SPLIT_NAMES]
    users, items = (np.concatenate(column) for column in zip(*pairs, strict=True))
    starts = np.cumsum([0, *(len(of_split) for of_split, _ in pairs)])
    user_ids, item_ids = (ids.cast(pa.string()) for ids in (dataset.user_ids(), dataset.item_ids()))
    total = len(users) * growth.times
    with new_file(out) as building:
        writer = None
        for rows in progress(_ranges(total), "interactions", -(-total // CHUNK_PAIRS)):
            drawn = permuted(key_for(growth.seed, "order of raw interactions"), rows, total).numpy()
            copy, pair = np.divmod(drawn, len(users))
            item_copy = np.empty_like(copy)
            for number, split in enumerate(SPLIT_NAMES):
                own, size = (pair >= starts[number]) & (pair < starts[number + 1]), len(pairs[number][0])
                item_copy[own] = _item_copies(growth, split, copy[own], pair[own] - starts[number], size)
            table = pa.table(
                {
                    "user_id": _copied_ids(user_ids, users[pair], copy),
                    "item_id": _copied_ids(item_ids, items[pair], item_copy),
                }
            )
            writer = writer or pq.ParquetWriter(building, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return total


def _sizes(dataset: Dataset, growth: Growth) -> tuple[int, int]:
    """Users and items of the grown data set."""
    if not 1 <= growth.item_times <= growth.times:
        raise UserError(f"--item-times {growth.item_times}: write a number from 1 to --times, {growth.times}")
    sizes = dataset.users * growth.times, dataset.items * growth.item_times
    if max(sizes) > LARGEST:
        raise UserError(f"--times {growth.times}: makes {max(sizes):,} users or items, and {LARGEST:,} is the most")
    return sizes


def _ids(ids: pa.Array, copies: int) -> pa.ChunkedArray:
    texts = ids.cast(pa.string())
    return pa.chunked_array([pc.binary_join_element_wise(texts, str(copy), ".") for copy in range(copies)])


def _copied_ids(texts: pa.Array, codes: np.ndarray, copies: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(texts.take(pa.array(codes)), pa.array(copies).cast(pa.string()), ".")


def _copied_pairs(dataset: Dataset, split: str, growth: Growth) -> Iterator[dict[str, np.ndarray]]:
    """The grown split's pairs by (user, item), some copies at a time."""
    users, items = dataset.items_of_users(split).pairs()
    item_count = dataset.items * growth.item_times
    at_once = max(CHUNK_PAIRS // max(len(users), 1), 1)
    starts = range(0, growth.times, at_once)
    for start in progress(starts, f"{split} pairs", len(starts)):
        copies = np.arange(start, min(start + at_once, growth.times))
        copy, pair = (grid.ravel() for grid in np.meshgrid(copies, np.arange(len(users)), indexing="ij"))
        item = items[pair] + dataset.items * _item_copies(growth, split, copy, pair, len(users))
        user = users[pair] + dataset.users * copy
        keys = np.sort(user * item_count + item)
        yield {"user": (keys // item_count).astype(np.int32), "item": (keys % item_count).astype(np.int32)}


def _item_copies(growth: Growth, split: str, copy: np.ndarray, pair: np.ndarray, pairs: int) -> np.ndarray:
    """Which copy of its item each pair's copy has, int64 [C]: a function of the seed, the pair and the copy."""
    counters = torch.from_numpy(copy * pairs + pair)
    drawn = integers(key_for(growth.seed, "copy of an item", split), counters, growth.item_times)
    leaves = uniform(key_for(growth.seed, "leaves its copy", split), counters) < growth.mixing
    own = torch.from_numpy(copy * growth.item_times // growth.times)
    return torch.where(leaves, drawn, own).numpy()


def _ranges(total: int) -> Iterator[Tensor]:
    for start in range(0, total, CHUNK_PAIRS):
        yield torch.arange(start, min(start + CHUNK_PAIRS, total))
