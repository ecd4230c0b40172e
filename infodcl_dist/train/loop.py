"""The training loop: epochs, evaluations, early stopping. What a run keeps (files, checkpoints) is for its hooks."""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor

from infodcl_dist.base.config import Config
from infodcl_dist.base.console import log, progress
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.batches import Batches
from infodcl_dist.parallel.collectives import gather_objects, mean_over_ranks
from infodcl_dist.train.step import TERMS, Step

SELECTED_BY = "valid/recall@20"


class TrainConfig(Config):
    """The loop."""

    epochs: int = Field(default=200, ge=1, description="passes over the training pairs, at most")
    global_batch_size: int = Field(default=2000, ge=1, description="examples a step, over all ranks")
    learning_rate: float = Field(default=0.001, gt=0, le=1, description="of Adam, tables and channels alike")
    evaluate_every: int = Field(default=5, ge=1, description="epochs between evaluations on the validation split")
    patience: int = Field(
        default=10, ge=1, description="evaluations without a better Recall@20 after which training stops"
    )
    timeout_s: float = Field(default=1800, gt=0, description="longest wait in a collective before all ranks end")


@dataclass(frozen=True)
class EpochReport:
    """What an epoch did; the same on every rank."""

    epoch: int
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
            **self.losses,
            "seconds": self.seconds,
            "interactions_per_second": self.interactions_per_second,
            "peak_rss_bytes": self.peak_rss_bytes,
            **{f"valid/{name}": value for name, value in self.valid.items()},
        }


@dataclass(frozen=True)
class FitResult:
    """How a training ended."""

    best_epoch: int
    best_valid: dict[str, float]
    seconds: float
    epoch_seconds: list[float]


EvaluateValid = Callable[[], dict[str, float]]
Hook = Callable[[EpochReport], None]


def fit(step: Step, batches: Batches, config: TrainConfig, evaluate: EvaluateValid, hooks: list[Hook]) -> FitResult:
    """Trains until `config.epochs` or until `config.patience` evaluations brought nothing better.

    Every hook is called on every rank after every epoch. All ranks take the same decisions, from numbers they share.
    """
    started = time.perf_counter()
    best_epoch, without_gain = 0, 0
    best_valid: dict[str, float] = {}
    epoch_seconds: list[float] = []
    for epoch in range(1, config.epochs + 1):
        report = train_epoch(step, batches, epoch)
        epoch_seconds.append(report.seconds)
        if epoch % config.evaluate_every == 0 or epoch == config.epochs:
            valid = evaluate()
            is_best = not best_valid or valid["recall@20"] > best_valid["recall@20"]
            report = EpochReport(**{**vars(report), "valid": valid, "is_best": is_best})
            without_gain = 0 if is_best else without_gain + 1
            if is_best:
                best_epoch, best_valid = epoch, valid
        for hook in hooks:
            hook(report)
        if without_gain >= config.patience:
            log.info("stopped at epoch %d: %d evaluations without a better %s", epoch, without_gain, SELECTED_BY)
            break
    return FitResult(best_epoch, best_valid, time.perf_counter() - started, epoch_seconds)


def train_epoch(step: Step, batches: Batches, epoch: int) -> EpochReport:
    """One pass over the training pairs. Losses stay on the device until its end."""
    started = time.perf_counter()
    totals: dict[str, Tensor] = {}
    for batch in progress(batches.epoch(epoch), f"epoch {epoch}", batches.steps):
        terms = step(batch.to(step.tables.user_rows.device))
        for name, term in terms.items():
            share = term.double() * (batch.global_examples / batches.pairs)
            totals[name] = totals.get(name, torch.zeros_like(share)) + share
    losses = _shared_losses(totals, epoch)
    seconds = time.perf_counter() - started
    return EpochReport(
        epoch=epoch,
        losses=losses,
        seconds=seconds,
        interactions_per_second=batches.pairs / seconds,
        peak_rss_bytes=max(gather_objects(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)) * 1024,
    )


def _shared_losses(totals: dict[str, Tensor], epoch: int) -> dict[str, float]:
    """The global means; a term that the model or its weights leave out is 0."""
    means = mean_over_ranks(torch.stack(list(totals.values()))).tolist()
    found = dict(zip(totals, means, strict=True))
    for name, value in found.items():
        if not math.isfinite(value):
            raise UserError(
                f"loss term {name} is {value} in epoch {epoch}: lower train.learning_rate or its loss weight"
            )
    return {"loss": found["loss"]} | {f"loss/{term}": found.get(term, 0.0) for term in TERMS}
