"""What Ray Tune asks while it runs trials: which comes next, which is stopped; and what it is told of the past."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from infodcl_dist.base.config import dump_config
from infodcl_dist.base.console import log
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import new_file
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.reports import FAILED, FINISHED, METRIC, REFUSED, STOPPED
from infodcl_dist.tune.search import number_of_trials, propose
from infodcl_dist.tune.study import Study, Trial


class StudySearch(Searcher):
    """Hands out the study's trials: those that were cut off first, then new ones; keeps every record.

    Args:
        study: the open study.
        config: the sweep.
    """

    def __init__(self, study: Study, config: TuneConfig) -> None:
        super().__init__()
        self._study, self._config = study, config
        self._total = number_of_trials(config)
        self._cut_off = [trial for trial in study.trials() if not trial.is_done]
        self._running: dict[str, _Running] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """What `RunTrial` is set up with; Tune's FINISHED when there is nothing more to do."""
        trial = self._next()
        if trial is None:
            finished: str = Searcher.FINISHED
            return finished
        self._running[trial_id] = _Running(trial.number, time.monotonic())
        return {
            "number": trial.number,
            "config_file": str(self._study.folder(trial.number) / "config.yaml"),
            "run": str(self._study.run_folder(trial.number)),
            "workers": self._config.workers_per_trial,
            "cpus": self._config.cpus_per_worker,
            "gpus": self._config.gpus_per_worker,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called once a trial has ended for good: by itself, stopped, or with its retries used up."""
        running, result = self._running.pop(trial_id), result or {}
        status = FAILED if error else result.get("status") or self._status(running.number, result)
        record = self._study.update(
            running.number,
            status=status,
            seconds=round(self._seconds(running), 3),
            error=result.get("refusal"),
        )
        self._say(record)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study folder is the state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""

    def _next(self) -> Trial | None:
        if self._cut_off:
            trial = self._cut_off.pop(0)
            self._write_config(trial)
            return self._study.update(trial.number, attempts=trial.attempts + 1)
        trials = self._study.trials()
        while (number := len(trials)) < self._total:
            trial = Trial(number, propose(self._config, number, trials, self._study.value))
            try:
                self._write_config(trial)
            except UserError as problem:
                trial = Trial(number, trial.parameters, REFUSED, attempts=0, error=str(problem))
            self._study.keep(trial)
            if not trial.is_done:
                return trial
            self._say(trial)
            trials.append(trial)
        return None

    def _write_config(self, trial: Trial) -> None:
        config = self._study.run_config(trial.number, trial.parameters)
        with new_file(self._study.folder(trial.number) / "config.yaml") as building:
            building.write_text(dump_config(config), encoding="utf-8")

    def _status(self, number: int, last: dict[str, Any]) -> str:
        """Of a trial that the scheduler ended: after its last epoch that makes no difference."""
        config = self._study.run_config(number, self._study.trial(number).parameters)
        return FINISHED if last.get("epoch") == config.train.epochs else STOPPED

    def _seconds(self, running: "_Running") -> float:
        return self._study.trial(running.number).seconds + time.monotonic() - running.since

    def _say(self, trial: Trial) -> None:
        done = [other for other in self._study.trials() if other.is_done]
        best = max(done, key=lambda other: self._study.value(other.number))
        found = self._study.best_evaluation(trial.number)
        reached = f"{METRIC} {found[METRIC]:.4f} in epoch {found['epoch']}" if found else "no evaluation"
        log.info(
            "trial %d %s: %s; %d of %d done, best %.4f by trial %d%s",
            trial.number,
            trial.status,
            reached,
            len(done),
            self._total,
            self._study.value(best.number),
            best.number,
            f" ({trial.error})" if trial.error else "",
        )


@dataclass(frozen=True)
class _Running:
    number: int
    since: float  # by the monotonic clock


class Failures(tune.Callback):
    """Records failed attempts: a worker died, or raised what is no fault of the user's."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called before a trial starts again."""
        number = trial.config["number"]
        record = self._study.trial(number)
        self._study.update(number, attempts=record.attempts + 1)
        reason = self._keep_error(number, trial)
        log.warning("trial %d goes on from its checkpoint: attempt %d failed: %s", number, record.attempts, reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called when a trial's retries are used up."""
        number = trial.config["number"]
        reason = self._keep_error(number, trial)
        self._study.update(number, error=reason)
        log.warning("trial %d failed: %s", number, reason)

    def _keep_error(self, number: int, trial: Any) -> str:
        """Puts the tracebacks of all attempts into the trial's folder; the line of the last that names an exception."""
        file = Path(trial.error_file or "none")
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        (self._study.folder(number) / "error.txt").write_text(text, encoding="utf-8")
        named = [line.strip() for line in text.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
        return named[-1] if named else "no reason known"


def build_scheduler(config: TuneConfig, study: Study, epochs: int) -> TrialScheduler:
    """Tune's ASHA, that knows what the done trials of the study reported; or none."""
    if not config.asha.enabled or config.asha.grace_epochs >= epochs:
        return FIFOScheduler()
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        max_t=epochs,
        grace_period=config.asha.grace_epochs,
        reduction_factor=config.asha.reduction_factor,
        stop_last_trials=False,
    )
    for trial in study.trials():
        if trial.is_done:
            earlier = _EarlierTrial(f"earlier-{trial.number}")
            scheduler.on_trial_add(None, earlier)
            for record in study.evaluations(trial.number):
                scheduler.on_trial_result(None, earlier, record)
    return scheduler


@dataclass(frozen=True)
class _EarlierTrial:
    """As much of Tune's trial as its scheduler looks at."""

    trial_id: str
