"""Training steps: the objective, the two optimizers, and the pipeline that they run in. No I/O."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from infodcl_dist.base.spans import span
from infodcl_dist.data.batches import Batch
from infodcl_dist.parallel.dense import initialize_engine
from infodcl_dist.parallel.pipeline import Feed, Pipeline
from infodcl_dist.parallel.table_optimizers import set_learning_rate
from infodcl_dist.parallel.tables import Tables
from infodcl_dist.train.objective import Objective


class Step:
    """What updates tables and channels.

    Args:
        objective: what is minimized.
        learning_rate: of both optimizers.
        matmul_precision: of float32 products, see `TrainConfig`.

    Attributes:
        tables: the sharded embedding tables.
        optimizer: of the tables.
        engine: DeepSpeed's engine around the channels, with their optimizer; None for a model without channels.
        channels: the model inside the engine, or None.
        objective: what is minimized.
    """

    def __init__(self, objective: Objective, *, learning_rate: float, matmul_precision: str = "highest") -> None:
        self.objective = objective
        self.matmul_precision = matmul_precision
        self.tables: Tables = objective.tables
        self.engine: Any | None = objective.engine
        self.channels: nn.Module | None = None if self.engine is None else self.engine.module
        self.optimizer: torch.optim.Optimizer = self.tables.make_optimizer(learning_rate)
        if self.engine is not None:
            initialize_engine(self.engine)
        self._pipeline = Pipeline(
            self.tables.module.module, self._losses, self.optimizer, self.engine, self.tables.user_rows.device
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of both optimizers, in the steps to come."""
        self.tables.set_learning_rate(self.optimizer, learning_rate)
        if self.engine is not None:
            set_learning_rate(self.engine.optimizer, learning_rate)

    def run(self, batches: Iterable[Batch]) -> Iterator[dict[str, Tensor]]:
        """Updates tables and channels by each batch in turn; yields `loss` and its unweighted terms after each update.

        Batches are taken two ahead of the one that is computed. Their means over ranks are the global batch's terms.
        """
        steps = self._pipeline.run(self._feed(batch) for batch in batches)
        while True:
            # It is a setting of the whole process: between steps it is what it was.
            with matmul_precision(self.matmul_precision):
                losses = next(steps, None)
            if losses is None:
                return
            yield losses

    def _feed(self, batch: Batch) -> Feed:
        with span("data"):
            samples = self.objective.samples(batch)
            return Feed(batch, self.tables.ids(batch.users, batch.positives, batch.negatives, samples))

    def _losses(self, batch: Batch, pooled: Any) -> dict[str, Tensor]:
        with span("tables"):
            rows = self.tables.rows_of(pooled)
        return self.objective.losses(batch, rows)


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """torch's setting of float32 products, for as long as this is open."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
