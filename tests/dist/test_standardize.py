"""Columns of a feature to mean 0 and variance 1: the same at any world size as over the whole matrix at once."""

from pathlib import Path

import numpy as np
import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.item_rows import ItemRows, Scaling
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe import standardize
from infodcl_dist.recipe.standardize import fit_scaling

ITEMS, WIDTH = 23, 6
# float64 sums of 23 numbers in another order: some 1e-16 of the largest, which is 1e4 times a deviation.
TOLERANCE = 1e-11


def matrix() -> np.ndarray:
    """A column each: plain, far from 0, constant and not exactly a float64's, all 0, tiny, plain."""
    made = np.random.default_rng(0).normal(size=(ITEMS, WIDTH)) * [1, 1, 0, 0, 1e-6, 3] + [0, 1e4, 0.1, 0, 0, -2]
    made[[0, 7, 22]] = np.nan
    return made.astype(np.float32)


def seen() -> np.ndarray:
    return np.arange(ITEMS) % 5 != 1


def fit(group: Group, file: Path) -> Scaling:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standardize, "CHUNK_NUMBERS", 2 * WIDTH)  # blocks of two rows
        return fit_scaling("image", np.load(file, mmap_mode="r"), seen(), group)


def fit_nothing(group: Group) -> str:
    with pytest.raises(UserError) as raised:
        fit_scaling("image", matrix(), np.arange(ITEMS) == 7, group)
    return str(raised.value)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_equals_the_whole_matrix_at_once(ranks, tmp_path, world_size):
    np.save(tmp_path / "x.npy", matrix())
    counted = matrix()[seen() & ~np.isnan(matrix()[:, 0])].astype(np.float64)
    assert len(counted) == 15
    for scaling in ranks(world_size, fit, tmp_path / "x.npy"):
        np.testing.assert_allclose(scaling.mean, counted.mean(axis=0), rtol=1e-14, atol=1e-15)
        varying = [0, 1, 4, 5]
        np.testing.assert_allclose(scaling.deviation[varying], counted.std(axis=0)[varying], rtol=TOLERANCE)
        assert scaling.deviation[[2, 3]].tolist() == [1, 1]


def test_rows_are_scaled_as_they_are_taken(ranks, tmp_path):
    np.save(tmp_path / "x.npy", matrix())
    rows = ItemRows(matrix(), 3, ranks(1, fit, tmp_path / "x.npy")[0])
    taken = rows[np.flatnonzero(seen())]
    assert taken.dtype == np.float32
    # Column 1 lies at 10,000, where float32 keeps no more than a thousandth of its deviation.
    np.testing.assert_allclose(np.nanmean(taken, axis=0), np.zeros(WIDTH), atol=1e-3)
    np.testing.assert_allclose(np.nanstd(taken, axis=0), [1, 1, 0, 0, 1, 1], atol=1e-3)
    assert np.isnan(taken[0]).all()
    assert np.isfinite(rows[np.array([1, 6])]).all(), "unseen items are scaled with the others"
    np.testing.assert_array_equal(rows.matrix, matrix())


def test_nothing_to_fit_on(ranks):
    for said in ranks(2, fit_nothing):
        assert said.startswith("model.standardize: no item seen in training has a row in image")
