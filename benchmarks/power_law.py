"""Random graphs with power-law degrees for the benchmarks: in memory, or as a dataset folder of any size."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import torch

from infodcl_dist.base.array_file import ArrayFile, create_array
from infodcl_dist.base.files import sha256_of_file
from infodcl_dist.bench.generated import ITEM_POWER, USER_POWER, power_law_pairs
from infodcl_dist.data.dataset import BY_ITEM, FORMAT_VERSION, INDICES, MANIFEST, OFFSETS, ROWS, Manifest
from infodcl_dist.data.rows import compress, map_rows, offsets_of, transpose
from infodcl_dist.graph.bipartite import Rows, tensor_rows

BLOCK_PAIRS = 10_000_000  # drawn at once


def random_graph(users: int, items: int, pairs: int, seed: int) -> tuple[Rows, Rows]:
    """Distinct pairs: a user drawn with a density ~ rank^-0.375, an item with ~ rank^-0.545."""
    generator = np.random.default_rng(seed)
    made = power_law_pairs(users, items, pairs, generator)
    rows = compress(made.users, made.items, users)
    return tensor_rows(rows), tensor_rows(transpose(rows, items))


def write_dataset(folder: Path, users: int, items: int, pairs: int, seed: int) -> None:
    """A dataset folder with training pairs alone, and of these the compressed rows alone, in bounded memory.

    Degrees of users follow the density of `random_graph`, items are drawn from its density, without repeats for a user;
    ids are shuffled, so that popular rows lie nowhere together, as in real data. Blocks of users are drawn by threads.
    """
    generator = np.random.default_rng(seed)
    item_ids = generator.permutation(items).astype(np.int32)
    bounds = np.floor(pairs * (np.arange(users + 1) / users) ** (1 / USER_POWER))
    offsets = offsets_of(generator.permutation(np.diff(bounds).astype(np.int64)), pairs)
    if pairs // 2 > users * items or int(np.diff(offsets).max()) > items // 2:
        raise SystemExit(f"{pairs:,} pairs are too many for {users:,} users and {items:,} items")
    by_user = folder / ROWS / "train"
    by_user.mkdir(parents=True)
    indices = create_array(by_user / INDICES, (pairs,), np.int32)
    blocks = max(1, pairs // BLOCK_PAIRS)

    def draw(block: int) -> tuple[int, np.ndarray]:
        part = offsets[users * block // blocks : users * (block + 1) // blocks + 1]
        drawn = np.empty(part[-1] - part[0], np.int32)
        _draw_rows(part, item_ids, seed + block, drawn)
        return int(part[0]), drawn

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for start, drawn in threads.map(draw, range(blocks)):
            indices.write(start, drawn)
    _save(by_user / OFFSETS, offsets)
    other = transpose(map_rows(by_user / OFFSETS, by_user / INDICES), items)
    by_item = folder / ROWS / BY_ITEM
    by_item.mkdir()
    _save(by_item / OFFSETS, other.offsets)
    _save(by_item / INDICES, other.indices)
    _write_manifest(folder, users, items, pairs)


@numba.njit(cache=True, nogil=True)
def _draw_rows(offsets, item_ids, seed, drawn):  # type: ignore[no-untyped-def]
    """Each row's items, ascending and none twice: what is drawn again is replaced until none is."""
    np.random.seed(seed)
    for row in range(len(offsets) - 1):
        mine = drawn[offsets[row] - offsets[0] : offsets[row + 1] - offsets[0]]
        found = 0
        while found < len(mine):
            for place in range(found, len(mine)):
                mine[place] = item_ids[int(len(item_ids) * np.random.random() ** ITEM_POWER)]
            mine.sort()
            found = 0
            for item in mine:
                if found == 0 or item != mine[found - 1]:
                    mine[found] = item
                    found += 1


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
