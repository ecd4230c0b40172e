"""Final embeddings as plain arrays."""

from pathlib import Path

import numpy as np

from infodcl_dist.base.console import is_rank_zero, progress
from infodcl_dist.inference.embeddings import Embeddings

TILE_ROWS = 262_144


def export_embeddings(embeddings: Embeddings, folder: Path) -> None:
    """Writes `users.npy` [M, D] and `items.npy` [N, D], float32, in row order of the dataset's users and items.

    All ranks call it; tiles of rows are gathered and rank 0 writes them into memory-mapped files.
    """
    for name, rows, tile in (
        ("users", embeddings.user_count, embeddings.user_tile),
        ("items", embeddings.item_count, embeddings.item_tile),
    ):
        target = None
        if is_rank_zero():
            shape = (rows, embeddings.width)
            target = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=shape)
        for start in progress(range(0, rows, TILE_ROWS), f"export {name}"):
            values = tile(start, min(start + TILE_ROWS, rows))
            if target is not None:
                target[start : start + TILE_ROWS] = values.float().cpu().numpy()
        if target is not None:
            target.flush()
