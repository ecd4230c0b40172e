"""The training loop: epochs, evaluations, early stopping. What a run keeps (files, checkpoints) is for its hooks."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from pydantic import Field

from infodcl_dist.base.config import Config
from infodcl_dist.base.console import log, progress
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.batches import Batches
from infodcl_dist.parallel.collectives import gather_objects, place
from infodcl_dist.train.state import SELECTED_BY, FitState
from infodcl_dist.train.step import Step
from infodcl_dist.train.sums import LossSums


class TrainConfig(Config):
    """The loop."""

    epochs: int = Field(default=200, ge=1, description="passes over the training pairs, at most")
    global_batch_size: int = Field(default=2000, ge=1, description="examples a step, over all ranks")
    learning_rate: float = Field(
        default=0.001, gt=0, le=1, description="of the optimizers of tables and channels alike"
    )
    schedule: Literal["constant", "linear"] = Field(
        default="constant",
        description="of the learning rate; linear: it falls in equal steps an epoch, from learning_rate in the first "
        "to learning_rate / epochs in the last that train.epochs allows (a run that goes on with other epochs "
        "goes on at other rates)",
    )
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        default="highest",
        description="of a step's float32 matrix products, in torch's terms: highest is float32; medium rounds their "
        "inputs to bfloat16 and sums in float32, faster where the processor has units for it (AVX-512 BF16, AMX, "
        "tensor cores); high lies between (TF32 on a GPU). On such a CPU the catalogue's exponents, and sums within a "
        "tile, are rounded too. Evaluation and the GCN pass stay at highest",
    )
    evaluate_every: int = Field(default=5, ge=1, description="epochs between evaluations on the validation split")
    patience: int = Field(
        default=10, ge=1, description="evaluations without a better Recall@20 after which training stops"
    )
    profile_steps: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="steps that torch's profiler records, after four others, into run.path/profile (a trace a rank); "
        "0: none",
    )
    timeout_s: float = Field(default=1800, gt=0, description="longest wait in a collective before all ranks end")

    def learning_rate_in(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        left = (self.epochs - epoch + 1) / self.epochs
        return self.learning_rate * (left if self.schedule == "linear" else 1.0)


@dataclass(frozen=True)
class EpochReport:
    """What an epoch did; the same on every rank."""

    epoch: int
    learning_rate: float
    losses: dict[str, float]  # `loss` and `loss/TERM`, means over the epoch's examples
    seconds: float
    interactions_per_second: float
    peak_rss_bytes: int  # of the largest rank
    valid: dict[str, float] = field(default_factory=dict)  # `recall@20`, … ; empty in epochs without an evaluation
    is_best: bool = False

    def as_record(self) -> dict[str, float | int]:
        """One line of metrics.jsonl."""
        return {
            "epoch": self.epoch,
            "learning_rate": self.learning_rate,
            **self.losses,
            "seconds": self.seconds,
            "interactions_per_second": self.interactions_per_second,
            "peak_rss_bytes": self.peak_rss_bytes,
            **{f"valid/{name}": value for name, value in self.valid.items()},
        }


EvaluateValid = Callable[[], dict[str, float]]
Hook = Callable[[EpochReport], bool | None]  # True, on every rank alike, ends training after this epoch


class Keep(Protocol):
    """May save a checkpoint, or end the run by an exception. All ranks call it."""

    def __call__(self, state: FitState, sums: LossSums | None, *, is_last_step: bool = False) -> None:
        """After a step, with the sums of the epoch in progress, or after an epoch, without."""


def fit(
    step: Step,
    batches: Batches,
    config: TrainConfig,
    *,
    evaluate: EvaluateValid,
    hooks: list[Hook],
    state: FitState,
    keep: Keep,
) -> FitState:
    """Trains on from `state` until `config.epochs`, or `config.patience` evaluations without gain, or a hook's True.

    Every hook is called on every rank after every epoch, and `keep` after every step and every epoch: after an epoch's
    last step before it is evaluated, which may take long. All ranks take the same decisions, from numbers they share.

    Raises:
        UserError: `config.epochs` are behind `state` already, and no epoch was evaluated.
    """
    started = time.perf_counter() - state.seconds
    if state.epoch > config.epochs and state.best_epoch == 0:
        raise UserError(
            f"train.epochs={config.epochs}: {state.epoch - 1} are done already, and none of them was evaluated; "
            f"give it {-(-state.epoch // config.evaluate_every) * config.evaluate_every} or more"
        )

    def timed(state: FitState) -> FitState:
        return replace(state, seconds=time.perf_counter() - started)

    def keep_timed(state: FitState, sums: LossSums | None, *, is_last_step: bool = False) -> None:
        keep(timed(state), sums, is_last_step=is_last_step)

    while not has_ended(state, config):
        learning_rate = config.learning_rate_in(state.epoch)
        report = train_epoch(step, batches, state, keep_timed, learning_rate)
        epoch = report.epoch
        state = state.after_steps(batches.steps, report.seconds).after_epoch()
        if epoch % config.evaluate_every == 0 or epoch == config.epochs:
            state = state.after_evaluation(epoch, valid := evaluate())
            report = replace(report, valid=valid, is_best=state.best_epoch == epoch)
        state = timed(state)
        is_enough = any([hook(report) for hook in hooks])
        keep(state, None)
        if is_enough:
            log.info("stopped after epoch %d, as a hook asked", epoch)
            return state
    if state.epoch <= config.epochs:
        log.info("stopped: %d evaluations without a better %s", state.without_gain, SELECTED_BY)
    return state


def has_ended(state: FitState, config: TrainConfig) -> bool:
    """Whether there is nothing more to train, by epochs or by patience."""
    return state.epoch > config.epochs or state.without_gain >= config.patience


def train_epoch(step: Step, batches: Batches, state: FitState, keep: Keep, learning_rate: float) -> EpochReport:
    """The rest of an epoch, from the state's step on. Losses stay on the device until something is to be kept."""
    done = state.step
    step.set_learning_rate(learning_rate)
    sums = LossSums(state.epoch, batches.global_batch_size, state.loss_sums_of(*place()))
    started = time.perf_counter() - state.seconds_in_epoch
    losses_of_steps = step.run(batches.epoch(state.epoch, first_step=done))
    for terms in progress(losses_of_steps, f"epoch {state.epoch}", batches.steps - done):
        sums.add(terms, batches.examples(done) / batches.pairs, done)
        done += 1
        seconds = time.perf_counter() - started
        keep(state.after_steps(done, seconds), sums, is_last_step=done == batches.steps)
    losses = sums.means()  # which waits for the device
    seconds = time.perf_counter() - started
    return EpochReport(
        epoch=state.epoch,
        learning_rate=learning_rate,
        losses=losses,
        seconds=seconds,
        interactions_per_second=batches.pairs / seconds,
        peak_rss_bytes=max(gather_objects(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)) * 1024,
    )
