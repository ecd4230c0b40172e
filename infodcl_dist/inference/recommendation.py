"""Recommendation lists by the users' own ids, streamed chunk by chunk.

U users of a chunk, K list length.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.ranking import top_items
from infodcl_dist.parallel.group import Group


@torch.no_grad()
def recommendations(
    embeddings: Embeddings,
    users: np.ndarray,
    *,
    user_ids: pa.Array,
    item_ids: pa.Array,
    masks: list[Rows],
    k: int,
    group: Group,
) -> Iterator[pa.Table]:
    """The K best items of each user that are not masked, users ascending, best item first; fewer where fewer are left.

    Args:
        embeddings: what scores by inner product.
        users: indices int64, ascending, all of them in this rank's rows.
        user_ids: the user's own ids [M].
        item_ids: the same of items [N].
        masks: items to leave out, by user.
        k: list length.
        group: this process's place.

    Yields:
        A table a chunk of users: `user` and `item` (own ids), `rank` int32 from 1, `score` float32; U · K rows at most.
    """
    wanted = torch.from_numpy(users).to(embeddings.users.device)
    for chunk, items, scores in top_items(embeddings, wanted, group=group, masks=masks, k=k):
        left = torch.isfinite(scores)
        ranks = torch.arange(1, scores.shape[1] + 1, dtype=torch.int32).expand(scores.shape)
        listed = chunk[:, None].expand(scores.shape)[left]
        yield pa.table(
            {
                "user": user_ids.take(pa.array(listed.cpu().numpy())),
                "item": item_ids.take(pa.array(items[left].cpu().numpy())),
                "rank": ranks[left.cpu()].numpy(),
                "score": scores[left].cpu().numpy(),
            }
        )
