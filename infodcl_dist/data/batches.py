"""Training batches as functions of (seed, epoch, global position): the same examples at any world size.

P training pairs, W ranks, B examples of a rank in a global batch (global batch size over W).

Position p of an epoch is pair permuted(p) with a negative drawn for p. A global batch is a run of positions, and a rank
takes its share of them: rank r the r-th block. The last batch is padded with examples of weight 0, so that no rank is
ever empty.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.random import key_for
from infodcl_dist.base.spans import span
from infodcl_dist.data.draws import draw_outside, draw_pairs
from infodcl_dist.data.item_rows import ItemRows
from infodcl_dist.data.rows import CompressedRows


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch; B examples."""

    epoch: int
    positions: Tensor  # int64 [B], global positions in the epoch: the counters of all this batch's random numbers;
    # padding has the first example's
    users: Tensor  # int64 [B]
    positives: Tensor  # int64 [B], an item of the user's training set
    negatives: Tensor  # int64 [B], an item outside it
    weights: Tensor  # float32 [B], 1 for examples and 0 for padding
    global_examples: int  # examples of the global batch, padding not counted
    metadata: dict[str, Tensor]  # float32 [B, F] a channel, rows of the positive items; NaN where an item has none

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The same on a device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pinned(self) -> "Batch":
        """The same in memory from which a GPU copies without the host's help."""
        return self._with(torch.Tensor.pin_memory)

    def tensors(self) -> list[Tensor]:
        """All its tensors."""
        return [self.positions, self.users, self.positives, self.negatives, self.weights, *self.metadata.values()]

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            positions=change(self.positions),
            users=change(self.users),
            positives=change(self.positives),
            negatives=change(self.negatives),
            weights=change(self.weights),
            metadata={name: change(rows) for name, rows in self.metadata.items()},
        )


class Batches:
    """All batches of one rank.

    Args:
        rows: all training pairs, perhaps mapped: M rows of items.
        items: N.
        global_batch_size: examples a global batch, over all ranks.
        seed: of permutation and negatives.
        metadata: per channel its rows [N, F], of which only the batch's are read.
        rank, world_size: this rank's place.

    Raises:
        UserError: a user has all items, so that no negative can be drawn; names its index.
    """

    def __init__(
        self,
        rows: CompressedRows,
        *,
        items: int,
        global_batch_size: int,
        seed: int,
        metadata: Mapping[str, ItemRows],
        rank: int,
        world_size: int,
    ) -> None:
        degrees = rows.degrees
        if degrees.max(initial=0) >= items:
            raise UserError(
                f"user index {int(degrees.argmax())} has all {items} items in training: no negative can be drawn"
            )
        self.per_rank = -(-global_batch_size // world_size)
        self.global_batch_size = global_batch_size
        self.pairs = rows.pair_count
        self._rows, self._items = rows, items
        self._metadata = metadata
        self._seed, self._rank = seed, rank

    @property
    def steps(self) -> int:
        """Global batches an epoch."""
        return -(-self.pairs // self.global_batch_size)

    def examples(self, step: int) -> int:
        """Examples of global batch `step`, padding not counted."""
        return min(self.global_batch_size, self.pairs - step * self.global_batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, in order, from `first_step` on."""
        for step in range(first_step, self.steps):
            with span("data"):
                batch = self.batch(epoch, step)
            yield batch

    def batch(self, epoch: int, step: int) -> Batch:
        """Batch `step` of an epoch."""
        start = step * self.global_batch_size
        examples = self.examples(step)
        within = self._rank * self.per_rank + torch.arange(self.per_rank)
        real = within < examples
        # Padding repeats the batch's first example, so that it looks no other row up: a lazy optimizer would move one.
        positions = torch.where(real, start + within, start)
        users, positives = draw_pairs(key_for(self._seed, "order", epoch), positions.numpy(), self._rows)
        key = key_for(self._seed, "negative", epoch)
        negatives = draw_outside(key, positions.numpy(), users, self._rows, self._items)
        return Batch(
            epoch=epoch,
            positions=positions,
            users=torch.from_numpy(users),
            positives=torch.from_numpy(positives),
            negatives=torch.from_numpy(negatives),
            weights=real.float(),
            global_examples=examples,
            metadata={name: torch.from_numpy(rows[positives]) for name, rows in self._metadata.items()},
        )
