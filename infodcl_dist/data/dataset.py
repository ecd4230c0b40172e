"""The dataset folder as every later step sees it: a manifest, interactions a split, features, the user's own ids.

Legend: M users, N items, P pairs of a split, D width of a feature.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, field_validator

from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.files import read_json, sha256_of_file
from infodcl_dist.data.ids import within_text_limit
from infodcl_dist.data.pairs import BLOCK_PAIRS, first_shared, pair_keys
from infodcl_dist.data.rows import CompressedRows, StoredRows, first_unlike, map_rows, row_blocks, stored_rows
from infodcl_dist.data.splits import SPLIT_NAMES

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
# Compressed rows: of each split `ROWS/SPLIT`, of train's items `ROWS/BY_ITEM`. Not in the splits' own folders: whoever
# reads those as tables is to find Parquet alone.
ROWS, BY_ITEM = "rows", "train-by-item"
OFFSETS, INDICES = "offsets.npy", "indices.npy"
# Compressed rows of a graph of items, `ITEM_GRAPHS/NAME/OF_ITEMS` and the other side, and of users.
ITEM_GRAPHS, OF_ITEMS, OF_ATTRIBUTES, USER_GRAPH = "item-graphs", "of-items", "of-attributes", "user-graph"
AGAIN = "run `infodcl-dist prepare` again"


class Feature(BaseModel):
    """A feature matrix of the folder: its file, relative, and its shape's second half."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    width: int
    dtype: str
    missing: NonNegativeInt = 0  # items without a row: theirs is wholly NaN


class Graph(BaseModel):
    """A graph of the folder: items with so many attributes, or users with users (no attributes)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attributes: NonNegativeInt = 0
    pairs: NonNegativeInt


class Manifest(BaseModel):
    """What a dataset folder holds, and the SHA-256 of each of its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    name: str
    users: NonNegativeInt
    items: NonNegativeInt
    counts: dict[str, NonNegativeInt]  # pairs by split
    removed: dict[str, int]  # pairs by the reason they were left out
    source: dict[str, Any]
    settings: dict[str, Any]
    features: dict[str, Feature]
    item_graphs: dict[str, Graph] = {}
    user_graph: Graph | None = None
    files: dict[str, str]  # relative path to SHA-256

    @field_validator("counts")
    @classmethod
    def _of_every_split(cls, counts: dict[str, int]) -> dict[str, int]:
        if set(counts) != set(SPLIT_NAMES):
            raise ValueError(f"must be of {', '.join(SPLIT_NAMES)}")
        return counts


