"""The contrastive term's denominator over all N items, for item rows that are spread over ranks (Eq. 11).

B views a rank, W ranks, n_r item rows that rank r holds of N, D width.

As in vocabulary-parallel cross entropy: all ranks' views are gathered (W·B × D), each rank sums exp(cos / τ) over its
own rows, and the sums are added over ranks. No W·B × N array ever exists, nor a copy of the rows.

The term and its gradients are made in one sweep over blocks of views. A block's exponentials, tile by tile of rows,
stay in cache until its sums are known, and then serve both gradients: so there are the three matrix products that
cannot be avoided, and one exponential an entry. While a block's sums travel between ranks, the next block is begun.
What differs by view (its share of the loss, the softmax's denominator, 1/τ) scales views and their gradient, never the
tiles. The backward pass only multiplies by the upstream gradient, one number, the same on every rank.
|cos| ≤ 1 bounds the exponent, so a constant shift of 1/τ replaces the pass that would look for the maximum.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from infodcl_dist.base.shapes import check_shape
from infodcl_dist.parallel.collectives import PendingSum, gather_rows, place, sum_over_ranks

TILE_ROWS = 1024
# A block has as many views as keep its tiles within BLOCK_BYTES, between these bounds: few blocks are few messages (a
# millisecond each, where processes share cores), but tiles must come back from the cache, and narrow products are slow.
LEAST_VIEWS, MOST_VIEWS, BLOCK_BYTES = 256, 1024, 16 * 2**20
KEPT_BYTES = 64 * 2**20  # of a block's tiles; those beyond are made again. Over ranks two blocks are in work
NORM_EPSILON = 1e-12  # of torch.nn.functional.normalize: a shorter row is divided by it


def contrastive(
    generated: Tensor, embeddings: Tensor, item_rows: Tensor, shares: Tensor, *, items: int, temperature: float
) -> Tensor:
    """L_con of Eq. 11: −ln softmax of the view's own item among all items, cosine similarity over temperature.

    Args:
        generated: views ê [B, D], one for each batch item.
        embeddings: the same items' rows e of the table [B, D].
        item_rows: this rank's rows of the item table [n_r, D]; the gradient reaches every row of every rank, averaged
            over ranks as TorchRec's and DeepSpeed's are.
        shares: [B], see `model.losses`.
        items: N.
        temperature: τ.

    Returns:
        A scalar whose mean over ranks is the term's mean over the global batch. Every rank gives it the same weight.
    """
    catalogue = _Catalogue(item_rows, of_all_ranks=items, gradient_weight=1 / place()[1])
    return _term(generated, embeddings, catalogue, shares, temperature)


def sampled_contrastive(
    generated: Tensor,
    embeddings: Tensor,
    samples: Tensor,
    shares: Tensor,
    *,
    items: int,
    samples_of_all_ranks: int,
    temperature: float,
) -> Tensor:
    """The same with ln Σ_j exp(·) estimated by ln(N / S · Σ_s exp(·)) over all ranks' S uniform samples.

    Args:
        generated: views ê [B, D], one for each batch item.
        embeddings: the same items' rows e of the table [B, D].
        samples: rows of the items that this rank drew [S_r, D], S_r of S; from a lookup, through which TorchRec brings
            their gradient home (and averages it over ranks).
        shares: [B], see `model.losses`.
        items: N.
        samples_of_all_ranks: S.
        temperature: τ.

    Returns:
        A scalar whose mean over ranks is the estimate of the term's mean over the global batch.
    """
    catalogue = _Catalogue(samples, of_all_ranks=samples_of_all_ranks, gradient_weight=1.0)
    estimated = _term(generated, embeddings, catalogue, shares, temperature)
    return estimated + math.log(items / samples_of_all_ranks) * shares.sum()


class _Catalogue(NamedTuple):
    """What the views are compared with."""

    rows: Tensor  # of this rank [n_r, D]
    of_all_ranks: int
    gradient_weight: float  # of the rows' gradient


def _term(generated: Tensor, embeddings: Tensor, catalogue: _Catalogue, shares: Tensor, temperature: float) -> Tensor:
    """Σ_b share_b (ln Σ_j exp(cos / τ) − cos_own / τ) over all ranks' rows."""
    check_shape("embeddings", embeddings, *generated.shape)
    check_shape("rows", catalogue.rows, None, generated.shape[1])
    check_shape("shares", shares, generated.shape[0])
    views = normalize(generated, dim=1)
    own = (views * normalize(embeddings, dim=1)).sum(dim=1) / temperature
    log_sums: Tensor = _LogSumsOverCatalogue.apply(views, catalogue.rows, shares, temperature, catalogue)
    return log_sums - (shares * own).sum()


