"""Graphs that tests make of pairs."""

import numpy as np

from infodcl_dist.data.rows import compress, transpose
from infodcl_dist.graph.bipartite import Bipartite, tensor_rows


def build_bipartite(users: np.ndarray, items: np.ndarray, user_count: int, item_count: int) -> Bipartite:
    """The graph of E pairs `users`, `items` (integers [E]), sorted by (user, item) and distinct."""
    rows = compress(users, items, user_count)
    return Bipartite(tensor_rows(rows), tensor_rows(transpose(rows, item_count)))
