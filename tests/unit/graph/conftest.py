"""Graphs to try the package on: small random ones with lonely nodes, and the Office training pairs where they lie."""

from pathlib import Path

import numpy as np
import pytest

OFFICE = Path(__file__).resolve().parents[4] / "shared" / "data" / "office" / "train.txt"
OFFICE_USERS, OFFICE_ITEMS = 4905, 2420  # of all splits


@pytest.fixture(scope="session")
def small() -> np.ndarray:
    """A dense 0/1 matrix of 13 users and 9 items; users 0, 5, 12 and items 0, 4, 8 have no edge."""
    dense = np.random.default_rng(7).random((13, 9)) < 0.4
    dense[[0, 5, 12], :] = False
    dense[:, [0, 4, 8]] = False
    assert dense.sum() > 15
    return dense


@pytest.fixture(scope="session")
def office() -> np.ndarray:
    """The Office training pairs as a dense 0/1 matrix."""
    if not OFFICE.is_file():
        pytest.skip("the Office data set is not beside this clone (../shared/data/office)")
    users, items = np.loadtxt(OFFICE, dtype=np.int64).T
    dense = np.zeros((OFFICE_USERS, OFFICE_ITEMS), dtype=bool)
    dense[users, items] = True
    assert dense.sum() == 40_877
    return dense
