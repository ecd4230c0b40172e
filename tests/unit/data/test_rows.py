"""Compressed rows, and whether two of them hold the same pairs."""

import tracemalloc
import warnings

import numpy as np
import pytest

from infodcl_dist.data import rows as rows_module
from infodcl_dist.data.rows import CompressedRows, compress, first_unlike, row_blocks, transpose


def drawn(rows: int, columns: int, pairs: int) -> CompressedRows:
    """Rows of distinct random pairs."""
    keys = np.sort(np.random.default_rng(3).choice(rows * columns, pairs, replace=False))
    return compress(keys // columns, keys % columns, rows)


def test_unlike_rows_are_found_over_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "FINGERPRINT_PAIRS", 8)
    own = drawn(30, 20, 200)
    turned = transpose(own, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # sums of hashes leave 64 bits: that is meant, and nobody's to read
        assert first_unlike(own, turned) is None
        for pair in (0, 7, 8, 199):
            indices = turned.indices.copy()
            indices[pair] = (indices[pair] + 1) % 30
            item = int(np.searchsorted(turned.offsets, pair, side="right")) - 1
            assert first_unlike(own, CompressedRows(turned.offsets, indices)) == item


def test_looking_for_a_blocks_rows_copies_no_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "FINGERPRINT_PAIRS", 8)
    own = drawn(2_000_000, 2, 500)
    turned = transpose(own, 2)
    tracemalloc.start()
    try:
        assert first_unlike(own, turned) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < own.offsets.nbytes / 2  # a copy of all offsets as int64 has twice their bytes


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float64])
def test_blocks_take_as_many_rows_as_fit_or_one(kind: type) -> None:
    before = np.array([0, 2, 2, 5, 25, 26, 26], kind)
    assert list(row_blocks(before, 5)) == [(0, 3), (3, 4), (4, 6)]  # to the brim; a row too heavy; empty ones go along
    assert list(row_blocks(before, 4)) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert list(row_blocks(before, 0)) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert list(row_blocks(before, 2**62)) == [(0, 6)]
    assert list(row_blocks(before[2:5], 3)) == [(0, 1), (1, 2)]  # a part, which begins above 0
    assert list(row_blocks(before[:1], 5)) == []


def test_a_blocks_limit_may_pass_the_offsets_type() -> None:
    top = 2**31 - 1
    before = np.array([0, top - 9, top - 5, top], np.int32)
    assert list(row_blocks(before, 4)) == [(0, 1), (1, 2), (2, 3)]
    assert list(row_blocks(before, 100)) == [(0, 1), (1, 3)]
    assert list(row_blocks(before, 2**40)) == [(0, 3)]


def test_cutting_rows_into_blocks_copies_no_offsets() -> None:
    before = np.arange(2_000_001, dtype=np.int32)
    tracemalloc.start()
    try:
        assert sum(1 for _ in row_blocks(before, 300_000)) == 7
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < before.nbytes / 2
