"""Propagation against dense algebra and its autograd, and against SciPy on real pairs."""

import numpy as np
import pytest
import torch
from graphs import build_bipartite
from scipy import sparse
from torch import Tensor

from infodcl_dist.graph.bipartite import Bipartite
from infodcl_dist.graph.propagation import propagate

# float64 on both sides, sums of at most 20 terms in another order: some units of the last place, 2e-16 each.
EXACT = 1e-13


def graph_of(dense: np.ndarray) -> Bipartite:
    users, items = np.nonzero(dense)
    return build_bipartite(users, items, *dense.shape)


def normalized(dense: np.ndarray) -> np.ndarray:
    """The user-item block of D^-½ A D^-½, by its definition."""
    matrix = np.zeros(dense.shape)
    for user, item in np.argwhere(dense):
        matrix[user, item] = 1 / np.sqrt(dense[user].sum() * dense[:, item].sum())
    return matrix


def whole(dense: np.ndarray) -> Tensor:
    """The symmetric-normalised adjacency matrix of users and items, [M + N, M + N]."""
    block = normalized(dense)
    users, items = dense.shape
    square = np.zeros((users + items, users + items))
    square[:users, users:], square[users:, :users] = block, block.T
    return torch.from_numpy(square)


def mean_of_layers(adjacency: Tensor, nodes: Tensor, layers: int) -> Tensor:
    powers = [nodes]
    for _ in range(layers):
        powers.append(adjacency @ powers[-1])
    return torch.stack(powers).mean(dim=0)


def embeddings(dense: np.ndarray, columns: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(rows, columns, generator=generator, dtype=dtype) for rows in dense.shape)  # type: ignore[return-value]


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("columns", [1, 5])
def test_values_are_those_of_dense_algebra(small: np.ndarray, layers: int, columns: int) -> None:
    users, items = embeddings(small, columns)
    expected = mean_of_layers(whole(small), torch.cat([users, items]), layers)
    propagated = torch.cat(propagate(graph_of(small), users, items, layers))
    torch.testing.assert_close(propagated, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_gradients_are_those_of_dense_autograd(small: np.ndarray, layers: int) -> None:
    weights = torch.cat(embeddings(small, 4)).cos()
    gradients = []
    for name in ("dense", "sparse"):
        users, items = (matrix.requires_grad_() for matrix in embeddings(small, 4))
        if name == "dense":
            result = mean_of_layers(whole(small), torch.cat([users, items]), layers)
        else:
            result = torch.cat(propagate(graph_of(small), users, items, layers))
        # A loss that is not linear, so that gradients differ from row to row and column to column.
        (weights * result.sin()).sum().backward()
        gradients.append(torch.cat([users.grad, items.grad]))
    assert gradients[0].abs().min() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=EXACT)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_a_node_without_neighbours_keeps_its_own_layer_alone(small: np.ndarray, layers: int) -> None:
    users, items = embeddings(small, 3)
    user_means, item_means = propagate(graph_of(small), users, items, layers)
    lonely_users, lonely_items = [0, 5, 12], [0, 4, 8]
    assert torch.equal(user_means[lonely_users], users[lonely_users] / (layers + 1))
    assert torch.equal(item_means[lonely_items], items[lonely_items] / (layers + 1))


def test_a_graph_without_an_edge() -> None:
    empty = np.zeros((3, 2), dtype=bool)
    users, items = embeddings(empty, 4)
    user_means, item_means = propagate(graph_of(empty), users, items, 2)
    assert torch.equal(user_means, users / 3)
    assert torch.equal(item_means, items / 3)


def test_columns_are_independent(small: np.ndarray) -> None:
    """What lets ranks hold columns and never speak: the parts are the whole, to the last bit."""
    users, items = embeddings(small, 6, torch.float32)
    graph = graph_of(small)
    parts = [propagate(graph, users[:, columns], items[:, columns], 3) for columns in (slice(0, 1), slice(1, 6))]
    for part, together in zip(zip(*parts, strict=True), propagate(graph, users, items, 3), strict=True):
        torch.testing.assert_close(torch.cat(part, dim=1), together, rtol=1e-6, atol=1e-7)  # sums in blocks of lanes


def test_shapes_are_checked(small: np.ndarray) -> None:
    users, items = embeddings(small, 3)
    graph = graph_of(small)
    with pytest.raises(ValueError, match="users has shape"):
        propagate(graph, users[1:], items, 1)
    with pytest.raises(ValueError, match="items has shape"):
        propagate(graph, users, items[:, :2], 1)


def test_inputs_stay_as_they_were(small: np.ndarray) -> None:
    users, items = embeddings(small, 3)
    kept = users.clone(), items.clone()
    propagate(graph_of(small), users, items, 2)
    assert torch.equal(users, kept[0])
    assert torch.equal(items, kept[1])


@pytest.mark.parametrize("layers", [1, 3])
def test_office_is_scipys(office: np.ndarray, layers: int) -> None:
    matrix = sparse.csr_matrix(office.astype(np.float64))
    roots = [
        sparse.diags(np.divide(1, np.sqrt(degrees), out=np.zeros(len(degrees)), where=degrees > 0))
        for degrees in (office.sum(axis=1).astype(float), office.sum(axis=0).astype(float))
    ]
    block = roots[0] @ matrix @ roots[1]
    users, items = embeddings(office, 8)
    layer, total = (users.numpy(), items.numpy()), [users.numpy().copy(), items.numpy().copy()]
    for _ in range(layers):
        layer = block @ layer[1], block.T @ layer[0]
        total = [total[0] + layer[0], total[1] + layer[1]]
    graph = graph_of(office)
    for got, expected in zip(propagate(graph, users, items, layers), total, strict=True):
        np.testing.assert_allclose(got.numpy(), expected / (layers + 1), rtol=0, atol=1e-12)
    # What training runs: float32, sums of at most some hundred terms of size 1, scaled back to size 1.
    for got, expected in zip(propagate(graph, users.float(), items.float(), layers), total, strict=True):
        np.testing.assert_allclose(got.numpy(), expected / (layers + 1), rtol=0, atol=2e-6)
