"""`infodcl-dist synthesize` as a user types it."""

from pathlib import Path

import numpy as np

from infodcl_dist.bench.generated import generate
from infodcl_dist.cli.main import infodcl_dist, run
from infodcl_dist.data.dataset import open_dataset


def test_a_grown_data_set_has_k_times_all_with_the_same_degrees(tmp_path: Path) -> None:
    generate(tmp_path / "small", users=30, items=20, pairs=140)
    command = ["synthesize", str(tmp_path / "small"), "--times", "3", "--mixing", "0", "--out", str(tmp_path / "grown")]
    assert run(infodcl_dist, command) == 0
    small, grown = (open_dataset(tmp_path / name) for name in ("small", "grown"))
    assert (grown.users, grown.items) == (3 * small.users, 3 * small.items)
    assert grown.manifest.counts == {split: 3 * count for split, count in small.manifest.counts.items()}
    degrees = small.users_of_items().degrees
    np.testing.assert_array_equal(np.sort(grown.users_of_items().degrees), np.sort(np.tile(degrees, 3)))
    assert run(infodcl_dist, command) == 2, "it is there"
