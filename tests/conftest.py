"""Fixtures of all tests. One thread a process: tests start up to four of them, and compare floats."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported anywhere

import resource
from collections.abc import Callable, Iterator

import pytest
from harness import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """`ranks(W, function, *arguments)`: the function on W processes of one group, see `harness`."""
    made = Ranks()
    yield made
    made.close()


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """`limit_files(size)`: until the test's end no file of this process may grow beyond it, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
