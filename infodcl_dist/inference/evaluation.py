"""All-ranking evaluation over the whole catalogue, users spread over ranks (METHOD: 6).

U users of a chunk, K list length, V values a user (metrics × cutoffs), G groups of items and of users.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from infodcl_dist.base.config import Config
from infodcl_dist.graph.bipartite import Bipartite, Rows
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.exposure import EXPOSURES, Exposure
from infodcl_dist.inference.groups import ITEM_GROUPS, USER_GROUPS, group_by_training
from infodcl_dist.inference.metrics import MEASURES, is_hit, names_of, user_values
from infodcl_dist.inference.ranking import top_items
from infodcl_dist.parallel.collectives import sum_over_ranks
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import row_span

Metric = Literal["recall", "ndcg", "precision", "hit_rate", "mrr", "map", "coverage", "gini", "popularity"]
ALL_METRICS: tuple[Metric, ...] = get_args(Metric)


class EvaluationConfig(Config):
    """What is measured."""

    metrics: tuple[Metric, ...] = Field(
        default=("recall", "ndcg"),
        min_length=1,
        description="of each user's list: recall, ndcg, precision, hit_rate, mrr, map; of all lists together: "
        "coverage, gini, popularity",
    )
    cutoffs: tuple[PositiveInt, ...] = Field(
        default=(10, 20, 50), min_length=1, description="list lengths K that every metric is measured at"
    )
    mask_valid: bool = Field(
        default=False, description="leave validation items out of the test ranking; the paper's protocol keeps them"
    )


@dataclass(frozen=True)
class GroupMeans:
    """Metrics of one group."""

    users: int  # that the means are over
    means: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What was measured; the same on every rank."""

    users: int  # with at least one held-out item: those that all means are over
    means: dict[str, float]  # `metric@k`
    by_popularity: dict[str, GroupMeans] = field(default_factory=dict)  # of items, see `groups`
    by_history: dict[str, GroupMeans] = field(default_factory=dict)  # of users, see `groups`


@torch.no_grad()
def evaluate(
    embeddings: Embeddings,
    *,
    truth: Rows,
    masks: list[Rows],
    train: Bipartite,
    config: EvaluationConfig,
    group: Group,
    by_group: bool = False,
) -> Evaluation:
    """Metrics over the users with at least one held-out item. All ranks call it; sums are float64.

    Args:
        embeddings: what scores.
        truth: held-out items by user, all M users.
        masks: items left out of the ranking, by user.
        train: training pairs, which say how popular items and how long histories are.
        config: metrics and cutoffs.
        group: this process's place; each rank ranks the users of its own rows.
        by_group: whether metrics of users' lists are broken down too. By history: means over a group's users. By
            popularity: only a group's items count as held out, and the means are over the users who have some.
    """
    own = row_span(embeddings.user_count, group.rank, group.world_size)
    wanted = own.start + torch.nonzero(truth.degrees[own.start : own.stop]).flatten()
    of_users: tuple[str, ...] = tuple(name for name in config.metrics if name in MEASURES)
    sums = _Sums(of_users, config.cutoffs, truth, train if by_group else None)
    exposure = None
    if any(name in EXPOSURES for name in config.metrics):
        exposure = Exposure(config.cutoffs, embeddings.item_count, group.device)
    for chunk, ranked, _ in top_items(embeddings, wanted, group=group, masks=masks, k=max(config.cutoffs)):
        sums.add(chunk, ranked)
        if exposure is not None:
            exposure.add(ranked)
    found = sums.over_ranks(group.device)
    if exposure is None:
        return found
    means = found.means | exposure.values(train.users_of_item.degrees)
    return replace(found, means={name: means[name] for name in names_of(config.metrics, config.cutoffs)})


class _Sums:
    """Sums of users' values, and counts of users: of all, and by group where there are any."""

    def __init__(
        self,
        metrics: tuple[str, ...],
        cutoffs: tuple[int, ...],
        truth: Rows,
        train: Bipartite | None,
    ) -> None:
        self._metrics, self._cutoffs, self._truth = metrics, cutoffs, truth
        self._held_out = truth.degrees.long()
        self._groups = None if train is None else group_by_training(train)
        if self._groups is not None:
            self._held_out_by_group = _held_out_by_group(truth, self._groups.of_items)
        rows = 1 if train is None else 1 + len(ITEM_GROUPS) + len(USER_GROUPS)
        # Row 0: all users; then a row a group. The last column counts users.
        self._sums = torch.zeros(rows, len(metrics) * len(cutoffs) + 1, dtype=torch.float64)

    def add(self, users: Tensor, items: Tensor) -> None:
        """Adds users int64 [U] with their lists int64 [U, K]."""
        hits = is_hit(users, items, self._truth)
        values = self._values(hits, self._held_out[users])
        self._sums[0] += values.sum(dim=0).cpu()
        if self._groups is None:
            return
        for row, of_group in enumerate(self._by_item_group(self._groups.of_items, users, items, hits), start=1):
            self._sums[row] += of_group.sum(dim=0).cpu()
        first = 1 + len(ITEM_GROUPS)
        self._sums[first:].index_add_(0, self._groups.of_users[users].cpu(), values.cpu())

    def _by_item_group(self, of_items: Tensor, users: Tensor, items: Tensor, hits: Tensor) -> Iterator[Tensor]:
        """For each group of items the values of the users who have some of it held out."""
        relevant = self._held_out_by_group[users]
        for group in range(len(ITEM_GROUPS)):
            have = relevant[:, group] > 0
            mine = hits & (of_items[items.clamp(min=0)] == group)
            yield self._values(mine[have], relevant[have, group])

    def _values(self, hits: Tensor, relevant: Tensor) -> Tensor:
        values = user_values(self._metrics, self._cutoffs, hits, relevant)
        return torch.cat([values, values.new_ones(len(hits), 1)], dim=1)

    def over_ranks(self, device: torch.device) -> Evaluation:
        """Means over all ranks' users; a collective."""
        totals = sum_over_ranks(self._sums.to(device)).cpu()
        names = names_of(self._metrics, self._cutoffs)
        means = [
            GroupMeans(int(row[-1]), dict(zip(names, (row[:-1] / max(row[-1], 1.0)).tolist(), strict=True)))
            for row in totals
        ]
        of_all, of_groups = means[0], means[1:]
        by_popularity = dict(zip(ITEM_GROUPS, of_groups[: len(ITEM_GROUPS)], strict=False))
        by_history = dict(zip(USER_GROUPS, of_groups[len(ITEM_GROUPS) :], strict=False))
        return Evaluation(of_all.users, of_all.means, by_popularity, by_history)


def _held_out_by_group(truth: Rows, of_items: Tensor) -> Tensor:
    """Held-out items of each user in each group of items, int64 [M, G]."""
    users = torch.repeat_interleave(torch.arange(len(truth.degrees), device=of_items.device), truth.degrees.long())
    keys = users * len(ITEM_GROUPS) + of_items[truth.indices.long()]
    counts = torch.bincount(keys, minlength=len(truth.degrees) * len(ITEM_GROUPS))
    return counts.view(-1, len(ITEM_GROUPS))
