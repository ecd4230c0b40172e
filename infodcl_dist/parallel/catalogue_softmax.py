"""The contrastive term's denominator over all N items, for item rows that are spread over ranks (Eq. 11).

B views a rank, W ranks, n_r item rows that rank r holds of N, D width.

A catalogue of more rows than there are views stays where it is, as in vocabulary-parallel cross entropy: all ranks'
views are gathered (W·B × D), each rank sums exp(cos / τ) over its own rows, and the sums are added over ranks. A
smaller one is gathered instead (N × D), and each rank compares its own views with all of it: fewer bytes travel, and
ranks wait for each other twice a step rather than at every block. Either way no B × N array ever exists.

The term and its gradients are made in one sweep (`parallel.softmax_sweep`); the backward pass only multiplies them by
the upstream gradient, one number, the same on every rank.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from infodcl_dist.base.shapes import check_shape
from infodcl_dist.parallel.collectives import gather_matrix, gather_rows, place, sum_over_ranks
from infodcl_dist.parallel.softmax_sweep import Sweep, before_normalization_, shift_of, unit_vectors


class Catalogue(NamedTuple):
    """What views are compared with; made once a step, by `catalogue_of` or `catalogue_of_samples`."""

    rows: Tensor  # of this rank [n_r, D]
    largest: int  # n_r of the rank that has most
    is_spread: bool  # each rank has other rows, against which all ranks' views must be held
    gradient_weight: float  # of the rows' gradient
    log_weight: float = 0.0  # ln of how many items a row stands for

    def as_constants(self) -> "Catalogue":
        """The same rows, which no gradient reaches."""
        return self._replace(rows=self.rows.detach())


def catalogue_of(item_rows: Tensor, *, items: int, views: int) -> Catalogue:
    """All items, gathered when views outnumber them. A collective then.

    Args:
        item_rows: this rank's rows of the item table [n_r, D]; the gradient reaches every row of every rank, averaged
            over ranks as TorchRec's and DeepSpeed's are.
        items: N.
        views: that a step compares with them, of all ranks.
    """
    world_size = place()[1]
    if items <= views:
        return Catalogue(gather_matrix(item_rows, items), items, is_spread=False, gradient_weight=1 / world_size)
    return Catalogue(item_rows, -(-items // world_size), is_spread=world_size > 1, gradient_weight=1 / world_size)


def catalogue_of_samples(samples: Tensor, *, items: int, samples_of_all_ranks: int) -> Catalogue:
    """Uniform samples in place of all items: ln Σ_j exp(·) is estimated by ln(N / S · Σ_s exp(·)).

    Args:
        samples: rows of the items that this rank drew [S_r, D]; from a lookup, through which TorchRec brings their
            gradient home (and averages it over ranks).
        items: N.
        samples_of_all_ranks: S.
    """
    world_size = place()[1]
    largest, log_weight = -(-samples_of_all_ranks // world_size), math.log(items / samples_of_all_ranks)
    return Catalogue(samples, largest, is_spread=world_size > 1, gradient_weight=1.0, log_weight=log_weight)


def contrastive(
    generated: Tensor, embeddings: Tensor, catalogue: Catalogue, shares: Tensor, *, temperature: float
) -> Tensor:
    """L_con of Eq. 11: −ln softmax of the view's own item among all items, cosine similarity over temperature.

    Args:
        generated: views ê [B, D], one for each batch item.
        embeddings: the same items' rows e of the table [B, D].
        catalogue: what they are compared with.
        shares: [B], see `model.losses`.
        temperature: τ.

    Returns:
        A scalar whose mean over ranks is the term's mean over the global batch (its estimate from samples). Every rank
        gives it the same weight.
    """
    check_shape("embeddings", embeddings, *generated.shape)
    check_shape("rows", catalogue.rows, None, generated.shape[1])
    check_shape("shares", shares, generated.shape[0])
    views = unit_vectors(generated)
    own = (views * unit_vectors(embeddings)).sum(dim=1) / temperature
    log_sums: Tensor = _LogSumsOverCatalogue.apply(views, catalogue.rows, shares, temperature, catalogue)
    return log_sums - (shares * (own - catalogue.log_weight)).sum()


class _LogSumsOverCatalogue(torch.autograd.Function):
    """Σ_b share_b ln Σ_j exp(v_b · r_j / (|r_j| τ)) of this rank's unit views v, over all ranks' rows r."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        views, rows, shares, temperature, catalogue = given
        with_views, with_rows = ctx.needs_input_grad[:2]
        most_rows, is_spread = catalogue.largest, catalogue.is_spread
        all_views, all_shares = (gather_rows(views), gather_rows(shares)) if is_spread else (views, shares)
        sweep = Sweep(all_views, all_shares, rows, most_rows=most_rows, is_spread=is_spread, temperature=temperature)
        if with_views:
            sweep.grad_views = torch.zeros_like(sweep.views)
        if with_rows:
            sweep.grad_unit = torch.zeros_like(rows)
        sweep.run()
        of_views, of_rows = sweep.grad_views, sweep.grad_unit
        if of_views is not None:
            of_views = _own_part(sum_over_ranks(of_views) if is_spread else of_views, views.shape[0])
        if of_rows is not None:
            of_rows = before_normalization_(rows, of_rows.mul_(catalogue.gradient_weight))
        ctx.gradients = of_views, of_rows
        return (shares * (_own_part(sweep.log_sums, views.shape[0]) + shift_of(temperature))).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        made, ctx.gradients = ctx.gradients, None
        if made is None:
            raise RuntimeError("the contrastive term is differentiated twice; its gradients are made once, in place")
        of_views, of_rows = (x if x is None else x.mul_(gradients[0]) for x in made)
        return of_views, of_rows, None, None, None


def _own_part(gathered: Tensor, views: int) -> Tensor:
    """This rank's B of W·B gathered rows."""
    if gathered.shape[0] == views:
        return gathered
    start = place()[0] * views
    return gathered[start : start + views]