@dataclass(frozen=True)
class Dataset:
    """An open dataset folder. Nothing is read before it is asked for."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.manifest.name

    @property
    def users(self) -> int:
        """M, the number of users."""
        return self.manifest.users

    @property
    def items(self) -> int:
        """N, the number of items."""
        return self.manifest.items

    @property
    def checksum(self) -> str:
        """One SHA-256 over the checksums of all files: equal where the contents are."""
        lines = (f"{checksum}  {file}\n" for file, checksum in sorted(self.manifest.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def items_of_users(self, split: str) -> CompressedRows:
        """The pairs of `train`, `valid` or `test`, mapped: M rows of items.

        Raises:
            UserError: the arrays have not the manifest's sizes. (What stands in them `check_pairs` looks at.)
        """
        if split not in SPLIT_NAMES:
            raise UserError(f"{self.path}: no split {split!r}; there are {', '.join(SPLIT_NAMES)}")
        return self._rows(Path(ROWS) / split, self.users, self.manifest.counts[split])

    def users_of_items(self) -> CompressedRows:
        """The pairs of train from the other side, mapped: N rows of users. Raises as `items_of_users`."""
        return self._rows(Path(ROWS) / BY_ITEM, self.items, self.manifest.counts["train"])

    def stored_train(self) -> tuple[StoredRows, StoredRows]:
        """The pairs of train as files: M rows of items, and N rows of users."""
        by_user, by_item = (self.path / ROWS / name for name in ("train", BY_ITEM))
        return stored_rows(by_user / OFFSETS, by_user / INDICES), stored_rows(by_item / OFFSETS, by_item / INDICES)

    def item_graph(self, name: str) -> tuple[CompressedRows, CompressedRows]:
        """The attributes of items, N rows, and the items of attributes, mapped.

        Raises:
            UserError: there is none of that name, or its arrays have not the manifest's sizes.
        """
        if name not in self.manifest.item_graphs:
            there = ", ".join(sorted(self.manifest.item_graphs)) or "none"
            raise UserError(f"{self.path}: no item graph {name!r}; there are: {there}; prepare takes --item-graph")
        graph, folder = self.manifest.item_graphs[name], Path(ITEM_GRAPHS) / name
        of_items = self._rows(folder / OF_ITEMS, self.items, graph.pairs)
        return of_items, self._rows(folder / OF_ATTRIBUTES, graph.attributes, graph.pairs)

    def user_graph(self) -> CompressedRows:
        """The neighbours of users, M rows, mapped: if v is one of u's, u is one of v's.

        Raises:
            UserError: there is none, or its arrays have not the manifest's sizes.
        """
        if self.manifest.user_graph is None:
            raise UserError(f"{self.path}: no user graph; prepare takes --user-graph")
        return self._rows(Path(USER_GRAPH), self.users, self.manifest.user_graph.pairs)

    def _rows(self, relative: Path, count: int, pairs: int) -> CompressedRows:
        folder = self.path / relative
        with _reading(folder):
            rows = map_rows(folder / OFFSETS, folder / INDICES)
        if len(rows) != count or rows.offsets[-1] != pairs or rows.pair_count != pairs:
            raise UserError(f"{folder}: {rows.pair_count} pairs, the manifest counts others; {AGAIN}")
        return rows

    def feature(self, name: str) -> np.ndarray:
        """A feature matrix, float [N, D], mapped from its file and read-only; NaN throughout where an item has none.

        Raises:
            UserError: there is none of that name, or its shape is not the manifest's.
        """
        if name not in self.manifest.features:
            there = ", ".join(sorted(self.manifest.features)) or "none"
            raise UserError(f"{self.path}: no item feature {name!r}; there are: {there}; prepare takes --item-features")
        feature = self.manifest.features[name]
        with _reading(self.path / feature.file):
            matrix = np.load(self.path / feature.file, mmap_mode="r", allow_pickle=False)
        if matrix.shape != (self.items, feature.width):
            raise UserError(f"{self.path / feature.file}: shape {matrix.shape} is not the manifest's; {AGAIN}")
        return matrix

    def user_ids(self) -> pa.Array:
        """The user's own ids of users, int64 or string [M]."""
        return self._ids("users.parquet", self.users)

    def item_ids(self) -> pa.Array:
        """The user's own ids of items, int64 or string [N]."""
        return self._ids("items.parquet", self.items)

    def _ids(self, file: str, size: int) -> pa.Array:
        with within_text_limit(self.path / file):  # `synthesize` writes them in parts
            ids = _read_parquet(self.path / file, ["id"])["id"].combine_chunks()
        if len(ids) != size:
            raise UserError(f"{self.path / file}: {len(ids)} ids in place of {size}; {AGAIN}")
        return ids


def open_dataset(path: Path, *, verify: bool = True) -> Dataset:
    """Opens a dataset folder.

    Args:
        path: the folder.
        verify: whether each file's bytes are compared with the manifest's checksum; their presence always is.

    Raises:
        UserError: no such folder, a manifest that does not fit, a missing file or a changed one; names the file.
        Unavailable: the system does not let a file be read, here or when it is asked for.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for file, checksum in manifest.files.items():
        with _reading(path / file):
            if not (path / file).is_file():
                raise UserError(f"{path / file}: is missing; {AGAIN}")
            if verify and sha256_of_file(path / file) != checksum:
                raise UserError(f"{path / file}: was changed since it was made; {AGAIN}")
    return Dataset(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a dataset folder, whose other files need not be there.

    Raises:
        UserError: no such folder, or a manifest that does not fit.
    """
    if not os.path.isfile(path / MANIFEST):
        raise UserError(f"{path}: no dataset folder (no {MANIFEST}); make it with `infodcl-dist prepare`")
    stored = read_json(path / MANIFEST)
    version = stored.get("format_version") if isinstance(stored, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path / MANIFEST}: format version {version}, this program reads {FORMAT_VERSION}; {AGAIN}")
    try:
        return Manifest.model_validate(stored)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{path / MANIFEST}: key {key}: {error.errors()[0]['msg']}; {AGAIN}") from error


