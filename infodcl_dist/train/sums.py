"""Running sums of an epoch's loss terms: on the device without a synchronization, read when something is to be kept."""

import torch
from torch import Tensor

from infodcl_dist.base.errors import UserError
from infodcl_dist.parallel.collectives import gather_objects
from infodcl_dist.train.objective import TERMS

NEVER = 2**62


class LossSums:
    """Sums of this rank's loss terms, whose mean over ranks is the epoch's mean over examples.

    Args:
        epoch: in progress, for messages.
        batch_size: examples of a global batch, for messages.
        start: this rank's sums before the first step that is added here, by term; empty at an epoch's start.
    """

    def __init__(self, epoch: int, batch_size: int, start: dict[str, float]) -> None:
        self._epoch, self._batch_size, self._start = epoch, batch_size, start
        self._names = list(start)
        self._sums = torch.tensor(list(start.values()), dtype=torch.float64)
        self._first_bad = torch.full_like(self._sums, NEVER, dtype=torch.int64)
        self._is_on_device = False

    def add(self, terms: dict[str, Tensor], share: float, step: int) -> None:
        """Adds a step's scalars, weighted by the step's share of the epoch's examples."""
        values = torch.stack(list(terms.values())).double()
        if not self._is_on_device:
            self._is_on_device, self._names = True, list(terms)
            self._sums = values.new_tensor([self._start.get(name, 0.0) for name in self._names])
            self._first_bad = torch.full_like(values, NEVER, dtype=torch.int64)
        self._sums += values * share
        self._first_bad = torch.where(torch.isfinite(values), self._first_bad, self._first_bad.clamp(max=step))

    def by_rank(self) -> dict[str, list[float]]:
        """Every rank's sums by term; a collective.

        Raises:
            UserError: a term was NaN or infinite on some rank; names the first such step and its batch, on every rank.
        """
        ranks = gather_objects((self._sums.tolist(), self._first_bad.tolist()))
        step, name = min((steps[i], name) for _, steps in ranks for i, name in enumerate(self._names))
        if step < NEVER:
            raise UserError(
                f"loss term {name} is not finite in epoch {self._epoch}, step {step}, "
                f"a batch of {self._batch_size:,} from example {step * self._batch_size:,} of the epoch's order on: "
                "lower train.learning_rate or the weight of the term, in another run.path"
            )
        return {name: [sums[i] for sums, _ in ranks] for i, name in enumerate(self._names)}

    def means(self) -> dict[str, float]:
        """`loss` and `loss/TERM`, means over the examples so far; a term left out is 0. A collective."""
        means = {name: sum(sums) / len(sums) for name, sums in self.by_rank().items()}
        return {"loss": means["loss"]} | {f"loss/{term}": means.get(term, 0.0) for term in TERMS}
