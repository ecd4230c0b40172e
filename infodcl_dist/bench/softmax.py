"""`bench softmax`: the full-catalogue contrastive term, beside the three matrix products that it cannot avoid.

B views of all ranks, N item rows of this one, D width, n rows of a block.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from infodcl_dist.bench.figures import Figure
from infodcl_dist.bench.setting import Setting
from infodcl_dist.parallel.catalogue_softmax import catalogue_of, contrastive
from infodcl_dist.parallel.ownership import row_span

BLOCK_BYTES = 2**26  # of the products' scores at a time, far more than a cache holds; assumption


def measure(setting: Setting) -> list[Figure]:
    """Forward and backward of one channel's views with this rank's share of the items."""
    group, config = setting.group, setting.config
    per_rank = -(-config.train.global_batch_size // group.world_size)
    span = row_span(setting.dataset.items, group.rank, group.world_size)
    generator = torch.Generator().manual_seed(group.rank)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, config.model.dim, generator=generator).to(group.device)

    views, own, rows = (normal(count).requires_grad_() for count in (per_rank, per_rank, span.size))
    shares = torch.full((per_rank,), 1.0 / per_rank, device=group.device)
    every_view = normal(per_rank * group.world_size)

    def term() -> None:
        views.grad = own.grad = rows.grad = None
        catalogue = catalogue_of(rows, items=setting.dataset.items, views=every_view.shape[0])
        contrastive(views, own, catalogue, shares, temperature=config.loss.temperature).backward()

    fixed = rows.detach()
    scores = scores_of_block(every_view, fixed)
    named: dict[str, Callable[[], None]] = {
        "contrastive term, forward and backward": term,
        "the three products alone": lambda: three_products(every_view, fixed, scores),
    }
    return [
        Figure(
            name,
            setting.timed(work),
            interactions=config.train.global_batch_size,
            flops=3 * 2.0 * every_view.shape[0] * span.size * config.model.dim,
            bytes=3.0 * every_view.shape[0] * span.size * every_view.itemsize,
        )
        for name, work in named.items()
    ]


def scores_of_block(views: Tensor, rows: Tensor) -> Tensor:
    """Room for the scores [B, n] of all views [B, D] with as many of the rows [N, D] as `BLOCK_BYTES` allow."""
    fitting = BLOCK_BYTES // max(1, views.shape[0] * views.itemsize)
    return views.new_empty(views.shape[0], max(1, min(fitting, rows.shape[0])))


def three_products(views: Tensor, rows: Tensor, scores: Tensor) -> None:
    """Scores, and both gradients' products by them, over blocks of rows: all scores together may be too large."""
    for part in rows.split(scores.shape[1]):
        of_part = scores.view(-1)[: len(views) * len(part)].view(len(views), len(part))
        torch.mm(views, part.T, out=of_part)
        torch.mm(of_part, part)
        torch.mm(of_part.T, views)
