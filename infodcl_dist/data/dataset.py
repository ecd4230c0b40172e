"""The dataset folder as every later step sees it: a manifest, interactions a split, features, the user's own ids.

Legend: M users, N items, P pairs of a split, D width of a feature.
"""

import hashlib
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import read_json, sha256_of_file
from infodcl_dist.data.pairs import first_shared, pair_keys
from infodcl_dist.data.splits import SPLIT_NAMES

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
AGAIN = "run `infodcl-dist prepare` again"


class Feature(BaseModel):
    """A feature matrix of the folder: its file, relative, and its shape's second half."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    width: int
    dtype: str


class Manifest(BaseModel):
    """What a dataset folder holds, and the SHA-256 of each of its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    name: str
    users: NonNegativeInt
    items: NonNegativeInt
    counts: dict[str, int]  # pairs by split
    removed: dict[str, int]  # pairs by the reason they were left out
    source: dict[str, Any]
    settings: dict[str, Any]
    features: dict[str, Feature]
    files: dict[str, str]  # relative path to SHA-256


@dataclass(frozen=True)
class Interactions:
    """The pairs of one split, sorted by (user, item), none twice."""

    users: np.ndarray  # int32 [P]
    items: np.ndarray  # int32 [P]

    def __len__(self) -> int:
        return len(self.users)


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

    def interactions(self, split: str) -> Interactions:
        """The pairs of `train`, `valid` or `test`.

        Raises:
            UserError: the parts are not what the manifest says: another count, an index out of range, a wrong order.
        """
        parts = sorted(file for file in self.manifest.files if file.startswith(f"{split}/"))
        if not parts:
            raise UserError(f"{self.path}: no split {split!r}; there are {', '.join(SPLIT_NAMES)}")
        tables = [_read_parquet(self.path / part, ["user", "item"]) for part in parts]
        users, items = (pa.concat_tables(tables)[name].to_numpy() for name in ("user", "item"))
        if len(users) != self.manifest.counts[split]:
            raise UserError(f"{self.path / split}: {len(users)} pairs, the manifest counts others; {AGAIN}")
        for codes, size in ((users, self.users), (items, self.items)):
            if codes.dtype != np.int32 or (len(codes) and not 0 <= codes.min() <= codes.max() < size):
                raise UserError(f"{self.path / split}: an index is not int32 in 0…{size - 1}; {AGAIN}")
        if not (np.diff(pair_keys(users, items, self.items)) > 0).all():
            raise UserError(f"{self.path / split}: pairs are not sorted by user and item; {AGAIN}")
        return Interactions(users, items)

    def feature(self, name: str) -> np.ndarray:
        """A feature matrix, float [N, D], mapped from its file and read-only.

        Raises:
            UserError: there is none of that name, or its shape is not the manifest's.
        """
        if name not in self.manifest.features:
            there = ", ".join(sorted(self.manifest.features)) or "none"
            raise UserError(f"{self.path}: no item feature {name!r}; there are: {there}; prepare takes --item-features")
        feature = self.manifest.features[name]
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
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise UserError(f"{path}: no dataset folder (no {MANIFEST}); make it with `infodcl-dist prepare`")
    stored = read_json(path / MANIFEST)
    version = stored.get("format_version") if isinstance(stored, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path / MANIFEST}: format version {version}, this program reads {FORMAT_VERSION}; {AGAIN}")
    try:
        manifest = Manifest.model_validate(stored)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{path / MANIFEST}: key {key}: {error.errors()[0]['msg']}; {AGAIN}") from error
    for file, checksum in manifest.files.items():
        if not (path / file).is_file():
            raise UserError(f"{path / file}: is missing; {AGAIN}")
        if verify and sha256_of_file(path / file) != checksum:
            raise UserError(f"{path / file}: was changed since it was made; {AGAIN}")
    return Dataset(path, manifest)


def check_no_leak(dataset: Dataset) -> None:
    """Refuses a dataset in which a pair stands in two of train, validation and test.

    (Graphs, similarities, metadata and the negatives' exclusion are all made from train's pairs.)

    Raises:
        UserError: names both splits and the pair, by the user's own ids.
    """
    splits = {split: dataset.interactions(split) for split in SPLIT_NAMES}
    keys = {split: pair_keys(pairs.users, pairs.items, dataset.items) for split, pairs in splits.items()}
    for known, split in combinations(SPLIT_NAMES, 2):
        shared = first_shared(keys[known], keys[split])
        if shared is not None:
            user = dataset.user_ids()[splits[split].users[shared]]
            item = dataset.item_ids()[splits[split].items[shared]]
            raise UserError(
                f"{dataset.path / split}: the pair (user {user}, item {item}) stands in {known} too; {AGAIN}"
            )


def check_negatives_exist(dataset: Dataset) -> None:
    """Refuses a dataset in which a user has every item in train, so that no negative could be drawn.

    Raises:
        UserError: names the user, by the user's own id.
    """
    degrees = np.bincount(dataset.interactions("train").users, minlength=dataset.users)
    user = int(degrees.argmax())
    if degrees[user] >= dataset.items:
        raise UserError(
            f"{dataset.path / 'train'}: user {dataset.user_ids()[user]} has all {dataset.items} items, "
            "so no negative can be drawn; prepare it without that user"
        )


def _read_parquet(file: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.ParquetFile(file).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0][:120]}); {AGAIN}") from error