class _LogSumsOverCatalogue(torch.autograd.Function):
    """Σ_b share_b ln Σ_j exp(v_b · r_j / (|r_j| τ)) of this rank's unit views v, over all ranks' rows r."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        views, rows, shares, temperature, catalogue = given
        with_views, with_rows = ctx.needs_input_grad[:2]
        block_views = _views_of_block(-(-catalogue.of_all_ranks // place()[1]), views.itemsize)
        sweep = _Sweep(gather_rows(views), rows, gather_rows(shares), temperature, block_views)
        if with_views:
            sweep.grad_views = torch.zeros_like(sweep.views)
        if with_rows:
            sweep.grad_unit = torch.zeros_like(rows)
        sweep.run()
        of_views, of_rows = sweep.grad_views, sweep.grad_unit
        if of_views is not None:
            of_views = _own_part(sum_over_ranks(of_views), views.shape[0])
        if of_rows is not None:
            of_rows = _before_normalization_(rows, of_rows.mul_(catalogue.gradient_weight))
        ctx.gradients = of_views, of_rows
        return (shares * (_own_part(sweep.log_sums, views.shape[0]) + 1.0 / temperature)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        made, ctx.gradients = ctx.gradients, None
        if made is None:
            raise RuntimeError("the contrastive term is differentiated twice; its gradients are made once, in place")
        of_views, of_rows = (x if x is None else x.mul_(gradients[0]) for x in made)
        return of_views, of_rows, None, None, None


class _Sweep:
    """One pass over all ranks' views.

    Attributes:
        views: unit views of all ranks [W·B, D].
        rows: this rank's rows [n_r, D].
        shares: of all ranks' views [W·B].
        temperature: τ.
        block_views: of a block, the same on every rank.
        log_sums: ln Σ_j exp((cos_bj − 1) / τ) of each view [W·B], once `run` is done.
        grad_views: gradient of Σ_b share_b · log_sums_b by the views, as far as this rank's rows go [W·B, D]; None
            where it is not wanted.
        grad_unit: the same by the normalized rows [n_r, D], or None.
    """

    grad_views: Tensor | None = None
    grad_unit: Tensor | None = None

    def __init__(self, views: Tensor, rows: Tensor, shares: Tensor, temperature: float, block_views: int) -> None:
        self.views, self.rows, self.shares, self.temperature = views, rows, shares, temperature
        self.block_views = block_views
        self.log_sums = torch.empty_like(shares)
        self._scaled = views / temperature
        # Over ranks a block is finished after the next is begun, so that its sums have time to travel.
        self._lag = min(place()[1] - 1, 1)
        self._workspaces = [_Workspace(rows, min(block_views, views.shape[0])) for _ in range(self._lag + 1)]

    def run(self) -> None:
        """All blocks in turn."""
        in_work: deque[_Block] = deque()
        for number, of_views in enumerate(_tiles(self.views, self.block_views)):
            in_work.append(self._begin(of_views, self._workspaces[number % len(self._workspaces)]))
            if len(in_work) > self._lag:
                self._finish(in_work.popleft())
        while in_work:
            self._finish(in_work.popleft())

    def _begin(self, of_views: slice, workspace: "_Workspace") -> "_Block":
        block = _Block(of_views, workspace, self._scaled[of_views], self.temperature)
        sums = torch.zeros_like(self.shares[of_views])
        for tile, _, _ in block.tiles(self.rows, first_time=True):
            sums += tile.sum(dim=1)
        block.sums = PendingSum(sums)
        return block

    def _finish(self, block: "_Block") -> None:
        sums, of_views = block.sums.wait(), block.of_views
        torch.log(sums, out=self.log_sums[of_views])
        if self.grad_views is None and self.grad_unit is None:
            return
        # A tile's entry, times this weight of its view, is its softmax weight times the view's share over τ.
        weights = (self.shares[of_views] / (sums * self.temperature))[:, None]
        weighted = self.views[of_views] * weights
        for tile, unit, of_rows in block.tiles(self.rows, first_time=False):
            if self.grad_views is not None:
                self.grad_views[of_views].addmm_(tile, unit)
            if self.grad_unit is not None:
                self.grad_unit[of_rows].addmm_(tile.T, weighted)
        if self.grad_views is not None:
            self.grad_views[of_views] *= weights


class _Workspace:
    """Memory of a block's tiles, which one block uses after another: fresh memory would cost a page fault each 4 KB."""

    def __init__(self, rows: Tensor, views: int) -> None:
        tiles, size = -(-rows.shape[0] // TILE_ROWS), views * min(TILE_ROWS, rows.shape[0])
        self.kept = min(tiles, KEPT_BYTES // max(size * rows.itemsize, 1))
        # One more than are kept, for those that are not.
        self._memory = rows.new_empty(min(self.kept + 1, tiles), size)

    def tile(self, number: int, views: int, rows: int) -> Tensor:
        """Where the tile of this number is, [views, rows]."""
        return self._memory[min(number, self.kept)][: views * rows].view(views, rows)


class _Block:
    """Views in work, and their exponentials over this rank's rows."""

    sums: PendingSum

    def __init__(self, of_views: slice, workspace: _Workspace, scaled: Tensor, temperature: float) -> None:
        self.of_views, self._workspace, self._scaled, self._temperature = of_views, workspace, scaled, temperature

    def tiles(self, rows: Tensor, *, first_time: bool) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """exp((cos − 1) / τ) of a tile, its unit rows, and which rows these are; a kept tile is made the first time."""
        for number, of_rows in enumerate(_tiles(rows, TILE_ROWS)):
            unit = normalize(rows[of_rows], dim=1)
            tile = self._workspace.tile(number, self._scaled.shape[0], unit.shape[0])
            if first_time or number >= self._workspace.kept:
                _exponentials(self._scaled, unit, self._temperature, out=tile)
            yield tile, unit, of_rows


def _views_of_block(rows: int, itemsize: int) -> int:
    """Views of a block against so many rows, a multiple of the least."""
    fitting = BLOCK_BYTES // max(rows * itemsize, 1) // LEAST_VIEWS * LEAST_VIEWS
    return max(LEAST_VIEWS, min(fitting, MOST_VIEWS))


def _tiles(x: Tensor, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, x.shape[0], size))


def _before_normalization_(rows: Tensor, grad_unit: Tensor) -> Tensor:
    """The gradient of rows from that of `normalize(rows)`, in its place: what is across them, over their norms."""
    for of_rows in _tiles(rows, TILE_ROWS):
        norms, unit = rows[of_rows].norm(dim=1, keepdim=True), normalize(rows[of_rows], dim=1)
        along = torch.where(norms > NORM_EPSILON, (grad_unit[of_rows] * unit).sum(dim=1, keepdim=True), 0.0)
        grad_unit[of_rows] = (grad_unit[of_rows] - along * unit) / norms.clamp_min(NORM_EPSILON)
    return grad_unit


def _exponentials(scaled: Tensor, unit: Tensor, temperature: float, *, out: Tensor) -> None:
    """exp((cos − 1) / τ) of a tile, in (0, 1], of views over τ and unit rows. (Adding −1/τ in `addmm` first fills the
    tile with it, which takes 2.6 times as long as subtracting it while the product is in cache.)"""
    torch.mm(scaled, unit.T, out=out).sub_(1.0 / temperature).exp_()


def _own_part(gathered: Tensor, views: int) -> Tensor:
    """This rank's B of W·B gathered rows."""
    if gathered.shape[0] == views:
        return gathered
    start = torch.distributed.get_rank() * views
    return gathered[start : start + views]
