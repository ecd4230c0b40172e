"""The dataset folder as it is made: ids, parts, and last the manifest that seals them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infodcl_dist.base.files import sha256_of_file, write_json
from infodcl_dist.data.dataset import FORMAT_VERSION, MANIFEST, Feature, Manifest

PART_ROWS = 1 << 24  # assumption: parts of some tens of megabytes, a unit that readers can share out


def write_ids(file: Path, ids: pa.Array) -> None:
    """Writes `users.parquet` or `items.parquet`: `index` int32 from 0, `id` the user's own."""
    pq.write_table(pa.table({"index": np.arange(len(ids), dtype=np.int32), "id": ids}), file)


def write_split(folder: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes one split's columns [P], sorted by (user, item), as `part-0000.parquet` and on."""
    folder.mkdir()
    table = pa.table(dict(columns))
    for part, start in enumerate(range(0, max(table.num_rows, 1), PART_ROWS)):
        pq.write_table(table.slice(start, PART_ROWS), folder / f"part-{part:04}.parquet")


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
    """
    features = {}
    for file in sorted((folder / "features").glob("*.npy")):
        matrix = np.load(file, mmap_mode="r")
        features[file.stem] = Feature(file=f"features/{file.name}", width=matrix.shape[1], dtype=matrix.dtype.name)
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
        files={file.relative_to(folder).as_posix(): sha256_of_file(file) for file in files},
    )
    write_json(folder / MANIFEST, manifest.model_dump())
    return manifest
