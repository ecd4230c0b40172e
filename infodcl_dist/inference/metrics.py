"""Recall@K and NDCG@K of ranked lists, summed in float64 so that sums over ranks are exact whoever ranked whom.

U users, K list length.
"""

import torch
from torch import Tensor

from infodcl_dist.graph.bipartite import Rows


class MetricSums:
    """Sums over users of Recall@K and NDCG@K.

    Recall@K is the share of a user's held-out items among the first K. NDCG@K has gain 1 and discount
    1 / log2(rank + 1), divided by the value of the best list, min(K, held-out items) hits in front.
    """

    def __init__(self, cutoffs: tuple[int, ...]) -> None:
        self.cutoffs = cutoffs
        self.users = 0
        self.sums = torch.zeros(2 * len(cutoffs), dtype=torch.float64)

    def add(self, hits: Tensor, relevant: Tensor) -> None:
        """Adds users: hits bool [U, K] of lists of the largest cutoff (or all items), relevant int64 [U] ≥ 1."""
        length = hits.shape[1]
        discount = 1.0 / torch.log2(torch.arange(2, length + 2, dtype=torch.float64, device=hits.device))
        ideal = torch.cumsum(discount, dim=0)
        gains = hits.double()
        values = []
        for cutoff in self.cutoffs:
            k = min(cutoff, length)
            values.append((gains[:, :k].sum(dim=1) / relevant).sum())
        for cutoff in self.cutoffs:
            k = min(cutoff, length)
            best = ideal[relevant.clamp(max=k) - 1]
            values.append(((gains[:, :k] * discount[:k]).sum(dim=1) / best).sum())
        self.sums += torch.stack(values).cpu()
        self.users += hits.shape[0]

    def means(self) -> dict[str, float]:
        """`recall@K` and `ndcg@K` for every cutoff, means over users."""
        names = [f"recall@{k}" for k in self.cutoffs] + [f"ndcg@{k}" for k in self.cutoffs]
        return dict(zip(names, (self.sums / max(self.users, 1)).tolist(), strict=True))


def is_hit(users: Tensor, items: Tensor, truth: Rows, item_count: int) -> Tensor:
    """Whether items int64 [U, K] are among the held-out items of users int64 [U]: bool [U, K]."""
    keys = truth_keys(truth, item_count)
    wanted = users[:, None] * item_count + items
    place = torch.searchsorted(keys, wanted).clamp(max=max(keys.shape[0] - 1, 0))
    return keys[place] == wanted


def truth_keys(truth: Rows, item_count: int) -> Tensor:
    """Every held-out pair as user × N + item, ascending int64 [P]."""
    users = torch.repeat_interleave(
        torch.arange(truth.degrees.shape[0], device=truth.indices.device), truth.degrees.long()
    )
    return users * item_count + truth.indices.long()
