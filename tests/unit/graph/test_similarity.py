"""Similarities by blocks against sets, and the nearest of each row against a plain sort."""

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from graphs import build_bipartite
from scipy import sparse

from infodcl_dist.graph import similarity as similarity_module
from infodcl_dist.graph.similarity import Measure, Sets, build_sets, incidence, nearest_blocks, similarity_blocks
from infodcl_dist.parallel.ownership import Span, row_spans

Blocks = Iterator[tuple[Span, sparse.csr_matrix]]
MEASURES = ("jaccard", "cosine")


def sides(dense: np.ndarray, hub_cap: int | None = None) -> list[Sets]:
    """The sets of users over items, and of items over users."""
    graph = build_bipartite(*np.nonzero(dense), *dense.shape)
    both = graph.items_of_user, graph.users_of_item
    return [build_sets(*both, hub_cap), build_sets(*reversed(both), hub_cap)]


def by_definition(dense: np.ndarray, measure: Measure, hub_cap: int | None = None) -> np.ndarray:
    """Of two different rows' sets without hubs."""
    kept = dense & (dense.sum(axis=0) <= (hub_cap or len(dense)))
    sets = [set(np.flatnonzero(row).tolist()) for row in kept]
    expected = np.zeros((len(sets), len(sets)))
    for a, first in enumerate(sets):
        for b, second in enumerate(sets):
            if a != b and first & second:
                size = len(first | second) if measure == "jaccard" else np.sqrt(float(len(first) * len(second)))
                expected[a, b] = len(first & second) / size
    return expected


