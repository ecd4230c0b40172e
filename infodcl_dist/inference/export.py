"""Final embeddings as plain arrays, or as Parquet."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from infodcl_dist.base.array_file import create_array
from infodcl_dist.base.console import is_rank_zero, progress
from infodcl_dist.inference.embeddings import Embeddings

TILE_ROWS = 262_144


def export_embeddings(embeddings: Embeddings, folder: Path) -> None:
    """Writes `users.npy` [M, D] and `items.npy` [N, D], float32, in row order of the dataset's users and items.

    All ranks call it; tiles of rows are gathered and rank 0 writes them.

    Raises:
        UserError: a file cannot be written, on rank 0.
    """
    for name, rows, tile in _sides(embeddings):
        target = create_array(folder / f"{name}.npy", (rows, embeddings.width)) if is_rank_zero() else None
        for start, values in tiles(rows, tile, f"export {name}"):
            if target is not None:
                target.write(start, values)


def export_parquet(embeddings: Embeddings, folder: Path, ids: dict[str, pa.Array]) -> None:
    """Writes `users.parquet` and `items.parquet`: columns `index`, `id`, `embedding` (a list of D float32).

    All ranks call it; a tile of rows becomes a row group, which rank 0 writes.

    Args:
        embeddings: what is written.
        folder: an existing folder.
        ids: own ids of `users` [M] and `items` [N].
    """
    for name, rows, tile in _sides(embeddings):
        embedding = pa.list_(pa.float32(), embeddings.width)
        schema = pa.schema([("index", pa.int64()), ("id", ids[name].type), ("embedding", embedding)])
        writer = pq.ParquetWriter(folder / f"{name}.parquet", schema) if is_rank_zero() else None
        for start, values in tiles(rows, tile, f"export {name}"):
            if writer is not None:
                lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), embeddings.width)
                index = pa.array(np.arange(start, start + len(values)))
                table = pa.table([index, ids[name].slice(start, len(values)), lists], schema=schema)
                writer.write_table(table, row_group_size=TILE_ROWS)
        if writer is not None:
            writer.close()


def tiles(rows: int, tile: Callable[[int, int], Tensor], description: str) -> Iterator[tuple[int, np.ndarray]]:
    """First row and values float32 of tile after tile. A collective: all ranks iterate to the end."""
    for start in progress(range(0, rows, TILE_ROWS), description):
        yield start, tile(start, min(start + TILE_ROWS, rows)).float().cpu().numpy()


def _sides(embeddings: Embeddings) -> list[tuple[str, int, Callable[[int, int], Tensor]]]:
    return [
        ("users", embeddings.user_count, embeddings.user_tile),
        ("items", embeddings.item_count, embeddings.item_tile),
    ]
