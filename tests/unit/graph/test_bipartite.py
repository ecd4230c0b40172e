"""The graph in compressed rows is the matrix it was made from, from both sides."""

import numpy as np
import pytest
import torch
from graphs import build_bipartite

from infodcl_dist.graph import bipartite
from infodcl_dist.graph.bipartite import Bipartite, Rows


def graph_of(dense: np.ndarray) -> Bipartite:
    users, items = np.nonzero(dense)  # sorted by (user, item)
    return build_bipartite(users.astype(np.int32), items.astype(np.int32), *dense.shape)


def dense_of(rows: Rows, columns: int) -> np.ndarray:
    dense = np.zeros((len(rows.offsets) - 1, columns), dtype=bool)
    for row in range(len(dense)):
        neighbours = rows.indices[rows.offsets[row] : rows.offsets[row + 1]].tolist()
        assert neighbours == sorted(set(neighbours))
        dense[row, neighbours] = True
    return dense


@pytest.mark.parametrize("data", ["small", "office"])
def test_both_sides_are_the_matrix(data: str, request: pytest.FixtureRequest) -> None:
    dense = request.getfixturevalue(data)
    graph = graph_of(dense)
    assert (graph.users, graph.items) == dense.shape
    np.testing.assert_array_equal(dense_of(graph.items_of_user, graph.items), dense)
    np.testing.assert_array_equal(dense_of(graph.users_of_item, graph.users), dense.T)
    np.testing.assert_array_equal(graph.items_of_user.degrees.numpy(), dense.sum(axis=1))
    np.testing.assert_array_equal(graph.users_of_item.degrees.numpy(), dense.sum(axis=0))


def test_lonely_nodes_keep_their_rows(small: np.ndarray) -> None:
    graph = graph_of(small)
    assert graph.items_of_user.degrees[[0, 5, 12]].tolist() == [0, 0, 0]
    assert graph.users_of_item.degrees[[0, 4, 8]].tolist() == [0, 0, 0]


def test_no_edge_at_all() -> None:
    graph = graph_of(np.zeros((3, 2), dtype=bool))
    assert (graph.users, graph.items) == (3, 2)
    assert graph.items_of_user.offsets.tolist() == [0, 0, 0, 0]
    assert graph.users_of_item.indices.shape == (0,)


def test_offsets_and_indices_have_one_type(small: np.ndarray) -> None:
    """The embedding bag demands it; int32 as long as it counts the edges."""
    graph = graph_of(small)
    for rows in (graph.items_of_user, graph.users_of_item):
        assert rows.offsets.dtype == rows.indices.dtype == torch.int32


def test_moving_keeps_everything(small: np.ndarray) -> None:
    graph = graph_of(small)
    moved = graph.to(torch.device("cpu"))
    assert isinstance(moved, bipartite.Bipartite)
    assert torch.equal(moved.items_of_user.indices, graph.items_of_user.indices)
    assert torch.equal(moved.users_of_item.offsets, graph.users_of_item.offsets)


def test_neighbours_of_some_rows() -> None:
    dense = np.random.default_rng(1).random((9, 6)) < 0.4
    dense[[0, 4, 8]] = False
    rows = build_bipartite(*np.nonzero(dense), 9, 6).items_of_user
    for wanted in ([3], [0, 1, 4, 7, 8], [8], list(range(9)), []):
        position, item = bipartite.neighbours(rows, torch.tensor(wanted, dtype=torch.int64))
        expected = [(place, int(item)) for place, row in enumerate(wanted) for item in np.flatnonzero(dense[row])]
        assert list(zip(position.tolist(), item.tolist(), strict=True)) == expected
