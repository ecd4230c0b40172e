"""TorchRec's training pipeline around a loss of looked-up rows, with DeepSpeed's engine in it.

While a batch is computed, the ids of the next one travel to the owners of their rows, and the one after it is copied to
the device: on a GPU on streams of their own, on a CPU by gloo's threads. Rows are looked up when their batch's turn
has come, after every earlier update, so the numbers are those of a loop that does one thing after the other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.streamable import Pipelineable

from infodcl_dist.base.spans import span
from infodcl_dist.data.batches import Batch

Losses = dict[str, Tensor]
"""`loss`, which is differentiated, and what else a step reports; scalars."""


@dataclass
class Feed(Pipelineable):
    """What a step is fed with: a batch, and the ids that it looks up."""

    batch: Batch
    ids: KeyedJaggedTensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "Feed":
        """The same on a device."""
        return Feed(self.batch.to(device, non_blocking), self.ids.to(device, non_blocking))

    def pinned(self) -> "Feed":
        """The same in memory from which a GPU copies without the host's help."""
        return Feed(self.batch.pinned(), self.ids.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory until `stream`, too, is done with it."""
        for tensor in (self.ids, *self.batch.tensors()):
            tensor.record_stream(stream)


class Pipeline(TrainPipelineSparseDist[Feed, Losses]):
    """Trains on batches in order.

    Args:
        tables: TorchRec's sharded module; after the first batch it serves this pipeline alone.
        losses: of a batch and its pooled rows.
        optimizer: of the tables.
        engine: DeepSpeed's engine, whose weights `losses` uses; None when it uses none.
        device: of the tables.
    """

    def __init__(
        self,
        tables: nn.Module,
        losses: Callable[[Batch, KeyedTensor], Losses],
        optimizer: torch.optim.Optimizer,
        engine: Any | None,
        device: torch.device,
    ) -> None:
        super().__init__(_LossOfRows(tables, losses), _Optimizers(optimizer, engine), device)
        self._engine = engine

    def run(self, feeds: Iterator[Feed]) -> Iterator[Losses]:
        """Each batch's losses, once its update is done. The same number of batches on every rank."""
        if self._device.type == "cuda":
            feeds = (feed.pinned() for feed in feeds)
        while True:
            try:
                losses = self.progress(feeds)
            except StopIteration:
                return
            if not self._pipelined_modules:
                # TorchRec only warns of it.
                raise RuntimeError("TorchRec's pipeline did not recognize the tables: their ids travel in the step")
            yield losses

    def _backward(self, losses: Tensor) -> None:
        with span("backward"):
            if self._engine is None:
                losses.backward()
            else:
                self._engine.backward(losses)


class _Optimizers:
    """What TorchRec takes for the optimizer: it updates tables and channels. (The pipeline's own `_optimizer_step` is
    not to be overridden for this: TorchRec 1.6 has none, and would leave the channels as they are.)"""

    def __init__(self, tables: torch.optim.Optimizer, engine: Any | None) -> None:
        self._tables = tables
        self._engine = engine

    def zero_grad(self) -> None:
        """Of the tables; the engine clears its own gradients at the end of its step."""
        self._tables.zero_grad()

    def step(self) -> None:
        """One update of tables and channels."""
        with span("optimizer of tables"):
            self._tables.step()
        if self._engine is not None:
            with span("optimizer of channels"):
                self._engine.step()


class _LossOfRows(nn.Module):
    """The model that TorchRec traces: it must see that the tables' ids come straight from the feed."""

    def __init__(self, tables: nn.Module, losses: Callable[[Batch, KeyedTensor], Losses]) -> None:
        super().__init__()
        self.tables = tables
        self.losses = _Losses(losses)

    def forward(self, feed: Feed) -> tuple[Tensor, Losses]:
        result: tuple[Tensor, Losses] = self.losses(feed.batch, self.tables(feed.ids))
        return result


class _Losses(nn.Module):
    """A module, since TorchRec does not trace into modules without tables."""

    def __init__(self, losses: Callable[[Batch, KeyedTensor], Losses]) -> None:
        super().__init__()
        self._losses = losses

    def forward(self, batch: Batch, rows: KeyedTensor) -> tuple[Tensor, Losses]:
        found = self._losses(batch, rows)
        return found["loss"], {name: value.detach() for name, value in found.items()}
