"""All-ranking metrics over ranks against sets and loops, and the GCN pass against a dense Â."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from graphs import build_bipartite
from reference import infodcl as reference
from reference.weights import relative_error

from infodcl_dist.graph.bipartite import Bipartite
from infodcl_dist.graph.mean_of_layers import by_dimension
from infodcl_dist.inference import ranking, shortlists
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.evaluation import ALL_METRICS, EvaluationConfig, evaluate
from infodcl_dist.inference.groups import HISTORY_BOUNDS, ITEM_GROUPS, USER_GROUPS, group_by_training
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import column_span

USERS, ITEMS, LAYERS, CUTOFFS = 21, 30, 2, (1, 5, 20, 50)
SPLITS = {"train": (90, 0), "valid": (25, 1), "test": (40, 2)}


def split(name: str) -> tuple[np.ndarray, np.ndarray]:
    count, seed = SPLITS[name]
    keys = np.sort(np.random.default_rng(seed).choice(USERS * ITEMS, size=count, replace=False))
    return (keys // ITEMS).astype(np.int32), (keys % ITEMS).astype(np.int32)


def graph(name: str) -> Bipartite:
    return build_bipartite(*split(name), USERS, ITEMS)


def tables(width: int, ties: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """With ties: small integers, so that sums are exact and many items of a user score the same."""
    generator = torch.Generator().manual_seed(width)
    values = torch.randn(USERS + ITEMS, width, generator=generator)
    if ties:
        values = values.round().clamp(-1, 1)
    return values[:USERS], values[USERS:]


def measured(group: Group, width: int, ties: bool, layers: int) -> tuple[dict[str, Any], torch.Tensor]:
    users, items = tables(width, ties)
    own = slice(*column_span(width, group.rank, group.world_size))
    train = graph("train")
    embeddings = Embeddings(*by_dimension(train, (users[:, own], items[:, own]), layers), width)
    masks = [train.items_of_user, graph("valid").items_of_user]
    truth = graph("test").items_of_user
    config = EvaluationConfig(metrics=ALL_METRICS, cutoffs=CUTOFFS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "LIST_PLACES", 4 * max(CUTOFFS))  # several chunks a rank
        patch.setattr(ranking, "ITEM_TILE", 7)  # tiles that do not divide N
        patch.setattr(shortlists, "BLOCK_USERS", 3)
        patch.setattr(shortlists, "BLOCK_ITEMS", 5)
        found = evaluate(embeddings, truth=truth, masks=masks, train=train, config=config, group=group, by_group=True)
    return asdict(found), embeddings.own_user_rows()


def sets(*names: str) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(USERS)]
    for name in names:
        for user, item in zip(*(codes.tolist() for codes in split(name)), strict=True):
            found[user].add(item)
    return found


def lists(scores: torch.Tensor, masked: list[set[int]], k: int) -> list[list[int]]:
    """Each user's first k items that are not masked."""
    order = torch.argsort(-scores.float(), dim=1, stable=True).tolist()
    return [[item for item in order[user] if item not in masked[user]][:k] for user in range(USERS)]


def user_metrics(ranked: list[int], wanted: set[int], k: int) -> dict[str, float]:
    hits = [item in wanted for item in ranked[:k]]
    found = np.flatnonzero(hits)
    best = sum(1 / np.log2(place + 2) for place in range(min(k, ITEMS, len(wanted))))
    return {
        "recall": sum(hits) / len(wanted),
        "ndcg": sum(1 / np.log2(found + 2)) / best,
        "precision": sum(hits) / k,
        "hit_rate": float(any(hits)),
        "mrr": 1 / (found[0] + 1) if any(hits) else 0.0,
        "map": sum((n + 1) / (place + 1) for n, place in enumerate(found)) / len(wanted),
    }


def means_over(users: list[int], ranked: list[list[int]], wanted: list[set[int]]) -> dict[str, Any]:
    """Means over those of the users who want something."""
    some = [user for user in users if wanted[user]]
    means = {}
    for k in CUTOFFS:
        values = [user_metrics(ranked[user], wanted[user], k) for user in some]
        for metric in ("recall", "ndcg", "precision", "hit_rate", "mrr", "map"):
            means[f"{metric}@{k}"] = sum(value[metric] for value in values) / max(len(some), 1)
    return {"users": len(some), "means": means}


