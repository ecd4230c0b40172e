"""Recall and NDCG against trec_eval, by way of the independent library ir_measures."""

import ir_measures
import numpy as np
import pytest
import torch
from ir_measures import R, nDCG

from infodcl_dist.graph.bipartite import build_bipartite
from infodcl_dist.inference.metrics import MetricSums, is_hit, truth_keys

CUTOFFS = (1, 3, 5, 10, 20, 50)
USERS, ITEMS = 60, 80
# Both sum at most 50 float64 terms and 60 users.
TOLERANCE = 1e-12


def case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random complete rankings int [U, N] and random relevance bool [U, N]; every user has something relevant."""
    generator = np.random.default_rng(seed)
    ranked = np.stack([generator.permutation(ITEMS) for _ in range(USERS)])
    # From one relevant item to nearly all: many users have more of them than any cutoff but the last.
    relevant = generator.random((USERS, ITEMS)) < generator.random((USERS, 1)) ** 2
    relevant[np.arange(USERS), generator.integers(0, ITEMS, USERS)] = True
    relevant[0], relevant[1] = True, False
    relevant[1, ranked[1, -1]] = True
    return ranked, relevant


def trec_eval(ranked: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    qrels = [
        ir_measures.Qrel(str(user), str(item), int(relevant[user, item]))
        for user in range(USERS)
        for item in range(ITEMS)
    ]
    run = [
        ir_measures.ScoredDoc(str(user), str(item), float(ITEMS - place))
        for user in range(USERS)
        for place, item in enumerate(ranked[user])
    ]
    measures = [R @ k for k in CUTOFFS] + [nDCG @ k for k in CUTOFFS]
    values = ir_measures.pytrec_eval.calc_aggregate(measures, qrels, run)
    return {f"recall@{k}": values[R @ k] for k in CUTOFFS} | {f"ndcg@{k}": values[nDCG @ k] for k in CUTOFFS}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("chunk", [USERS, 7, 1])
def test_means_are_those_of_trec_eval(seed: int, chunk: int) -> None:
    ranked, relevant = case(seed)
    counts = relevant.sum(axis=1)
    assert (counts > 20).sum() > 5
    assert (counts < 5).sum() > 5
    lists = ranked[:, : max(CUTOFFS)]
    hits = torch.from_numpy(np.take_along_axis(relevant, lists, axis=1))
    sums = MetricSums(CUTOFFS)
    for start in range(0, USERS, chunk):
        sums.add(hits[start : start + chunk], torch.from_numpy(counts[start : start + chunk]))
    assert sums.users == USERS
    expected = trec_eval(ranked, relevant)
    assert len(expected) == 2 * len(CUTOFFS)
    assert sums.means() == pytest.approx(expected, abs=TOLERANCE)
    assert list(sums.means()) == list(expected)


def test_by_hand() -> None:
    sums = MetricSums((2, 3))
    sums.add(torch.tensor([[True, False, True], [False, False, False]]), torch.tensor([4, 1]))
    means = sums.means()
    best = 1 + 1 / np.log2(3), 1 + 1 / np.log2(3) + 1 / 2
    assert means["recall@2"] == pytest.approx(1 / 4 / 2)
    assert means["recall@3"] == pytest.approx(2 / 4 / 2)
    assert means["ndcg@2"] == pytest.approx(1 / best[0] / 2)
    assert means["ndcg@3"] == pytest.approx(1.5 / best[1] / 2)


def test_a_perfect_list_is_one_and_an_empty_one_nothing() -> None:
    sums = MetricSums(CUTOFFS)
    hits = torch.zeros(2, 50, dtype=torch.bool)
    hits[0, :3], hits[1, :1] = True, True
    sums.add(hits, torch.tensor([3, 1]))
    for k in (3, 5, 10, 20, 50):
        assert sums.means()[f"recall@{k}"] == pytest.approx(1)
        assert sums.means()[f"ndcg@{k}"] == pytest.approx(1)
    nothing = MetricSums(CUTOFFS)
    nothing.add(torch.zeros(2, 50, dtype=torch.bool), torch.tensor([3, 1]))
    assert set(nothing.means().values()) == {0.0}


def test_no_user_at_all() -> None:
    assert set(MetricSums(CUTOFFS).means().values()) == {0.0}


def test_a_catalogue_shorter_than_the_cutoff() -> None:
    """A list of all 4 items: Recall@50 is complete, and the best list has no more than 4 places."""
    sums = MetricSums((2, 50))
    sums.add(torch.tensor([[False, True, True, True]]), torch.tensor([3]))
    means = sums.means()
    discount = 1 / np.log2(np.arange(2, 6))
    assert means["recall@50"] == pytest.approx(1)
    assert means["ndcg@50"] == pytest.approx(discount[1:].sum() / discount[:3].sum())
    assert means["ndcg@2"] == pytest.approx(discount[1] / discount[:2].sum())


def test_hits_are_those_of_sets() -> None:
    generator = np.random.default_rng(3)
    dense = generator.random((20, 15)) < 0.3
    dense[[0, 7, 19]] = False  # users without held-out items, the last one too
    truth = build_bipartite(*np.nonzero(dense), 20, 15).items_of_user
    users = torch.from_numpy(generator.permutation(20))
    items = torch.from_numpy(np.stack([generator.permutation(15)[:8] for _ in range(20)]))
    hits = is_hit(users, items, truth, 15)
    visited = 0
    for user, row, found in zip(users.tolist(), items.tolist(), hits.tolist(), strict=True):
        for item, hit in zip(row, found, strict=True):
            assert hit == dense[user, item]
            visited += 1
    assert visited == 160
    assert 20 < int(hits.sum()) < 100
    assert truth_keys(truth, 15).tolist() == np.flatnonzero(dense).tolist()


def test_keys_of_a_large_catalogue_do_not_overflow() -> None:
    users, items = np.array([0, 3_000_000]), np.array([5, 2_999_999])
    truth = build_bipartite(users, items, 3_000_001, 3_000_000).items_of_user
    assert truth_keys(truth, 3_000_000).tolist() == [5, 3_000_000 * 3_000_000 + 2_999_999]
    hits = is_hit(torch.tensor([3_000_000, 0]), torch.tensor([[2_999_999], [6]]), truth, 3_000_000)
    assert hits.tolist() == [[True], [False]]