def nearest_by_sorting(dense: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros_like(dense)
    for row, values in enumerate(dense):
        order = sorted(np.flatnonzero(values), key=lambda column, values=values: (-values[column], column))[:k]
        kept[row, order] = values[order]
    return kept


def assembled(blocks: Blocks, span: Span, rows: int) -> tuple[np.ndarray, int]:
    """The rows of a span, and in how many blocks they came."""
    parts, position = [np.zeros((0, rows))], span.start
    for of_block, values in blocks:
        assert of_block.start == position < of_block.stop
        assert values.shape == (of_block.size, rows)
        assert (values.data > 0).all()
        parts.append(values.toarray())
        position = of_block.stop
    assert position == span.stop
    return np.concatenate(parts), len(parts) - 1


def test_incidence_is_the_matrix(small: np.ndarray) -> None:
    graph = build_bipartite(*np.nonzero(small), *small.shape)
    by_user, by_item = incidence(graph.items_of_user, graph.items), incidence(graph.users_of_item, graph.users)
    np.testing.assert_array_equal(by_user.toarray(), small)
    np.testing.assert_array_equal(by_item.toarray(), small.T)
    assert by_user.dtype == np.float32


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("hub_cap", [None, 1, 4, 100])
@pytest.mark.parametrize("products", [1, 7, 30, 2**25])
def test_blocks_of_any_size_are_the_sets_similarity(
    small: np.ndarray, monkeypatch: pytest.MonkeyPatch, products: int, hub_cap: int | None, measure: Measure
) -> None:
    monkeypatch.setattr(similarity_module, "BLOCK_PRODUCTS", products)
    visited = 0
    for sets, dense in zip(sides(small, hub_cap), (small, small.T), strict=True):
        expected = by_definition(dense, measure, hub_cap)
        assert (expected > 0).any() == (hub_cap != 1)
        assert sets.hubs == (0 if hub_cap is None else (dense.sum(axis=0) > hub_cap).sum())
        for world_size in (1, 2, 3):
            for span in row_spans(len(dense), world_size):
                part = slice(span.start, span.stop)
                # One division of two small integers in float64, on both sides.
                got, blocks = assembled(similarity_blocks(sets, span, measure), span, len(dense))
                np.testing.assert_array_equal(got, expected[part])
                assert blocks == 1 or products < 2**25
                for k in (1, 2, 5, 50):
                    got, _ = assembled(nearest_blocks(sets, span, k, measure), span, len(dense))
                    np.testing.assert_array_equal(got, nearest_by_sorting(expected, k)[part])
                    visited += 1
    assert visited == 2 * (1 + 2 + 3) * 4


def test_a_block_keeps_to_its_products(small: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the limit only where a single row needs more: that is what bounds the memory."""
    limit = 20
    monkeypatch.setattr(similarity_module, "BLOCK_PRODUCTS", limit)
    of_row = small.astype(int) @ small.sum(axis=0)
    blocks = [rows for rows, _ in similarity_blocks(sides(small)[0], Span(0, len(small)), "jaccard")]
    assert len(blocks) > 2
    for rows in blocks:
        assert rows.size == 1 or of_row[rows.start : rows.stop].sum() <= limit


def test_products_are_counted_for_the_span_alone(small: np.ndarray) -> None:
    of_row = small.astype(int) @ small.sum(axis=0)
    visited = 0
    for start in range(len(small) + 1):
        for stop in range(start, len(small) + 1):
            found = sides(small)[0].products(Span(start, stop))
            np.testing.assert_array_equal(found, np.cumsum([0, *of_row[start:stop]]))
            visited += 1
    assert visited == (len(small) + 1) * (len(small) + 2) // 2


def test_products_of_a_few_rows_take_no_memory_for_every_edge() -> None:
    sets = sides(np.ones((1000, 300), dtype=bool))[0]
    sets.products(Span(0, 1))  # compiled
    tracemalloc.start()
    try:
        assert sets.products(Span(7, 9)).tolist() == [0, 300_000, 600_000]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1e5  # a number of 8 bytes for each edge would be 2.4 MB


def test_rows_without_additions_fill_a_block_by_what_is_kept_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity_module, "BLOCK_PRODUCTS", 20)
    sets = sides(np.zeros((50, 3), dtype=bool))[0]
    for blocks, most in (
        (nearest_blocks(sets, Span(3, 50), 5, "jaccard"), 4),
        (similarity_blocks(sets, Span(3, 50), "jaccard"), 20),
    ):
        sizes = [rows.size for rows, _ in blocks]
        assert max(sizes) == most
        assert sum(sizes) == 47


def test_no_more_blocks_are_made_than_two_a_thread_beyond_those_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, made, taken = threading.Lock(), 0, 0
    nearest = similarity_module._nearest

    def counted(*arguments: object) -> object:
        nonlocal made
        with lock:
            made += 1
        return nearest(*arguments)

    monkeypatch.setattr(similarity_module, "_nearest", counted)
    monkeypatch.setattr(similarity_module, "BLOCK_PRODUCTS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    sets = sides(np.ones((100, 2), dtype=bool))[0]
    for rows, _ in nearest_blocks(sets, Span(0, 100), 3, "jaccard"):
        assert rows == (taken, taken + 1)
        if taken % 50 == 0:
            time.sleep(0.1)  # a slow consumer
        taken += 1
        with lock:
            assert made <= taken + 4
    assert taken == made == 100


def test_what_fails_in_a_thread_is_raised_and_the_rest_left_out() -> None:
    made = []

    def work(job: int) -> int:
        made.append(job)
        return 1 // (3 - job)

    with pytest.raises(ZeroDivisionError):
        list(similarity_module._in_threads(work, range(1000), 1))
    assert len(made) <= 6


@pytest.mark.parametrize(
    "function", [similarity_blocks, lambda sets, span, measure: nearest_blocks(sets, span, 3, measure)]
)
def test_an_empty_span_and_a_matrix_without_entries(small: np.ndarray, function: Callable[..., Blocks]) -> None:
    assert list(function(sides(small)[0], Span(4, 4), "jaccard")) == []
    got, _ = assembled(function(sides(np.zeros((3, 4), dtype=bool))[0], Span(0, 3), "jaccard"), Span(0, 3), 3)
    assert not got.any()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("measure", MEASURES)
def test_office_is_the_dense_product(
    office: np.ndarray, monkeypatch: pytest.MonkeyPatch, measure: Measure, threads: int
) -> None:
    monkeypatch.setattr(similarity_module, "BLOCK_PRODUCTS", 2**12)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    by_item, span = office.T.astype(np.float32), Span(1000, 1200)  # counts of a few thousand are exact in float32
    shared = (by_item[span.start : span.stop] @ by_item.T).astype(np.float64)
    shared[np.arange(span.size), np.arange(span.start, span.stop)] = 0
    sizes = office.sum(axis=0)
    own = sizes[span.start : span.stop, None]
    either = own + sizes - shared if measure == "jaccard" else np.sqrt((own * sizes).astype(np.float64))
    expected = np.divide(shared, either, out=np.zeros_like(shared), where=shared > 0)
    sets = sides(office)[1]
    got, blocks = assembled(similarity_blocks(sets, span, measure), span, len(sizes))
    assert blocks > 3
    np.testing.assert_array_equal(got, expected)
    got, blocks = assembled(nearest_blocks(sets, span, 20, measure), span, len(sizes))
    assert blocks > 3
    np.testing.assert_array_equal(got, nearest_by_sorting(expected, 20))
    assert (got > 0).sum(axis=1).max() == 20


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_nearest_items_of_office_are_brute_forces_at_any_world_size(office: np.ndarray, world_size: int) -> None:
    by_item = office.T.astype(np.float64)
    shared, sizes = by_item @ by_item.T, by_item.sum(axis=1)
    similarity = np.divide(shared, sizes[:, None] + sizes - shared, out=np.zeros_like(shared), where=shared > 0)
    np.fill_diagonal(similarity, 0.0)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :20]
    expected = np.zeros_like(similarity)
    np.put_along_axis(expected, order, np.take_along_axis(similarity, order, axis=1), axis=1)
    sets = sides(office)[1]
    found = [
        block.toarray()
        for span in row_spans(len(sizes), world_size)
        for _, block in nearest_blocks(sets, span, 20, "jaccard")
    ]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-12)
