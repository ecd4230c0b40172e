"""SplitMix64 by its published values, and what is drawn from it. All keys are fixed: nothing fails by chance."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from infodcl_dist.base import random
from infodcl_dist.base.random import bits, integers, key_for, normal, permuted, uniform

# Vigna's splitmix64.c with seed 1234567, as Rosetta Code prints its first five numbers.
PUBLISHED_SEED = 1234567
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
WORD = 1 << 64
# A correct generator has a p-value below this once in a thousand keys; the keys are fixed, and pass.
P_MINIMUM = 1e-3


def splitmix64(key: int, counter: int) -> int:
    """The same number in integers of any size, unsigned."""
    z = (key + counter * 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def test_published_values() -> None:
    # The generator adds its constant before it mixes: its n-th number is counter n + 1.
    drawn = bits(PUBLISHED_SEED, torch.arange(1, 6)).tolist()
    assert [number % WORD for number in drawn] == PUBLISHED
    assert [splitmix64(PUBLISHED_SEED, counter) for counter in range(1, 6)] == PUBLISHED


def test_bits_wrap_like_unsigned_integers() -> None:
    keys = [0, 1, -1, 2**63 - 1, -(2**63), key_for("any")]
    counters = [0, 1, 2, 12345, 2**31, 2**32 + 7, 2**62, 2**63 - 1, -1, -(2**63)]
    visited = 0
    for key in keys:
        for counter, drawn in zip(counters, bits(key, torch.tensor(counters)).tolist(), strict=True):
            assert drawn % WORD == splitmix64(key, counter)
            visited += 1
    assert visited == 60


def test_keys_differ_by_purpose_and_are_stable() -> None:
    purposes = [(0, "order", 1), (0, "order", 2), (1, "order", 1), (0, "negative", 1), ("0", "order", 1), (0, "order")]
    keys = [key_for(*purpose) for purpose in purposes]
    assert len(set(keys)) == len(purposes)
    assert all(-(2**63) <= key < 2**63 for key in keys)
    # Golden: another value would change every run's numbers without a word.
    assert keys[0] == 4004135407344543170


def test_uniform() -> None:
    drawn = uniform(key_for("uniform"), torch.arange(100_000)).numpy()
    assert drawn.dtype == np.float64
    assert 0.0 <= drawn.min() < drawn.max() < 1.0
    assert stats.kstest(drawn, "uniform").pvalue > P_MINIMUM
    # Standard errors at n = 1e5: 0.0009 of the mean, 0.00024 of the variance, 0.003 of a correlation; 4 of each.
    assert drawn.mean() == pytest.approx(1 / 2, abs=0.004)
    assert drawn.var() == pytest.approx(1 / 12, abs=0.001)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.013


def test_neighbouring_keys_are_unrelated() -> None:
    counters = torch.arange(100_000)
    key = key_for("neighbours")
    first, second = uniform(key, counters).numpy(), uniform(key + 1, counters).numpy()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.013  # 4 standard errors


def test_uniform_keeps_the_counters_shape() -> None:
    counters = torch.arange(24).view(2, 3, 4)
    assert torch.equal(uniform(5, counters), uniform(5, counters.flatten()).view(2, 3, 4))


def test_integers_are_uniform() -> None:
    drawn = integers(key_for("integers"), torch.arange(70_000), 7)
    assert drawn.dtype == torch.int64
    counts = torch.bincount(drawn, minlength=7).numpy()
    assert counts.shape == (7,)
    assert stats.chisquare(counts).pvalue > P_MINIMUM


def test_integers_have_a_bound_each() -> None:
    bounds = torch.tensor([1, 2, 3, 10, 2420]).repeat(10_000)
    drawn = integers(key_for("bounds"), torch.arange(50_000), bounds)
    assert bool(((drawn >= 0) & (drawn < bounds)).all())
    for place, bound in enumerate((1, 2, 3, 10)):
        assert set(drawn[place::5].tolist()) == set(range(bound))


def test_the_largest_draw_stays_below_every_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = [1, 2, 3, 5, 2420, 2**31 - 1, 2**31 + 1, 2**52 + 1, 2**53 - 1, 2**53]
    monkeypatch.setattr(random, "bits", lambda key, counters: torch.full_like(counters, -1))  # all 64 bits set
    drawn = integers(0, torch.zeros(len(bounds), dtype=torch.int64), torch.tensor(bounds))
    assert drawn.tolist() == [bound - 1 for bound in bounds]


def test_normal() -> None:
    drawn = normal(key_for("normal"), torch.arange(5_000), 20).numpy()
    assert drawn.dtype == np.float32
    assert drawn.shape == (5_000, 20)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > P_MINIMUM
    # n = 1e5: standard errors of mean, variance, skewness and kurtosis, times 4.
    n = drawn.size
    values = drawn.ravel().astype(np.float64)
    assert abs(values.mean()) < 4 / math.sqrt(n)
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(stats.skew(values)) < 4 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(values)) < 4 * math.sqrt(24 / n)
    # The halves of a row come from one radius: their squares must not be correlated either.
    for power in (1, 2):
        correlation = np.corrcoef(drawn.T.astype(np.float64) ** power) - np.eye(20)
        assert np.abs(correlation).max() < 5 / math.sqrt(5_000)  # 190 pairs: 5 standard errors


@pytest.mark.parametrize("width", [1, 2, 3, 64])
def test_a_normal_row_depends_on_its_key_and_number_alone(width: int) -> None:
    key = key_for("rows")
    rows = torch.arange(50)
    whole = normal(key, rows, width)
    assert whole.shape == (50, width)
    chosen = torch.tensor([49, 3, 3, 0])
    assert torch.equal(normal(key, chosen, width), whole[chosen])
    assert len({tuple(row) for row in whole.tolist()}) == 50
    assert not torch.equal(normal(key + 1, rows, width), whole)


def test_normal_is_finite_at_the_ends_of_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for pattern in (0, -1, 0xFFFFFFFF, -(2**32)):
        monkeypatch.setattr(random, "bits", lambda key, counters, pattern=pattern: torch.full_like(counters, pattern))
        assert torch.isfinite(normal(0, torch.arange(2), 4)).all()


LENGTHS = [1, 2, 3, 4, 5, 7, 16, 17, 64, 100, 1000, 4096, 4097]


def test_permuted_is_a_permutation() -> None:
    visited = 0
    for length, seed in itertools.product(LENGTHS, range(3)):
        order = permuted(key_for(seed), torch.arange(length), length)
        assert torch.equal(order.sort().values, torch.arange(length)), (length, seed)
        visited += 1
    assert visited == 39


def test_permuted_differs_by_key_and_not_by_what_is_asked() -> None:
    for length in (100, 1000, 4097):
        first, second = (permuted(key_for(seed), torch.arange(length), length) for seed in (0, 1))
        # Two random permutations agree in one place on average.
        assert int((first == second).sum()) < 10
        assert int((first == torch.arange(length)).sum()) < 10
        some = torch.tensor([length - 1, 0, 17, 17])
        assert torch.equal(permuted(key_for(0), some, length), first[some])


def test_all_orders_are_as_likely() -> None:
    orders = list(itertools.permutations(range(3)))
    drawn = [tuple(permuted(key_for("orders", seed), torch.arange(3), 3).tolist()) for seed in range(1_200)]
    counts = [drawn.count(order) for order in orders]
    assert sum(counts) == 1_200
    assert stats.chisquare(counts).pvalue > P_MINIMUM
