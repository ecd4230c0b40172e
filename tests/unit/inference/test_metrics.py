"""Metrics of users' lists against trec_eval (MRR: the evaluation script of MS MARCO), by way of ir_measures."""

import ir_measures
import numpy as np
import pytest
import torch
from graphs import build_bipartite
from ir_measures import AP, RR, P, R, Success, nDCG

from infodcl_dist.inference import metrics
from infodcl_dist.inference.exposure import gini
from infodcl_dist.inference.metrics import MEASURES, is_hit, names_of, user_values

CUTOFFS = (1, 3, 5, 10, 20, 50)
METRICS = tuple(MEASURES)
IN_TREC_EVAL = {"recall": R, "ndcg": nDCG, "precision": P, "hit_rate": Success, "mrr": RR, "map": AP}
USERS, ITEMS = 60, 80
# Both sum at most 50 float64 terms.
TOLERANCE = 1e-12


def means(hits: torch.Tensor, relevant: torch.Tensor, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, float]:
    values = user_values(METRICS, cutoffs, hits, relevant)
    return dict(zip(names_of(METRICS, cutoffs), values.mean(dim=0).tolist(), strict=True))


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


def trec_eval(ranked: np.ndarray, relevant: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric of each user, by `metric@k`."""
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
    measures = {IN_TREC_EVAL[metric] @ k: f"{metric}@{k}" for metric in METRICS for k in CUTOFFS}
    values = {name: np.full(USERS, np.nan) for name in measures.values()}
    for found in ir_measures.iter_calc(list(measures), qrels, run):
        values[measures[found.measure]][int(found.query_id)] = found.value
    return values


@pytest.mark.parametrize("seed", [0, 1])
def test_every_users_values_are_those_of_trec_eval(seed: int) -> None:
    ranked, relevant = case(seed)
    counts = relevant.sum(axis=1)
    assert (counts > 20).sum() > 5
    assert (counts < 5).sum() > 5
    lists = ranked[:, : max(CUTOFFS)]
    hits = torch.from_numpy(np.take_along_axis(relevant, lists, axis=1))
    found = user_values(METRICS, CUTOFFS, hits, torch.from_numpy(counts))
    expected = trec_eval(ranked, relevant)
    assert list(expected) == names_of(METRICS, CUTOFFS)
    assert len(expected) == 36
    for column, values in zip(found.T.numpy(), expected.values(), strict=True):
        assert 0 < values.mean() < 1
        np.testing.assert_allclose(column, values, atol=TOLERANCE)


def test_by_hand() -> None:
    hits = torch.tensor([[True, False, True], [False, False, False]])
    found = means(hits, torch.tensor([4, 1]), (2, 3))
    best = 1 + 1 / np.log2(3), 1 + 1 / np.log2(3) + 1 / 2
    assert found["recall@2"] == pytest.approx(1 / 4 / 2)
    assert found["recall@3"] == pytest.approx(2 / 4 / 2)
    assert found["ndcg@2"] == pytest.approx(1 / best[0] / 2)
    assert found["ndcg@3"] == pytest.approx(1.5 / best[1] / 2)
    assert found["precision@3"] == pytest.approx(2 / 3 / 2)
    assert found["hit_rate@2"] == found["mrr@3"] == pytest.approx(1 / 2)
    assert found["map@3"] == pytest.approx((1 + 2 / 3) / 4 / 2)


def test_a_perfect_list_is_one_and_an_empty_one_nothing() -> None:
    hits = torch.zeros(2, 50, dtype=torch.bool)
    hits[0, :3], hits[1, :1] = True, True
    found = means(hits, torch.tensor([3, 1]))
    for k in (3, 5, 10, 20, 50):
        for metric in set(METRICS) - {"precision"}:
            assert found[f"{metric}@{k}"] == pytest.approx(1)
        assert found[f"precision@{k}"] == pytest.approx(2 / k)
    nothing = means(torch.zeros(2, 50, dtype=torch.bool), torch.tensor([3, 1]))
    assert set(nothing.values()) == {0.0}


def test_no_user_at_all() -> None:
    values = user_values(METRICS, CUTOFFS, torch.zeros(0, 50, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    assert values.shape == (0, 36)


def test_a_catalogue_shorter_than_the_cutoff() -> None:
    """A list of all 4 items: Recall@50 is complete, the best list has no more than 4 places, precision is by 50."""
    found = means(torch.tensor([[False, True, True, True]]), torch.tensor([3]), (2, 50))
    discount = 1 / np.log2(np.arange(2, 6))
    assert found["recall@50"] == pytest.approx(1)
    assert found["ndcg@50"] == pytest.approx(discount[1:].sum() / discount[:3].sum())
    assert found["ndcg@2"] == pytest.approx(discount[1] / discount[:2].sum())
    assert found["precision@50"] == pytest.approx(3 / 50)


@pytest.mark.parametrize("compared", [1, 20, metrics.COMPARED])
def test_hits_are_those_of_sets(compared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "COMPARED", compared)
    generator = np.random.default_rng(3)
    dense = generator.random((20, 15)) < 0.3
    dense[[0, 7, 19]] = False  # users without held-out items, the last one too
    truth = build_bipartite(*np.nonzero(dense), 20, 15).items_of_user
    users = torch.from_numpy(generator.permutation(20))
    items = torch.from_numpy(np.stack([generator.permutation(15)[:8] for _ in range(20)]))
    hits = is_hit(users, items, truth)
    visited = 0
    for user, row, found in zip(users.tolist(), items.tolist(), hits.tolist(), strict=True):
        for item, hit in zip(row, found, strict=True):
            assert hit == dense[user, item]
            visited += 1
    assert visited == 160
    assert 20 < int(hits.sum()) < 100


def test_no_item_is_never_a_hit() -> None:
    truth = build_bipartite(np.array([0]), np.array([14]), 2, 15).items_of_user
    assert not is_hit(torch.tensor([1]), torch.tensor([[-1]]), truth).any()
    nothing = build_bipartite(np.zeros(0, np.int32), np.zeros(0, np.int32), 2, 15).items_of_user
    assert not is_hit(torch.tensor([1]), torch.tensor([[3]]), nothing).any()


def test_gini_of_known_distributions() -> None:
    assert gini(np.full(10, 3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)  # 1 - 1/n
    assert gini(np.array([1, 2, 3])) == pytest.approx(2 / 9)  # mean |difference| 8/9 over twice the mean
