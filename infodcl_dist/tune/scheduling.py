"""What Ray Tune asks while it runs trials: which comes next, which is stopped; and what it is told of the past."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from infodcl_dist.base.console import log
from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.files import write_text
from infodcl_dist.recipe.run_folder import RESULT_FILE
from infodcl_dist.train.state import SELECTED_BY
from infodcl_dist.tune.cluster import WAIT_S, reason_of
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.reports import FAILED, FINISHED, IS_SETTLED, REFUSED, STOPPED
from infodcl_dist.tune.search import number_of_trials, propose
from infodcl_dist.tune.study import Study, Trial
from infodcl_dist.tune.trial import ENDING_S


class StudySearch(Searcher):
    """Hands out the study's trials: those that were cut off first, then new ones; keeps every record.

    Args:
        study: the open study.
        config: the sweep.
        slots: how many trials there are at a time, at most.
        workers_of_host: how many workers, of all trials, a machine has at a time.

    Attributes:
        unavailable: what the machine refused, when it did: then no more trials are handed out.
    """

    def __init__(self, study: Study, config: TuneConfig, *, slots: int, workers_of_host: int) -> None:
        super().__init__()
        self.unavailable: str | None = None
        self._study, self._config, self._slots, self._workers_of_host = study, config, slots, workers_of_host
        self._total = number_of_trials(config)
        self._cut_off = [trial for trial in study.trials() if not trial.is_done]
        self._running: dict[str, _Running] = {}
        self._ending: dict[int, float] = {}  # trials that Tune ended, and until when they are waited for
        self._is_exhausted = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """What `RunTrial` is set up with; None while there is no room; Tune's FINISHED when nothing more is to do."""
        busy = len(self._running) + self._number_ending()
        if busy >= self._slots:
            return None
        trial = None
        if self.unavailable is None and not self._is_exhausted:
            try:
                trial = self._next()
                self._is_exhausted = trial is None
            except Unavailable as problem:
                self.halt(str(problem))
        if trial is None:
            # Tune asks no more once it is told so, and gives a trial that it then stops ten seconds to end.
            finished: str | None = None if busy else Searcher.FINISHED
            return finished
        self._running[trial_id] = _Running(trial.number, time.monotonic())
        return {
            "number": trial.number,
            "config_file": str(self._study.config_file(trial.number)),
            "run": str(self._study.run_folder(trial.number)),
            "workers": self._config.workers_per_trial,
            "cpus": self._config.cpus_per_worker,
            "gpus": self._config.gpus_per_worker,
            "workers_of_host": self._workers_of_host,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called once a trial has ended: by itself, stopped, with its retries used up, or for want of the machine's."""
        running, result = self._running.pop(trial_id), result or {}
        status = FAILED if error else result.get("status") or self._status(running.number, result)
        try:
            record = self._study.update(
                running.number,
                status=status,
                seconds=round(self._seconds(running), 3),
                error=result.get("refusal"),
            )
        except Unavailable as problem:  # then it is still `running` on record
            self.halt(str(problem))
            return
        # Ended by Tune, at its last epoch too, unless it said again what it had said: then it has no workers yet.
        if not error and "status" not in result and IS_SETTLED not in result:
            self._ending[running.number] = time.monotonic() + ENDING_S
        if record.is_done:
            self._say(record)
        else:
            self.halt(str(result["unavailable"]))

    def halt(self, problem: str) -> None:
        """Has no more trials begun: the machine would refuse each of them the same."""
        if self.unavailable is None:
            self.unavailable = problem
            log.warning("no more trials are begun: %s", problem)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study folder is the state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""

    def _next(self) -> Trial | None:
        if self._cut_off:
            trial = self._cut_off.pop(0)
            self._study.write_config(trial)
            return self._study.update(trial.number, attempts=trial.attempts + 1)
        trials = self._study.trials()
        while len(trials) < self._total:
            # One that somebody removed is made anew, under its own number.
            number = min(set(range(self._total)) - {trial.number for trial in trials})
            trial = Trial(number, propose(self._config, number, trials, self._study.value))
            try:
                self._study.write_config(trial)
            except Unavailable:
                raise
            except UserError as problem:
                trial = Trial(number, trial.parameters, REFUSED, attempts=0, error=str(problem))
            self._study.keep(trial)
            if not trial.is_done:
                return trial
            self._say(trial)
            trials.append(trial)
        return None

    def _number_ending(self) -> int:
        """How many trials that Tune ended have not come to their results yet, and so still have their workers."""
        now = time.monotonic()
        return sum(
            now < deadline and not (self._study.run_folder(number) / RESULT_FILE).is_file()
            for number, deadline in self._ending.items()
        )

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
        reached = f"{SELECTED_BY} {found[SELECTED_BY]:.4f} in epoch {found['epoch']}" if found else "no evaluation"
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
    """Records failed attempts: a worker died, or raised what is no fault of the user's.

    Args:
        study: the open study.
        halt: what to call with the machine's reason when that cannot be written.
    """

    def __init__(self, study: Study, halt: Callable[[str], None]) -> None:
        self._study, self._halt = study, halt

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called before a trial starts again."""
        number, (text, reason) = trial.config["number"], _errors(trial)
        attempts = self._study.trial(number).attempts
        self._keep(number, text, attempts=attempts + 1)
        log.warning("trial %d goes on from its checkpoint: attempt %d failed: %s", number, attempts, reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called when a trial's retries are used up."""
        number, (text, reason) = trial.config["number"], _errors(trial)
        self._keep(number, text, error=reason)
        log.warning("trial %d failed: %s", number, reason)

    def _keep(self, number: int, text: str, **changes: Any) -> None:
        """Puts the tracebacks into the trial's folder, and changes its record."""
        try:
            self._study.update(number, **changes)
            write_text(self._study.folder(number) / "error.txt", text)
        except Unavailable as problem:
            self._halt(str(problem))


class Waiting(tune.Callback):
    """Says so while trials wait and none runs: others hold the cluster's resources, or a machine is gone."""

    def __init__(self) -> None:
        self._since: float | None = None

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called several times a second, but not while Tune waits for the search to name a trial."""
        states, now = {trial.status for trial in trials}, time.monotonic()
        if TuneTrial.RUNNING in states or TuneTrial.PENDING not in states:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= WAIT_S:
            self._since = now
            log.warning("trials wait for resources: others hold them, or a machine is gone")


def _errors(trial: Any) -> tuple[str, str]:
    """The tracebacks of all attempts at a trial of Tune's, and the reason of the last."""
    file = Path(trial.error_file or "none")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text, reason_of(re.split(r"(?m)^Failure # .*\n", text)[-1])


class _SuccessiveHalving(ASHAScheduler):
    """Tune's ASHA, that judges an evaluation once: what a trial says again of the time before it was cut off counts for
    the others, and its own word on it was given."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        verdict: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if result.get(IS_SETTLED) else verdict


def build_scheduler(config: TuneConfig, study: Study) -> TrialScheduler:
    """Tune's ASHA, that knows what the done trials of the study reported; or none."""
    searched = config.space.get("train.epochs")
    epochs = study.base.train.epochs if searched is None else max(searched.ends)
    if not config.asha.enabled:
        return FIFOScheduler()
    if config.asha.grace_epochs >= epochs:
        log.warning(
            "asha.grace_epochs=%d is not below train.epochs=%d: no trial is stopped early",
            config.asha.grace_epochs,
            epochs,
        )
        return FIFOScheduler()
    scheduler = _SuccessiveHalving(
        time_attr="epoch",
        metric=SELECTED_BY,
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
