"""The compiled loops draw what `base.random` draws."""

import numpy as np
import pytest
import torch

from infodcl_dist.base.random import integers, key_for, permuted
from infodcl_dist.data.draws import draw_outside, draw_pairs
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


def test_negatives_are_the_items_outside_by_the_same_numbers():
    generator = np.random.default_rng(3)
    users, items = 30, 41
    keys = np.sort(generator.choice(users * items, size=users * items // 2, replace=False))
    user, item = (keys // items).astype(np.int32), (keys % items).astype(np.int32)
    rows, visited = compress(user, item, users), 0
    outside = [np.setdiff1d(np.arange(items), item[user == number]) for number in range(users)]
    free = torch.tensor([len(of_user) for of_user in outside])
    positions, wanted = torch.arange(500) + 2**40, torch.from_numpy(generator.integers(0, users, 500))
    for key in (0, -1, 2**63 - 1, key_for(0, "negative", 1)):
        choices = integers(key, positions, free[wanted]).numpy()
        expected = [outside[number][choice] for number, choice in zip(wanted.numpy(), choices, strict=True)]
        np.testing.assert_array_equal(draw_outside(key, positions.numpy(), wanted.numpy(), rows, items), expected)
        visited += 1
    assert visited == 4
