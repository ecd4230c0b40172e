"""The dataset folder as it is made: ids, parts, and last the manifest that seals them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infodcl_dist.base.files import sha256_of_file, write_json
from infodcl_dist.data.dataset import (
    BY_ITEM,
    FORMAT_VERSION,
    INDICES,
    ITEM_GRAPHS,
    MANIFEST,
    OF_ATTRIBUTES,
    OF_ITEMS,
    OFFSETS,
    ROWS,
    USER_GRAPH,
    Feature,
    Graph,
    Manifest,
)
from infodcl_dist.data.rows import CompressedRows, index_type, map_rows, offsets_of, transpose

PART_ROWS = 1 << 24  # assumption: parts of some tens of megabytes, a unit that readers can share out


def write_ids(file: Path, ids: pa.Array | pa.ChunkedArray) -> None:
    """Writes `users.parquet` or `items.parquet`: `index` int32 from 0, `id` the user's own."""
    pq.write_table(pa.table({"index": np.arange(len(ids), dtype=np.int32), "id": ids}), file)


class SplitWriter:
    """Writes a split's pairs as they come: Parquet parts for whoever reads tables, compressed rows to be mapped.

    Args:
        folder: of the dataset.
        split: `train`, `valid` or `test`; its folder is made.
        pairs: P, how many will come.
        users: M.
        items: N.
    """

    def __init__(self, folder: Path, split: str, *, pairs: int, users: int, items: int) -> None:
        self._split, self._rows, self._by_item = folder / split, folder / ROWS / split, folder / ROWS / BY_ITEM
        for made in (self._split, self._rows):
            made.mkdir(parents=True)
        self._pairs, self._items = pairs, items
        self._degrees = np.zeros(users, np.int64)
        self._parts = 0
        self._indices = (self._rows / INDICES).open("wb")
        kind = np.dtype(index_type(pairs))
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (pairs,)}
        np.lib.format.write_array_header_1_0(self._indices, header)

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Writes a part: `user` and `item` int32, sorted by (user, item) and behind all before, and their like."""
        pq.write_table(pa.table(dict(columns)), self._split / f"part-{self._parts:04}.parquet")
        self._parts += 1
        self._degrees += np.bincount(columns["user"], minlength=len(self._degrees))
        columns["item"].astype(index_type(self._pairs), copy=False).tofile(self._indices)

    def finish(self) -> None:
        """Completes the rows of users and, of train, writes those of items."""
        self._indices.close()
        np.save(self._rows / OFFSETS, offsets_of(self._degrees, self._pairs))
        if self._split.name == "train":
            write_rows(self._by_item, transpose(map_rows(self._rows / OFFSETS, self._rows / INDICES), self._items))


def write_rows(folder: Path, rows: CompressedRows) -> None:
    """Writes compressed rows into a new folder."""
    folder.mkdir(parents=True)
    np.save(folder / OFFSETS, rows.offsets)
    np.save(folder / INDICES, rows.indices)


def write_item_graph(folder: Path, name: str, of_items: CompressedRows, attributes: pa.Table) -> Graph:
    """Writes a graph of items from both sides, and what each attribute is; returns the manifest's account of it."""
    place = folder / ITEM_GRAPHS / name
    write_rows(place / OF_ITEMS, of_items)
    write_rows(place / OF_ATTRIBUTES, transpose(of_items, attributes.num_rows))
    pq.write_table(attributes, place / "attributes.parquet")
    return Graph(attributes=attributes.num_rows, pairs=of_items.pair_count)


def write_user_graph(folder: Path, rows: CompressedRows) -> Graph:
    """Writes a graph of users; returns the manifest's account of it."""
    write_rows(folder / USER_GRAPH, rows)
    return Graph(pairs=rows.pair_count)


def write_split(folder: Path, split: str, columns: Mapping[str, np.ndarray], *, users: int, items: int) -> None:
    """Writes one split's columns [P], sorted by (user, item), into a dataset's folder; see `SplitWriter`."""
    pairs = len(columns["user"])
    writer = SplitWriter(folder, split, pairs=pairs, users=users, items=items)
    for start in range(0, max(pairs, 1), PART_ROWS):
        writer.add({name: column[start : start + PART_ROWS] for name, column in columns.items()})
    writer.finish()


def seal(
    folder: Path,
    *,
    name: str,
    users: int,
    items: int,
    counts: dict[str, int],
    removed: dict[str, int],
    source: dict[str, Any],
    settings: dict[str, Any],
    missing_rows: Mapping[str, int] | None = None,
    item_graphs: Mapping[str, Graph] | None = None,
    user_graph: Graph | None = None,
) -> Manifest:
    """Writes the manifest of a folder whose other files are all there, and returns it.

    Args:
        folder: holds `users.parquet`, `items.parquet`, the splits' folders, and perhaps `features/NAME.npy`.
        name: of the data set.
        users: M.
        items: N.
        counts: pairs by split.
        removed: pairs by the reason they were left out.
        source: where the data come from.
        settings: how they were prepared.
        missing_rows: items without a row, by feature; none of a feature that is not named.
        item_graphs: what `write_item_graph` returned, by name.
        user_graph: what `write_user_graph` returned.
    """
    features = {}
    for file in sorted((folder / "features").glob("*.npy")):
        matrix = np.load(file, mmap_mode="r")
        features[file.stem] = Feature(
            file=f"features/{file.name}",
            width=matrix.shape[1],
            dtype=matrix.dtype.name,
            missing=(missing_rows or {}).get(file.stem, 0),
        )
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        users=users,
        items=items,
        counts=counts,
        removed=removed,
        source=source,
        settings=settings,
        features=features,
        item_graphs=dict(item_graphs or {}),
        user_graph=user_graph,
        files={file.relative_to(folder).as_posix(): sha256_of_file(file) for file in files},
    )
    write_json(folder / MANIFEST, manifest.model_dump())
    return manifest
