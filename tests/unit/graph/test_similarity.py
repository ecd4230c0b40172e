"""Jaccard similarity by blocks against sets, and the nearest of each row against a plain sort."""

import numpy as np
import pytest
from scipy import sparse

from infodcl_dist.graph import similarity as similarity_module
from infodcl_dist.graph.bipartite import build_bipartite
from infodcl_dist.graph.similarity import incidence, jaccard_blocks, top_per_row
from infodcl_dist.parallel.ownership import Span, row_spans


def sides(dense: np.ndarray) -> list[sparse.csr_matrix]:
    """The incidence matrices of users over items, and of items over users."""
    users, items = np.nonzero(dense)
    graph = build_bipartite(users, items, *dense.shape)
    return [incidence(graph.items_of_user, graph.items), incidence(graph.users_of_item, graph.users)]


def jaccard_of_sets(dense: np.ndarray) -> np.ndarray:
    """By the definition: |common| / |either| of two different rows' sets."""
    sets = [set(np.flatnonzero(row).tolist()) for row in dense]
    expected = np.zeros((len(sets), len(sets)))
    for a, first in enumerate(sets):
        for b, second in enumerate(sets):
            if a != b and first | second:
                expected[a, b] = len(first & second) / len(first | second)
    return expected


def assembled(matrix: sparse.csr_matrix, span: Span) -> tuple[np.ndarray, int]:
    """The rows of a span, and in how many blocks they came."""
    blocks = list(jaccard_blocks(matrix, span))
    position = span.start
    for rows, values in blocks:
        assert rows.start == position < rows.stop
        assert values.shape == (rows.size, matrix.shape[0])
        assert (values.data > 0).all()
        position = rows.stop
    assert position == span.stop or not blocks
    parts = [values.toarray() for _, values in blocks]
    return (np.concatenate(parts) if parts else np.zeros((0, matrix.shape[0]))), len(blocks)


def test_incidence_is_the_matrix(small: np.ndarray) -> None:
    by_user, by_item = sides(small)
    np.testing.assert_array_equal(by_user.toarray(), small)
    np.testing.assert_array_equal(by_item.toarray(), small.T)
    assert by_user.dtype == np.float32


@pytest.mark.parametrize("products", [1, 7, 30, 2**25])
def test_blocks_of_any_size_are_the_sets_similarity(
    small: np.ndarray, monkeypatch: pytest.MonkeyPatch, products: int
) -> None:
    monkeypatch.setattr(similarity_module, "BLOCK_PRODUCTS", products)
    visited, blocks = 0, 0
    for matrix, dense in zip(sides(small), (small, small.T), strict=True):
        expected = jaccard_of_sets(dense)
        assert (expected > 0).any()
        for world_size in (1, 2, 3):
            for span in row_spans(matrix.shape[0], world_size):
                got, count = assembled(matrix, span)
                # One division of two small integers in float64, on both sides.
                np.testing.assert_array_equal(got, expected[span.start : span.stop])
                visited, blocks = visited + 1, blocks + count
    assert visited == 2 * (1 + 2 + 3)
    assert blocks == visited if products == 2**25 else blocks > visited


def test_a_block_keeps_to_its_products(small: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the limit only where a single row needs more: that is what bounds the memory."""
    limit = 20
    monkeypatch.setattr(similarity_module, "BLOCK_PRODUCTS", limit)
    matrix = sides(small)[0]
    of_row = small.astype(int) @ small.sum(axis=0)
    blocks = [rows for rows, _ in jaccard_blocks(matrix, Span(0, matrix.shape[0]))]
    assert len(blocks) > 2
    for rows in blocks:
        assert rows.size == 1 or of_row[rows.start : rows.stop].sum() <= limit


def test_an_empty_span_and_a_matrix_without_entries(small: np.ndarray) -> None:
    assert list(jaccard_blocks(sides(small)[0], Span(4, 4))) == []
    got, _ = assembled(sides(np.zeros((3, 4), dtype=bool))[0], Span(0, 3))
    assert not got.any()


def nearest_by_sorting(dense: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros_like(dense)
    for row, values in enumerate(dense):
        order = sorted(np.flatnonzero(values), key=lambda column, values=values: (-values[column], column))[:k]
        kept[row, order] = values[order]
    return kept


@pytest.mark.parametrize("k", [1, 2, 3, 5, 20])
def test_the_nearest_with_many_ties(k: int) -> None:
    generator = np.random.default_rng(k)
    # Four values over 15 columns: every row has ties; some rows have fewer than k entries, some none.
    dense = generator.integers(0, 4, (60, 15)) / 4.0 * (generator.random((60, 1)) < 0.9)
    dense[:5, 3:] = 0
    got = top_per_row(sparse.csr_matrix(dense), k)
    assert got.shape == dense.shape
    np.testing.assert_array_equal(got.toarray(), nearest_by_sorting(dense, k))
    np.testing.assert_array_equal(np.diff(got.indptr), np.minimum((dense > 0).sum(axis=1), k))


def test_order_of_entries_does_not_matter() -> None:
    """Products come with unsorted columns: of equal values the lowest column stays all the same."""
    unsorted = sparse.csr_matrix((np.array([0.5, 0.5, 0.5]), np.array([7, 2, 4]), np.array([0, 3])), shape=(1, 9))
    assert sorted(top_per_row(unsorted, 2).indices.tolist()) == [2, 4]


def test_office_is_the_dense_product(office: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity_module, "BLOCK_PRODUCTS", 2**12)
    matrix = sides(office)[1]
    span = Span(1000, 1200)
    got, blocks = assembled(matrix, span)
    assert blocks > 3
    by_item = office.T.astype(np.float32)  # counts of a few thousand are exact in float32
    shared = (by_item[span.start : span.stop] @ by_item.T).astype(np.float64)
    sizes = office.sum(axis=0)
    either = sizes[span.start : span.stop, None] + sizes[None, :] - shared
    expected = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    expected[np.arange(span.size), np.arange(span.start, span.stop)] = 0
    np.testing.assert_array_equal(got, expected)
    nearest = top_per_row(sparse.csr_matrix(got), 20)
    np.testing.assert_array_equal(nearest.toarray(), nearest_by_sorting(expected, 20))
    assert np.diff(nearest.indptr).max() == 20
