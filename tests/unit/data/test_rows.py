"""Compressed rows, and whether two of them hold the same pairs."""

import tracemalloc
import warnings

import numpy as np
import pytest

from infodcl_dist.data import rows as rows_module
from infodcl_dist.data.rows import CompressedRows, compress, first_unlike, transpose


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