def exposure(ranked: list[list[int]], popularity: np.ndarray) -> dict[str, float]:
    found = {}
    for k in CUTOFFS:
        listed = np.array([item for row in ranked for item in row[:k]])
        counts = np.bincount(listed, minlength=ITEMS)
        found[f"coverage@{k}"] = len(set(listed.tolist())) / ITEMS
        # Half the mean absolute difference of all pairs of items, by the mean.
        found[f"gini@{k}"] = np.abs(counts[:, None] - counts[None]).mean() / 2 / counts.mean()
        found[f"popularity@{k}"] = popularity[listed].mean()
    return found


def item_groups(popularity: np.ndarray) -> list[str]:
    """Thirds of the training interactions, by a loop."""
    groups, before = [""] * ITEMS, 0
    for item in sorted(range(ITEMS), key=lambda item: (-popularity[item], item)):
        groups[item] = ITEM_GROUPS[min(3 * before // popularity.sum(), 2)]
        before += popularity[item]
    return groups


def dense_evaluation(scores: torch.Tensor) -> dict[str, Any]:
    wanted = sets("test")
    ranked = lists(scores, sets("train", "valid"), max(CUTOFFS))
    everyone = means_over(list(range(USERS)), ranked, wanted)
    popularity = np.bincount(split("train")[1], minlength=ITEMS)
    everyone["means"] |= exposure([row for user, row in enumerate(ranked) if wanted[user]], popularity)
    of_items, histories = item_groups(popularity), [len(items) for items in sets("train")]
    by_popularity = {
        name: means_over(
            list(range(USERS)), ranked, [{item for item in items if of_items[item] == name} for items in wanted]
        )
        for name in ITEM_GROUPS
    }
    bounds = [0, *HISTORY_BOUNDS, 10**9]
    by_history = {
        name: means_over([user for user in range(USERS) if low <= histories[user] < high], ranked, wanted)
        for name, low, high in zip(USER_GROUPS, bounds, bounds[1:], strict=False)
    }
    return everyone | {"by_popularity": by_popularity, "by_history": by_history}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("width", [8, 6])
def test_metrics_equal_sets_and_loops(ranks, width, world_size):
    visited = 0
    a = reference.adjacency(*(torch.from_numpy(codes).long() for codes in split("train")), USERS, ITEMS)
    for ties, layers in ((True, 0), (False, 0), (False, LAYERS)):
        users, items = (x.double() for x in tables(width, ties))
        users, items = reference.propagate(a, users, items, layers)
        # Two references, of which the older knows Recall and NDCG alone.
        expected = dense_evaluation(users @ items.T)
        older = reference.metrics(users @ items.T, sets("test"), sets("train", "valid"), CUTOFFS)
        assert 0 < older["recall@5"] < 1
        assert {name: expected["means"][name] for name in older} == pytest.approx(older, abs=1e-12)
        results = ranks(world_size, measured, width, ties, layers)
        # Float32 rounding of propagated rows: measured 7e-8.
        assert relative_error(torch.cat([rows for _, rows in results]), users) < 1e-6
        for found, _ in results:
            assert list(found["means"]) == [f"{metric}@{k}" for metric in ALL_METRICS for k in CUTOFFS]
            # Sums of float64, a list that ties cannot change; a mean popularity is no fraction of 1.
            assert flat(found) == pytest.approx(flat(expected), abs=1e-12, rel=1e-12)
            visited += len(flat(found))
    of_lists, groups = 6 * len(CUTOFFS), len(ITEM_GROUPS) + len(USER_GROUPS)
    assert visited == 3 * world_size * (1 + 9 * len(CUTOFFS) + groups * (1 + of_lists))


def test_groups_are_not_empty():
    made = group_by_training(graph("train"))
    assert np.bincount(made.of_items, minlength=3).min() > 3
    assert np.bincount(made.of_users, minlength=6).tolist()[1:3] != [0, 0]
