"""One sweep over blocks of views that makes ln Σ_j exp(cos / τ) of each view and its gradients (Eq. 11).

V views, n_r item rows of this rank, D width; see `parallel.catalogue_softmax`, which says what is summed over ranks.

A block's exponentials, tile by tile of rows, stay in cache until its sums are known, and then serve both gradients: so
there are the three matrix products that cannot be avoided, and one exponential an entry. While a block's sums travel
between ranks, the next block is begun. What differs by view (its share of the loss, the softmax's denominator, 1/τ)
scales views and their gradient, never the tiles.
|cos| ≤ 1 bounds the exponent by 1/τ, so no pass looks for the maximum: where exp(1/τ) is far from float32's largest
number it is taken as it is, else shifted by 1/τ.

Where torch may round the inputs of products to bfloat16 (`train.matmul_precision=medium`), a CPU with units for it gets
tiles that are bfloat16, and sums of products are rounded to it, tile by tile; what is added up over tiles is float32.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from infodcl_dist.parallel.collectives import PendingSum


class Sizes(NamedTuple):
    """How much of the term is in work at a time, on one kind of device."""

    tile_rows: int  # about
    # A block has as many views as keep its tiles within `block_bytes`, between these bounds: few blocks are few
    # messages (a millisecond each, where processes share cores), and narrow products are slow.
    least_views: int
    most_views: int
    block_bytes: int
    # Of a block's tiles, and of the catalogue's rows at length 1; what is beyond is made again. Over ranks two blocks
    # are in work.
    kept_bytes: int


# A CPU's tiles must come back from its cache. A GPU's are launches, a dozen each: 8,192 views against 125,000 rows take
# a hundredth of those that the CPU's sizes would (counted, not timed: no GPU was at hand).
SIZES = {
    "cpu": Sizes(1024, least_views=256, most_views=1024, block_bytes=16 * 2**20, kept_bytes=64 * 2**20),
    "cuda": Sizes(2**15, least_views=1024, most_views=8192, block_bytes=2**29, kept_bytes=2**29),
}
# 10⁹ times e⁴⁰ is 2e26, and e⁻⁴⁰ 4e-18: sums of such exponentials neither overflow nor vanish in float32.
UNSHIFTED_EXPONENT = 40.0
ROUNDED_EXPONENT = 10.0  # bfloat16 is 0.02 off it at most, and its exponential 2 %; a larger one stays float32
NORM_EPSILON = 1e-12  # of torch.nn.functional.normalize: a shorter row is divided by it


class Sweep:
    """One pass over V views: all ranks' if the catalogue is spread, else this rank's.

    Args:
        views: unit views [V, D].
        shares: of the views, of the loss [V].
        rows: this rank's rows [n_r, D].
        most_rows: n_r of the rank that has most, so that blocks are the same on every rank.
        is_spread: each rank has other rows, and a block's sums are added over ranks.
        temperature: τ.

    Attributes:
        log_sums: ln Σ_j exp(cos_bj / τ − shift) of each view [V], once `run` is done.
        grad_views: gradient of Σ_b share_b · log_sums_b by the views, as far as this rank's rows go [V, D]; None
            where it is not wanted.
        grad_unit: the same by the normalized rows [n_r, D], or None.
    """

    grad_views: Tensor | None = None
    grad_unit: Tensor | None = None

    def __init__(
        self, views: Tensor, shares: Tensor, rows: Tensor, *, most_rows: int, is_spread: bool, temperature: float
    ) -> None:
        self.views, self.shares, self.rows, self.temperature = views, shares, rows, temperature
        self.block_views = _views_of_block(most_rows, views)
        self.log_sums = torch.empty_like(shares)
        self._scaled, self._is_spread = views / temperature, is_spread
        # Over ranks a block is finished after the next is begun, so that its sums have time to travel.
        self._lag = int(self._is_spread)
        most_views, self._kind = min(self.block_views, views.shape[0]), _type_of_tiles(views, temperature)
        self._unit_rows = _UnitRows(self.rows, views.shape[0], self._kind)
        self._workspaces = [_Workspace(self.rows, most_views, self._kind) for _ in range(self._lag + 1)]

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
        block = _Block(of_views, workspace, self._scaled[of_views].to(self._kind), self.temperature)
        sums = torch.zeros_like(self.shares[of_views])
        for tile, _, _ in block.tiles(self._unit_rows, first_time=True):
            sums += workspace.sums_of_views(tile)
        block.sums, block.pending = sums, PendingSum(sums) if self._is_spread else None
        return block

    def _finish(self, block: "_Block") -> None:
        if block.pending is not None:
            block.pending.wait()
        sums, of_views = block.sums, block.of_views
        torch.log(sums, out=self.log_sums[of_views])
        if self.grad_views is None and self.grad_unit is None:
            return
        # A tile's entry, times this weight of its view, is its softmax weight times the view's share over τ.
        weights = (self.shares[of_views] / (sums * self.temperature))[:, None]
        weighted = (self.views[of_views] * weights).to(self._kind)
        for tile, unit, of_rows in block.tiles(self._unit_rows, first_time=False):
            if self.grad_views is not None:
                _add_product_(self.grad_views[of_views], tile, unit)
            if self.grad_unit is not None:
                _add_product_(self.grad_unit[of_rows], tile.T, weighted)
        if self.grad_views is not None:
            self.grad_views[of_views] *= weights


class _UnitRows:
    """The catalogue's rows at length 1, in the type of tiles: made once if they are no more than the views, or few
    bytes; else a tile at a time and anew for every block, so that no copy of a large catalogue exists."""

    def __init__(self, rows: Tensor, views: int, kind: torch.dtype) -> None:
        self._rows, self._kind = rows, kind
        self._kept: Tensor | None = None
        if rows.shape[0] <= views or rows.numel() * kind.itemsize <= SIZES[rows.device.type].kept_bytes:
            made = torch.empty_like(rows, dtype=kind)
            for of_rows, unit in self.tiles():
                made[of_rows] = unit
            self._kept = made

    def tiles(self) -> Iterator[tuple[slice, Tensor]]:
        """Which rows a tile has, and these at length 1."""
        for of_rows in _tiles(self._rows, _rows_of_tile(self._rows)):
            made = self._kept
            yield of_rows, normalize(self._rows[of_rows], dim=1).to(self._kind) if made is None else made[of_rows]


class _Workspace:
    """Memory of a block's tiles, which one block uses after another: fresh memory would cost a page fault each 4 KB."""

    def __init__(self, rows: Tensor, views: int, kind: torch.dtype) -> None:
        of_tile = _rows_of_tile(rows)
        tiles, size = -(-rows.shape[0] // of_tile), views * of_tile
        self.kept = min(tiles, SIZES[rows.device.type].kept_bytes // max(size * kind.itemsize, 1))
        # One more than are kept, for those that are not.
        self._memory = rows.new_empty(min(self.kept + 1, tiles), size, dtype=kind)
        # A sum of bfloat16 in float32 is that of a copy, which torch would make in fresh memory for every tile.
        self._exact = rows.new_empty(size if kind != rows.dtype else 0)

    def tile(self, number: int, views: int, rows: int) -> Tensor:
        """Where the tile of this number is, [views, rows]."""
        return self._memory[min(number, self.kept)][: views * rows].view(views, rows)

    def sums_of_views(self, tile: Tensor) -> Tensor:
        """A tile's entries, added up over its rows of the catalogue in the views' own type."""
        exact = self._exact[: tile.numel()].view(tile.shape).copy_(tile) if self._exact.numel() else tile
        return exact.sum(dim=1)


class _Block:
    """Views in work, and their exponentials over this rank's rows."""

    sums: Tensor
    pending: PendingSum | None  # the same sums over all ranks, on their way

    def __init__(self, of_views: slice, workspace: _Workspace, scaled: Tensor, temperature: float) -> None:
        self.of_views, self._workspace, self._scaled, self._temperature = of_views, workspace, scaled, temperature

    def tiles(self, rows: _UnitRows, *, first_time: bool) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """exp(cos / τ − shift) of a tile, its unit rows, and which these are; a kept tile is made the first time."""
        for number, (of_rows, unit) in enumerate(rows.tiles()):
            tile = self._workspace.tile(number, self._scaled.shape[0], unit.shape[0])
            if first_time or number >= self._workspace.kept:
                _exponentials(self._scaled, unit, self._temperature, out=tile)
            yield tile, unit, of_rows


def prefers_bfloat16(device: torch.device) -> bool:
    """Whether products may be rounded to bfloat16, and tensors of it are multiplied faster than float32.

    torch itself rounds float32 inputs on a CPU with AMX alone; one with AVX-512 BF16 needs tensors that are bfloat16
    already. A GPU's tensor cores need no such help.
    """
    may_round = torch.get_float32_matmul_precision() == "medium"
    return may_round and device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def _type_of_tiles(views: Tensor, temperature: float) -> torch.dtype:
    """bfloat16 where it is faster and exponents are small; else the views' own."""
    is_rounded = views.dtype == torch.float32 and 1 / temperature <= ROUNDED_EXPONENT and prefers_bfloat16(views.device)
    return torch.bfloat16 if is_rounded else views.dtype


def _add_product_(into: Tensor, tile: Tensor, other: Tensor) -> None:
    """Adds tile @ other; the product of a bfloat16 tile is rounded, what it is added to is not."""
    if tile.dtype == into.dtype:
        into.addmm_(tile, other)
    else:
        into += tile @ other


def _rows_of_tile(rows: Tensor) -> int:
    """Some `tile_rows`, and as many in the last tile, whose products would be slow if they were narrow."""
    count = rows.shape[0]
    return max(1, -(-count // max(1, round(count / SIZES[rows.device.type].tile_rows))))


def _views_of_block(rows: int, views: Tensor) -> int:
    """Views of a block against so many rows, a multiple of the least."""
    sizes = SIZES[views.device.type]
    fitting = sizes.block_bytes // max(rows * views.itemsize, 1) // sizes.least_views * sizes.least_views
    return max(sizes.least_views, min(fitting, sizes.most_views))


def _tiles(x: Tensor, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, x.shape[0], size))


def unit_vectors(rows: Tensor) -> Tensor:
    """Rows [V, D] at length 1, as `normalize(rows, dim=1)` has them.

    The gradient takes a few passes over a tile in cache, where autograd's own takes a dozen over memory.
    """
    of_length_1: Tensor = _Unit.apply(rows)
    return of_length_1


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return normalize(rows, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        return before_normalization_(rows, gradients[0].clone())


def before_normalization_(rows: Tensor, grad_unit: Tensor) -> Tensor:
    """The gradient of rows from that of `normalize(rows)`, in its place: what is across them, over their norms."""
    for of_rows in _tiles(rows, _rows_of_tile(rows)):
        norms, unit = rows[of_rows].norm(dim=1, keepdim=True), normalize(rows[of_rows], dim=1)
        along = torch.where(norms > NORM_EPSILON, (grad_unit[of_rows] * unit).sum(dim=1, keepdim=True), 0.0)
        grad_unit[of_rows] = (grad_unit[of_rows] - along * unit) / norms.clamp_min(NORM_EPSILON)
    return grad_unit


def _exponentials(scaled: Tensor, unit: Tensor, temperature: float, *, out: Tensor) -> None:
    """exp(cos / τ − shift) of a tile, of views over τ and unit rows. (Adding −shift in `addmm` first fills the tile
    with it, which takes 2.6 times as long as subtracting it while the product is in cache.)"""
    torch.mm(scaled, unit.T, out=out)
    if (shift := shift_of(temperature)) > 0:
        out -= shift
    out.exp_()


def shift_of(temperature: float) -> float:
    """What exponents are lowered by, so that they stay in range."""
    return 1.0 / temperature if 1.0 / temperature > UNSHIFTED_EXPONENT else 0.0
