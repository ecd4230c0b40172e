"""All-ranking evaluation over the whole catalogue, users spread over ranks (METHOD: 6)."""

import torch
from pydantic import Field, PositiveInt

from infodcl_dist.base.config import Config
from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.metrics import MetricSums, is_hit
from infodcl_dist.inference.ranking import top_items
from infodcl_dist.parallel.collectives import sum_over_ranks
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import row_span


class EvaluationConfig(Config):
    """What is measured."""

    cutoffs: tuple[PositiveInt, ...] = Field(
        default=(10, 20, 50), min_length=1, description="list lengths K of Recall@K and NDCG@K"
    )
    mask_valid: bool = Field(
        default=False, description="leave validation items out of the test ranking; the paper's protocol keeps them"
    )


@torch.no_grad()
def evaluate(
    embeddings: Embeddings, *, truth: Rows, masks: list[Rows], cutoffs: tuple[int, ...], group: Group
) -> dict[str, float]:
    """`recall@K` and `ndcg@K`, means over the users with at least one held-out item; the same on every rank.

    Args:
        embeddings: what scores.
        truth: held-out items by user, all M users.
        masks: items left out of the ranking, by user.
        cutoffs: the K.
        group: this process's place; each rank ranks the users of its own rows.
    """
    users, items = embeddings.user_count, embeddings.item_count
    own = row_span(users, group.rank, group.world_size)
    counts = truth.degrees[own.start : own.stop].long()
    wanted = own.start + torch.nonzero(counts).flatten()
    sums = MetricSums(cutoffs)
    for chunk, ranked, scores in top_items(embeddings, wanted, group=group, masks=masks, k=max(cutoffs)):
        hits = is_hit(chunk, ranked, truth, items) & torch.isfinite(scores)
        sums.add(hits, truth.degrees[chunk].long())
    totals = sum_over_ranks(torch.cat([sums.sums, torch.tensor([sums.users], dtype=torch.float64)]).to(group.device))
    sums.sums, sums.users = totals[:-1].cpu(), int(totals[-1])
    return sums.means()
