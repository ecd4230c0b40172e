"""Where a training stands: all that the loop decides with, the same on every rank."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

SELECTING = "recall@20"  # on validation, by which the best epoch is chosen
SELECTED_BY = f"valid/{SELECTING}"  # the same as `metrics.jsonl` names it


@dataclass(frozen=True)
class FitState:
    """The position in the data, what early stopping has seen, and the running sums of the epoch in progress."""

    epoch: int = 1  # in progress
    step: int = 0  # steps done in it
    steps_done: int = 0  # steps done in all epochs: the optimizers' step count
    best_epoch: int = 0
    best_valid: dict[str, float] = field(default_factory=dict)
    without_gain: int = 0  # evaluations since the best
    seconds: float = 0.0  # trained and evaluated in all
    epoch_seconds: tuple[float, ...] = ()  # of finished epochs
    seconds_in_epoch: float = 0.0
    # Sums of the epoch's loss terms so far, by term, one number a rank that saved them.
    loss_sums: dict[str, list[float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it; floats survive exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FitState":
        """What `to_json` gave."""
        return cls(**{**values, "epoch_seconds": tuple(values["epoch_seconds"])})

    def loss_sums_of(self, rank: int, world_size: int) -> dict[str, float]:
        """A rank's sums: its own at the same world size (so that resuming changes no bit), else the mean of all."""
        return {
            name: sums[rank] if len(sums) == world_size else sum(sums) / len(sums)
            for name, sums in self.loss_sums.items()
        }

    def after_steps(self, step: int, seconds_in_epoch: float) -> "FitState":
        """Further on in the same epoch: `step` steps of it are done."""
        steps_done = self.steps_done + step - self.step
        return replace(self, step=step, steps_done=steps_done, seconds_in_epoch=seconds_in_epoch)

    def after_epoch(self) -> "FitState":
        """At the start of the next epoch."""
        finished = (*self.epoch_seconds, self.seconds_in_epoch)
        return replace(self, epoch=self.epoch + 1, step=0, epoch_seconds=finished, seconds_in_epoch=0.0, loss_sums={})

    def after_evaluation(self, epoch: int, valid: dict[str, float]) -> "FitState":
        """With a validation result of `epoch` taken in."""
        if self.best_valid and valid[SELECTING] <= self.best_valid[SELECTING]:
            return replace(self, without_gain=self.without_gain + 1)
        return replace(self, best_epoch=epoch, best_valid=valid, without_gain=0)
