"""The hand-written collectives, with their gradients. No other file of the package calls torch.distributed's.

n_r rows that rank r holds of N, d_r columns that it holds of D, W ranks.

Gradient convention: every rank's loss is scaled so that the mean over ranks is the loss of the global batch. The
gradient of a value that all ranks used is therefore the sum of what each rank sends back.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from infodcl_dist.base.spans import span
from infodcl_dist.parallel.ownership import Layout, Span, column_layout, column_spans, row_layout, row_span, row_spans

SideGroup: TypeAlias = dist.ProcessGroup
"""All ranks once more, on gloo: what is said there neither waits for a GPU nor meets training's collectives."""


def side_group(timeout_s: float) -> SideGroup:
    """A new one, whose collectives wait for at most `timeout_s`. A collective itself."""
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


def wait_as_all_ranks(group: dist.ProcessGroup, device: torch.device) -> None:
    """Gives a group that a library made, with torch's default time-out, that of the group of all ranks.

    Args:
        group: some ranks, on the same back end.
        device: of this rank.
    """
    of_all = dist.distributed_c10d._get_default_group()._get_backend(device)
    dist.distributed_c10d._set_pg_timeout(of_all.options._timeout, group)


def place() -> tuple[int, int]:
    """This process's rank and the world size."""
    return dist.get_rank(), dist.get_world_size()


def barrier(group: SideGroup | None = None) -> None:
    """Waits for all ranks."""
    dist.barrier(group)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of every rank's tensor, on every rank; differentiable."""
    return _SumOverRanks.apply(x) if dist.get_world_size() > 1 else x


class PendingSum:
    """A sum of every rank's tensor, in place, under way; not differentiable. All ranks begin theirs in one order."""

    def __init__(self, x: Tensor) -> None:
        self._sum = x
        self._work = dist.all_reduce(x, async_op=True) if dist.get_world_size() > 1 else None

    def wait(self) -> Tensor:
        """The sum, once it is there."""
        if self._work is not None:
            with span("communication"):
                self._work.wait()
        return self._sum


def mean_over_ranks(x: Tensor) -> Tensor:
    """Mean of every rank's tensor, on every rank; differentiable."""
    return sum_over_ranks(x) / dist.get_world_size()


def gather_rows(x: Tensor) -> Tensor:
    """Every rank's [B, …] (all of one shape) one under the other, [W·B, …]; not differentiable."""
    world_size = dist.get_world_size()
    if world_size == 1:
        return x
    gathered = x.new_empty(world_size * x.shape[0], *x.shape[1:])
    with span("communication"):
        dist.all_gather_into_tensor(gathered, x.contiguous())
    return gathered


def gather_columns(x: Tensor, width: int) -> Tensor:
    """From every rank's columns [N, d_r] of the same N rows, the whole [N, width] on every rank; not differentiable."""
    world_size = dist.get_world_size()
    if world_size == 1:
        return x
    spans = column_spans(width, world_size)
    # Padded to one width: gloo gathers equal shapes alone.
    widest = max(span.size for span in spans)
    padded = torch.nn.functional.pad(x, (0, widest - x.shape[1])).contiguous()
    parts = [torch.empty_like(padded) for _ in spans]
    dist.all_gather(parts, padded)
    return torch.cat([part[:, : span.size] for part, span in zip(parts, spans, strict=True)], dim=1)


def gather_matrix(own: Tensor, rows: int) -> Tensor:
    """The whole N × D matrix on every rank, from each rank's rows [n_r, D], those of `row_span`; differentiable."""
    return own if dist.get_world_size() == 1 else _GatherMatrix.apply(own, rows)


def gather_row_range(own: Tensor, rows: int, wanted: Span) -> Tensor:
    """Some rows of an N × D matrix of which each rank holds those of `row_span`, whole on every rank.

    Args:
        own: this rank's rows [n_r, D].
        rows: N.
        wanted: which; the same on every rank. Their owners broadcast them, one after another.
    """
    rank, world_size = place()
    if world_size == 1:
        return own[wanted.start : wanted.stop]
    found = own.new_empty(wanted.size, own.shape[1])
    for owner, held in enumerate(row_spans(rows, world_size)):
        start, stop = max(held.start, wanted.start), min(held.stop, wanted.stop)
        if start >= stop:
            continue
        part = found[start - wanted.start : stop - wanted.start]
        if owner == rank:
            part.copy_(own[start - held.start : stop - held.start])
        with span("communication"):
            dist.broadcast(part, src=owner)
    return found


