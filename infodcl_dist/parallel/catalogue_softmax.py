"""The contrastive term's denominator over all N items, for item rows that are spread over ranks (Eq. 11).

B views a rank, W ranks, n_r item rows that rank r holds of N, D width.

As in vocabulary-parallel cross entropy: all ranks' views are gathered (W·B × D), each rank sums exp(cos / τ) over its
own rows tile by tile, and the sums are added over ranks. No W·B × N array ever exists, nor a copy of the rows: they are
normalized by tiles too, so that beside the shard there is its gradient alone.

Forward and backward are the three matrix products that they cannot avoid, and one exponential an entry: the first tiles
are kept for the backward pass, up to a constant size, and only what is beyond it is made again. What differs by view
(the softmax's denominator, the upstream gradient, 1/τ) scales the views and their gradient, never the tiles.
|cos| ≤ 1 bounds the exponent, so a constant shift of 1/τ replaces the pass that would look for the maximum.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from infodcl_dist.base.shapes import check_shape
from infodcl_dist.parallel.collectives import average_gradient, gather_rows, sum_over_ranks

# Tile of logits: 256 × 1024 float32 are 1 MB, which stays in a core's cache from the product to the sum.
TILE_VIEWS, TILE_ROWS = 256, 1024
KEPT_BYTES = 64 * 2**20  # of tiles, from the forward pass to the backward pass; whatever the batch and the catalogue
NORM_EPSILON = 1e-12  # of torch.nn.functional.normalize: a shorter row is divided by it


def contrastive(generated: Tensor, embeddings: Tensor, item_rows: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """L_con of Eq. 11: −ln softmax of the view's own item among all items, cosine similarity over temperature.

    Args:
        generated: views ê [B, D], one for each batch item.
        embeddings: the same items' rows e of the table [B, D].
        item_rows: this rank's rows of the item table [n_r, D]; the gradient reaches every row of every rank.
        shares: [B], see `model.losses`.
        temperature: τ.

    Returns:
        A scalar whose mean over ranks is the term's mean over the global batch.
    """
    log_sums, own = _log_sums(generated, embeddings, average_gradient(item_rows), temperature)
    return (shares * (log_sums - own)).sum()


def sampled_contrastive(
    generated: Tensor, embeddings: Tensor, samples: Tensor, shares: Tensor, *, inverse_rate: float, temperature: float
) -> Tensor:
    """The same with ln Σ_j exp(·) estimated by ln(N / S · Σ_s exp(·)) over all ranks' S uniform samples.

    Args:
        generated: views ê [B, D], one for each batch item.
        embeddings: the same items' rows e of the table [B, D].
        samples: rows of the items that this rank drew [S_r, D], S_r of S; from a lookup, through which TorchRec brings
            their gradient home (and averages it over ranks).
        inverse_rate: N / S.
        shares: [B], see `model.losses`.
        temperature: τ.

    Returns:
        A scalar whose mean over ranks is the estimate of the term's mean over the global batch.
    """
    log_sums, own = _log_sums(generated, embeddings, samples, temperature)
    return (shares * (log_sums + math.log(inverse_rate) - own)).sum()


def _log_sums(generated: Tensor, embeddings: Tensor, rows: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """ln Σ exp(cos / τ) over all ranks' rows, and cos / τ with the own item, each [B]."""
    check_shape("embeddings", embeddings, *generated.shape)
    check_shape("rows", rows, None, generated.shape[1])
    views = normalize(generated, dim=1)
    own = (views * normalize(embeddings, dim=1)).sum(dim=1) / temperature
    return _LogSumOverCatalogue.apply(views, rows, temperature), own


class _LogSumOverCatalogue(torch.autograd.Function):
    """ln Σ_j exp(v · r_j / (|r_j| τ)) over all ranks' rows r, for this rank's unit views v."""

    @staticmethod
    def forward(ctx: Any, views: Tensor, rows: Tensor, temperature: float) -> Tensor:
        all_views = gather_rows(views)
        scaled, sums = all_views / temperature, all_views.new_zeros(all_views.shape[0])
        kept: list[Tensor] = []
        free_bytes = KEPT_BYTES if ctx.needs_input_grad[0] or ctx.needs_input_grad[1] else 0
        for of_rows in _tiles(rows, TILE_ROWS):
            unit = normalize(rows[of_rows], dim=1)
            for of_views in _tiles(all_views, TILE_VIEWS):
                tile = _exponentials(scaled[of_views], unit, temperature)
                sums[of_views] += tile.sum(dim=1)
                free_bytes -= tile.nbytes
                if free_bytes >= 0:
                    kept.append(tile)
        sums = sum_over_ranks(sums)
        ctx.temperature, ctx.views, ctx.kept = temperature, views.shape[0], kept
        ctx.save_for_backward(all_views, rows, sums)
        return torch.log(_own_part(sums, views.shape[0])) + 1.0 / temperature

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        all_views, rows, sums = ctx.saved_tensors
        kept = iter(ctx.kept)
        # A tile's entry, times this scale of its view, is its softmax weight times the upstream gradient over τ.
        scale = (gather_rows(gradients[0]) / (sums * ctx.temperature))[:, None]
        scaled, weighted = all_views / ctx.temperature, all_views * scale
        grad_views, grad_rows = torch.zeros_like(all_views), torch.empty_like(rows)
        for of_rows in _tiles(rows, TILE_ROWS):
            unit = normalize(rows[of_rows], dim=1)
            grad_unit = torch.zeros_like(unit)
            for of_views in _tiles(all_views, TILE_VIEWS):
                tile = next(kept, None)
                if tile is None:
                    tile = _exponentials(scaled[of_views], unit, ctx.temperature)
                grad_views[of_views].addmm_(tile, unit)
                grad_unit.addmm_(tile.T, weighted[of_views])
            grad_rows[of_rows] = _before_normalization(rows[of_rows], unit, grad_unit)
        return _own_part(sum_over_ranks(grad_views.mul_(scale)), ctx.views), grad_rows, None


def _tiles(x: Tensor, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, x.shape[0], size))


def _before_normalization(rows: Tensor, unit: Tensor, grad_unit: Tensor) -> Tensor:
    """The gradient of rows from that of `normalize(rows)`: what is across them, over their norms."""
    norms = rows.norm(dim=1, keepdim=True)
    along = torch.where(norms > NORM_EPSILON, (grad_unit * unit).sum(dim=1, keepdim=True), 0.0)
    return (grad_unit - along * unit) / norms.clamp_min(NORM_EPSILON)


def _exponentials(scaled: Tensor, unit: Tensor, temperature: float) -> Tensor:
    """exp((cos − 1) / τ) of a tile, in (0, 1], of views over τ and unit rows. (Adding −1/τ in `addmm` first fills the
    tile with it, which takes 2.6 times as long as subtracting it while the product is in cache.)"""
    return torch.mm(scaled, unit.T).sub_(1.0 / temperature).exp_()


def _own_part(gathered: Tensor, views: int) -> Tensor:
    """This rank's B of W·B gathered rows."""
    if gathered.shape[0] == views:
        return gathered
    start = torch.distributed.get_rank() * views
    return gathered[start : start + views]
