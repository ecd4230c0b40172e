"""Metrics of ranked lists, a value a user, as trec_eval defines them; and which places of a list are hits.

U users, K list length (of the largest cutoff, or all items), C cutoffs, k a cutoff.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from infodcl_dist.graph.bipartite import Rows, neighbours

Measure = Callable[[Tensor, Tensor, int], Tensor]

COMPARED = 1 << 20  # places of lists that held-out items are looked for in at once: 8 MB


def user_values(metrics: tuple[str, ...], cutoffs: tuple[int, ...], hits: Tensor, relevant: Tensor) -> Tensor:
    """Each metric at each cutoff, metric by metric: float64 [U, metrics · C].

    Args:
        metrics: names of `MEASURES`.
        cutoffs: the k.
        hits: whether each place of a list holds a held-out item, bool [U, K].
        relevant: held-out items of each user, int64 [U] ≥ 1.
    """
    gains = hits.double()
    values = [MEASURES[metric](gains, relevant, k) for metric in metrics for k in cutoffs]
    return torch.stack(values, dim=1) if values else gains.new_empty(len(gains), 0)


def names_of(metrics: tuple[str, ...], cutoffs: tuple[int, ...]) -> list[str]:
    """`metric@k`, in the order of `user_values`."""
    return [f"{metric}@{k}" for metric in metrics for k in cutoffs]


def _recall(gains: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Share of a user's held-out items among the first k."""
    return gains[:, :k].sum(dim=1) / relevant


def _precision(gains: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Held-out items among the first k, by k; also where a list is shorter."""
    return gains[:, :k].sum(dim=1) / k


def _hit_rate(gains: Tensor, relevant: Tensor, k: int) -> Tensor:
    """1 where there is a held-out item among the first k."""
    return gains[:, :k].amax(dim=1)


def _ndcg(gains: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Gain 1, discount 1 / log2(rank + 1), by the value of the best list: min(k, held-out items) hits in front."""
    gains = gains[:, :k]
    discount = 1.0 / torch.log2(torch.arange(2, gains.shape[1] + 2, dtype=torch.float64, device=gains.device))
    best = torch.cumsum(discount, dim=0)[relevant.clamp(max=gains.shape[1]) - 1]
    return (gains * discount).sum(dim=1) / best


def _mrr(gains: Tensor, relevant: Tensor, k: int) -> Tensor:
    """1 / rank of the first held-out item among the first k; 0 where there is none."""
    return (gains[:, :k] * _reciprocal_ranks(gains[:, :k])).amax(dim=1)


def _map(gains: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Average precision: over the hits among the first k the sum of precision there, by all held-out items."""
    gains = gains[:, :k]
    precision = gains.cumsum(dim=1) * _reciprocal_ranks(gains)
    return (gains * precision).sum(dim=1) / relevant


def _reciprocal_ranks(gains: Tensor) -> Tensor:
    return 1.0 / torch.arange(1, gains.shape[1] + 1, dtype=torch.float64, device=gains.device)


MEASURES: dict[str, Measure] = {
    "recall": _recall,
    "ndcg": _ndcg,
    "precision": _precision,
    "hit_rate": _hit_rate,
    "mrr": _mrr,
    "map": _map,
}


def is_hit(users: Tensor, items: Tensor, truth: Rows) -> Tensor:
    """Whether items int64 [U, K] are held out of users int64 [U]: bool [U, K]; item −1 never is."""
    hits = torch.zeros_like(items, dtype=torch.bool)
    user, held_out = neighbours(truth, users)
    at_once = max(1, COMPARED // items.shape[1])
    for row, item in zip(user.split(at_once), held_out.split(at_once), strict=True):
        pair, place = torch.nonzero(items[row] == item[:, None], as_tuple=True)
        hits[row[pair], place] = True
    return hits