def ring_blocks(own: Tensor, rows: list[int]) -> Iterator[tuple[int, Tensor]]:
    """Every rank's block, in turn: one's own, then that of the rank before, and so on round the ring.

    While a block is used the next one is on its way; a rank holds these two and its own. All ranks iterate to the end,
    and leave the blocks as they are, for they travel on.

    Args:
        own: this rank's block [n_r, C].
        rows: n_r of every rank.

    Yields:
        (rank whose block it is, block).
    """
    rank, world_size = place()
    block = own.contiguous()
    for step in range(world_size):
        owner, following = (rank - step) % world_size, (rank - step - 1) % world_size
        arriving = own.new_empty(rows[following] if step < world_size - 1 else 0, own.shape[1])
        # Both posted before either is waited for, in one group: no order of ranks can block them.
        posted = []
        if step < world_size - 1 and block.numel() > 0:
            posted.append(dist.P2POp(dist.isend, _as_bytes(block), (rank + 1) % world_size))
        if arriving.numel() > 0:
            posted.append(dist.P2POp(dist.irecv, _as_bytes(arriving), (rank - 1) % world_size))
        under_way = dist.batch_isend_irecv(posted) if posted else []
        yield owner, block
        for transfer in under_way:
            transfer.wait()
        block = arriving


def _as_bytes(x: Tensor) -> Tensor:
    """The same memory; what travels unchanged needs no number type that the back end knows."""
    return x.view(-1).view(torch.uint8)


def redistribute(x: Tensor, source: Layout, target: Layout) -> Tensor:
    """This rank's block of an N × D matrix by `target`, from its block by `source`; differentiable. One all-to-all."""
    return x if source == target else _Redistribute.apply(x, source, target)


def columns_to_rows(x: Tensor, width: int) -> Tensor:
    """From this rank's columns [N, d_r] of an N × D matrix, its rows [n_r, width]; see `redistribute`."""
    shape = x.shape[0], width, dist.get_world_size()
    return redistribute(x, column_layout(*shape), row_layout(*shape))


def average_gradient(x: Tensor) -> Tensor:
    """x itself; its gradient, a sum over ranks, becomes the mean that TorchRec's and DeepSpeed's gradients are."""
    return _AverageGradient.apply(x, dist.get_world_size())


def broadcast_object(value: Any, group: SideGroup | None = None) -> Any:
    """Rank 0's picklable value, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0, group=group)
    return box[0]


def gather_objects(value: Any, group: SideGroup | None = None) -> list[Any]:
    """Every rank's picklable value, in rank order, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group)
    return values


class AnyRank:
    """Whether a flag is up on any rank; on a group of its own, so that a GPU is never waited for."""

    def __init__(self, timeout_s: float) -> None:
        self._group = side_group(timeout_s)

    def __call__(self, flag: bool) -> bool:
        """The same answer on every rank."""
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
        return bool(flags.item())


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone().contiguous()
        with span("communication"):
            dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone().contiguous()
        with span("communication"):
            dist.all_reduce(total)
        return total


class _GatherMatrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: int) -> Tensor:
        ctx.span = row_span(rows, *place())
        # Blocks of one size, of which the last ranks' are filled up: their first N rows are the matrix.
        block = own.new_zeros(row_span(rows, 0, dist.get_world_size()).size, own.shape[1])
        block[: own.shape[0]] = own
        return gather_rows(block)[:rows]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return sum_over_ranks(gradients[0])[ctx.span.start : ctx.span.stop], None


class _AverageGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world_size: int) -> Tensor:
        ctx.world_size = world_size
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] / ctx.world_size, None


class _Redistribute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Layout, target: Layout) -> Tensor:
        ctx.source, ctx.target = source, target
        return _exchange(x, source, target)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _exchange(gradients[0], ctx.target, ctx.source), None, None


def _exchange(x: Tensor, source: Layout, target: Layout) -> Tensor:
    """To every rank what my block and its target have in common; the received parts into my target."""
    rank = dist.get_rank()
    mine, wanted = source[rank], target[rank]
    outgoing = [mine.within(theirs) for theirs in target]
    incoming = [theirs.within(wanted) for theirs in source]
    sent = torch.cat([x[part.slices_of(mine)].reshape(-1) for part in outgoing])
    sizes = [part.rows.size * part.columns.size for part in incoming]
    received = x.new_empty(sum(sizes))
    with span("communication"):
        dist.all_to_all_single(
            received,
            sent,
            output_split_sizes=sizes,
            input_split_sizes=[part.rows.size * part.columns.size for part in outgoing],
        )
    result = x.new_empty(wanted.shape)
    for part, values in zip(incoming, received.split(sizes), strict=True):
        result[part.slices_of(wanted)] = values.view(part.shape)
    return result
