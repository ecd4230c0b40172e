"""Random graphs with power-law degrees for the benchmarks: in memory, or as a dataset folder of any size."""

import json
from pathlib import Path

import numpy as np

from infodcl_dist.base.array_file import ArrayFile, create_array
from infodcl_dist.base.files import sha256_of_file
from infodcl_dist.data.dataset import BY_ITEM, FORMAT_VERSION, INDICES, MANIFEST, OFFSETS, ROWS, Manifest
from infodcl_dist.data.rows import compress, map_rows, offsets_of, transpose
from infodcl_dist.graph.bipartite import Rows, tensor_rows

BLOCK_PAIRS = 10_000_000  # drawn at once: about 1 GB while they are sorted


def random_graph(users: int, items: int, pairs: int, seed: int) -> tuple[Rows, Rows]:
    """Distinct pairs: a user drawn with a density ~ rank^-0.375, an item with ~ rank^-0.545."""
    generator = np.random.default_rng(seed)
    rows = compress(*random_pairs(users, items, pairs, generator), users)
    return tensor_rows(rows), tensor_rows(transpose(rows, items))


def random_pairs(users: int, items: int, pairs: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of such pairs, int32 [P] each, by (user, item)."""
    keys = np.empty(0, np.int64)
    while len(keys) < pairs:
        count = int((pairs - len(keys)) * 1.3) + 1000
        user = (users * generator.random(count) ** 1.6).astype(np.int64)
        item = (items * generator.random(count) ** 2.2).astype(np.int64)
        keys = np.unique(np.concatenate([keys, user * items + item]))
    keys = np.sort(generator.permutation(keys)[:pairs])
    return (keys // items).astype(np.int32), (keys % items).astype(np.int32)


def write_dataset(folder: Path, users: int, items: int, pairs: int, seed: int) -> None:
    """A dataset folder with training pairs alone, and of these the compressed rows alone, in bounded memory.

    Users are drawn in blocks, each with the degrees of `random_graph`; ids are shuffled, so that popular rows lie
    nowhere together, as in real data.
    """
    generator = np.random.default_rng(seed)
    blocks = max(1, pairs // BLOCK_PAIRS)
    item_ids = generator.permutation(items).astype(np.int32)
    by_user = folder / ROWS / "train"
    by_user.mkdir(parents=True)
    indices = create_array(by_user / INDICES, (pairs,), np.int32)
    degrees, written = [], 0
    for block in range(blocks):
        count = users * (block + 1) // blocks - users * block // blocks
        share = pairs * (block + 1) // blocks - pairs * block // blocks
        user, item = random_pairs(count, items, share, generator)
        user = generator.permutation(count).astype(np.int64)[user]
        keys = np.sort(user * items + item_ids[item])
        indices.write(written, (keys % items).astype(np.int32))
        degrees.append(np.bincount(keys // items, minlength=count))
        written += share
    _save(by_user / OFFSETS, offsets_of(np.concatenate(degrees), pairs))
    other = transpose(map_rows(by_user / OFFSETS, by_user / INDICES), items)
    by_item = folder / ROWS / BY_ITEM
    by_item.mkdir()
    _save(by_item / OFFSETS, other.offsets)
    _save(by_item / INDICES, other.indices)
    _write_manifest(folder, users, items, pairs)


def write_normal(path: Path, rows: int, columns: int, seed: int) -> ArrayFile:
    """A float32 matrix of normal values."""
    made = create_array(path, (rows, columns))
    generator = np.random.default_rng(seed)
    for start in range(0, rows, 2**19):
        count = min(2**19, rows - start)
        made.write(start, generator.standard_normal((count, columns), np.float32))
    return made


def _save(path: Path, values: np.ndarray) -> None:
    create_array(path, values.shape, values.dtype.type).write(0, values)


def _write_manifest(folder: Path, users: int, items: int, pairs: int) -> None:
    files = sorted(file.relative_to(folder) for file in folder.rglob("*.npy"))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=folder.name,
        users=users,
        items=items,
        counts={"train": pairs, "valid": 0, "test": 0},
        removed={},
        source={},
        settings={},
        features={},
        files={str(file): sha256_of_file(folder / file) for file in files},
    )
    (folder / MANIFEST).write_text(json.dumps(manifest.model_dump()), encoding="utf-8")
