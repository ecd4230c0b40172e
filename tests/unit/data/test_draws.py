"""The compiled loops draw what `base.random` draws."""

import numpy as np
import pytest
import torch

from infodcl_dist.base.random import key_for, permuted
from infodcl_dist.data.draws import draw_pairs
from infodcl_dist.data.rows import compress


@pytest.mark.parametrize("pairs", [1, 2, 5, 64, 65, 1000])
def test_order_is_that_of_the_permutation(pairs):
    generator = np.random.default_rng(pairs)
    users, items = 40, 50
    keys = np.sort(generator.choice(users * items, size=pairs, replace=False))
    user, item = (keys // items).astype(np.int32), (keys % items).astype(np.int32)
    rows = compress(user, item, users)
    visited = 0
    for key in (0, -1, 2**63 - 1, key_for(0, "order", 1)):
        positions = torch.arange(pairs)
        expected = permuted(key, positions, pairs).numpy()
        found_users, found_items = draw_pairs(key, positions.numpy(), rows)
        np.testing.assert_array_equal(found_users, user[expected])
        np.testing.assert_array_equal(found_items, item[expected])
        visited += 1
    assert visited == 4
