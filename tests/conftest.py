"""Fixtures of all tests. One thread a process: tests start up to four of them, and compare floats."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported anywhere

from collections.abc import Iterator

import pytest
from harness import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """`ranks(W, function, *arguments)`: the function on W processes of one group, see `harness`."""
    made = Ranks()
    yield made
    made.close()
