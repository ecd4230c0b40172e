"""Users that training did not know, placed among the trained items by one propagation step.

n new users, H pairs, N items, D width.

LightGCN's step (Eq. 16 of the paper) gives a user the rows of its items: e_u^(k+1) = Σ_i e_i^(k) / √(|N_u| |N_i|). With
the final item embeddings ẽ_i, which are means over layers 0 … K, in place of one layer's

    û = Σ_{i ∈ history} ẽ_i / √(|history| · max(|N_i|, 1)) = 1/(K+1) Σ_{k = 0 … K} e_u^(k+1),

the mean over layers 1 … K+1: what the GCN pass with one layer more says of the user, but for layer 0, the user's own
trained row, which a new user has not. Degrees |N_i| are those of training, as in everybody else's rows; an item that
training never saw counts as if one user had it.
"""

import torch
from torch import Tensor

from infodcl_dist.graph.bipartite import Rows, neighbours
from infodcl_dist.inference import ranking
from infodcl_dist.inference.embeddings import Embeddings

BLOCK_PAIRS = 1 << 18  # pairs whose rows are held at once, float64


def fold_in(embeddings: Embeddings, histories: Rows, item_degrees: Tensor) -> Tensor:
    """Rows float32 [n, D] of users given by their items. All ranks call it together, each with its own users.

    Args:
        embeddings: the propagated embeddings.
        histories: n rows of items; a user without any gets 0.
        item_degrees: training users of each item, int [N].
    """
    count = len(histories.degrees)
    user, item = neighbours(histories, torch.arange(count, device=histories.offsets.device))
    order = torch.argsort(item, stable=True)
    user, item = user[order], item[order]
    folded = torch.zeros(count, embeddings.width, dtype=torch.float64, device=user.device)
    for first in range(0, embeddings.item_count, ranking.ITEM_TILE):
        last = min(first + ranking.ITEM_TILE, embeddings.item_count)
        tile = embeddings.item_tile(first, last).double()
        tile /= item_degrees[first:last].clamp(min=1).double().sqrt()[:, None]
        low, high = torch.searchsorted(item, item.new_tensor([first, last])).tolist()
        for start in range(low, high, BLOCK_PAIRS):
            block = slice(start, min(start + BLOCK_PAIRS, high))
            folded.index_add_(0, user[block], tile[item[block] - first])
    return (folded / histories.degrees.clamp(min=1).double().sqrt()[:, None]).float()
