"""`bench softmax`: the full-catalogue contrastive term, beside the three matrix products that it cannot avoid."""

import torch

from infodcl_dist.bench.figures import Figure
from infodcl_dist.bench.setting import Setting
from infodcl_dist.parallel.catalogue_softmax import catalogue_of, contrastive
from infodcl_dist.parallel.ownership import row_span


def measure(setting: Setting) -> list[Figure]:
    """Forward and backward of one channel's views with this rank's share of the items."""
    group, config = setting.group, setting.config
    per_rank = -(-config.train.global_batch_size // group.world_size)
    span = row_span(setting.dataset.items, group.rank, group.world_size)
    generator = torch.Generator().manual_seed(group.rank)

    def normal(rows: int) -> torch.Tensor:
        return torch.randn(rows, config.model.dim, generator=generator).to(group.device)

    views, own, rows = (normal(count).requires_grad_() for count in (per_rank, per_rank, span.size))
    shares = torch.full((per_rank,), 1.0 / per_rank, device=group.device)
    every_view = normal(per_rank * group.world_size)
    weights = torch.rand(every_view.shape[0], span.size, device=group.device)

    def term() -> None:
        views.grad = own.grad = rows.grad = None
        catalogue = catalogue_of(rows, items=setting.dataset.items, views=every_view.shape[0])
        contrastive(views, own, catalogue, shares, temperature=config.loss.temperature).backward()

    def products() -> None:
        fixed = rows.detach()
        torch.mm(every_view, fixed.T)
        torch.mm(weights, fixed)
        torch.mm(weights.T, every_view)

    named = {"contrastive term, forward and backward": term, "the three products alone": products}
    return [
        Figure(
            name,
            setting.timed(work),
            interactions=config.train.global_batch_size,
            flops=3 * 2.0 * every_view.shape[0] * span.size * config.model.dim,
            bytes=3.0 * weights.nbytes,
        )
        for name, work in named.items()
    ]