def check_pairs(dataset: Dataset) -> None:
    """Refuses a dataset in which a pair stands in two of train, validation and test, or that is not in order.

    Graphs, similarities, metadata and the negatives' exclusion are all made from train's pairs, by user or by item; so
    the pairs by item must be the same. Looks at blocks of users, so that memory stays small.

    Raises:
        UserError: names both splits and the pair, by the user's own ids; or the split that is not in order.
    """
    splits = {split: dataset.items_of_users(split) for split in SPLIT_NAMES}
    most = max(splits.values(), key=lambda rows: rows.pair_count).offsets
    for first, last in row_blocks(most, BLOCK_PAIRS):
        keys = {split: _keys(dataset, split, rows, first, last) for split, rows in splits.items()}
        for known, split in combinations(SPLIT_NAMES, 2):
            if (shared := first_shared(keys[known], keys[split])) is not None:
                raise _shared(dataset, known, split, int(keys[split][shared]))
    _check_by_item(dataset)


def _check_by_item(dataset: Dataset) -> None:
    """Refuses a dataset whose train pairs by item are not those by user, naming an item where they differ."""
    item = first_unlike(dataset.items_of_users("train"), dataset.users_of_items())
    if item is not None:
        place = dataset.path / ROWS / BY_ITEM
        raise UserError(f"{place}: the users of item {dataset.item_ids()[item]} are not those of train; {AGAIN}")


def _keys(dataset: Dataset, split: str, rows: CompressedRows, first: int, last: int) -> np.ndarray:
    """The pairs of some users as keys, see `pair_keys`, [P of the block]."""
    offsets = rows.offsets[first : last + 1].astype(np.int64)
    if (np.diff(offsets) < 0).any():
        raise UserError(f"{dataset.path / split}: the offsets of users do not ascend; {AGAIN}")
    items = rows.indices[offsets[0] : offsets[-1]]
    if len(items) and not 0 <= items.min() <= items.max() < dataset.items:
        raise UserError(f"{dataset.path / split}: an item's index is not in 0…{dataset.items - 1}; {AGAIN}")
    keys = pair_keys(np.repeat(np.arange(first, last), np.diff(offsets)), items, dataset.items)
    if not (np.diff(keys) > 0).all():
        raise UserError(f"{dataset.path / split}: a user's items are not sorted; {AGAIN}")
    return keys


def _shared(dataset: Dataset, known: str, split: str, key: int) -> UserError:
    user, item = divmod(key, dataset.items)
    named = f"user {dataset.user_ids()[user]}, item {dataset.item_ids()[item]}"
    return UserError(f"{dataset.path / split}: the pair ({named}) stands in {known} too; {AGAIN}")


def check_negatives_exist(dataset: Dataset) -> None:
    """Refuses a dataset in which a user has every item in train, so that no negative could be drawn.

    Raises:
        UserError: names the user, by the user's own id.
    """
    degrees = dataset.items_of_users("train").degrees
    user = int(degrees.argmax())
    if degrees[user] >= dataset.items:
        raise UserError(
            f"{dataset.path / 'train'}: user {dataset.user_ids()[user]} has all {dataset.items} items, "
            "so no negative can be drawn; prepare it without that user"
        )


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    """What the system refuses in the block is told as the fault of a file or folder: nothing of the data is wrong."""
    try:
        yield
    except OSError as error:
        file = place if error.filename is None else error.filename
        raise Unavailable(f"{file}: cannot be read ({error.strerror or error}); see that you may read it") from error


def _read_parquet(file: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.ParquetFile(file).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0][:120]}); {AGAIN}") from error
