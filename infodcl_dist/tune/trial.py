"""One trial as Ray Tune runs it: it holds a placement group, starts the workers in it, and passes their reports on.

Why not a Ray Train trainer inside the trial: that asks for its workers' resources once the trial already runs, and
trials that each hold a part and wait for the rest lock each other out. Here a trial is *one* placement group, granted
as a whole or not at all: an empty bundle for this process, which only waits, and a bundle for each worker. So trials
that outnumber the slots wait in the queue. It is a class and not a function, because Tune tells a class that its trial
is stopped: after each evaluation training waits for Tune's word, and ends there, saved, as by its own patience.

Nothing is handed over through Ray but reports: a trial that starts again goes on from its run folder's own checkpoints,
and first says again what the run reported before, so that the scheduler knows it.
"""

import shutil
from pathlib import Path
from typing import Any

import ray
from ray import tune

from infodcl_dist.train.state import SELECTED_BY
from infodcl_dist.tune.reports import FINISHED, REFUSED, RUNNING, evaluations, evaluations_again, is_over
from infodcl_dist.tune.workers import WorkerGroup

ENDING_S = 300.0  # a stopped trial is saved, loads its best model and evaluates it once


class RunTrial(tune.Trainable):
    """A trial. Its configuration: the run's configuration file and folder, and the workers' number and resources."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called in the trial's process, when the placement group stands."""
        self._config_file, self._run = Path(config["config_file"]), Path(config["run"])
        self._needs = {name: config[name] for name in ("workers", "cpus", "gpus", "workers_of_host")}
        self._workers: WorkerGroup | None = None
        self._earlier = evaluations_again(self._run)

    def step(self) -> dict[str, Any]:
        """The next evaluation; the last result has `done`."""
        if self._earlier:
            return self._earlier.pop(0)
        if self._workers is None:
            placement = ray.util.get_current_placement_group()
            self._workers = WorkerGroup(placement, **self._needs)
            self._workers.start("train", self._config_file)
        self._workers.answer(go_on=True)
        report = self._workers.next_report()
        if report is not None:
            return report
        outcome = self._workers.outcome()
        status = REFUSED if outcome.refusal is not None else FINISHED if outcome.unavailable is None else RUNNING
        last = evaluations(self._run)[-1:] or [{"epoch": 0, SELECTED_BY: 0.0}]
        return {**last[0], "done": True, "status": status, **outcome._asdict()}

    def cleanup(self) -> None:
        """Called at the trial's end, whatever ended it: lets training end where it waits for an answer; then all go."""
        if self._workers is not None:
            try:
                if self._workers.is_asked:
                    self._workers.answer(go_on=False)
                    self._workers.outcome(ENDING_S)
            finally:
                self._workers.close()
        if is_over(self._run):  # the best model stays
            for folder in (self._run / "checkpoints").glob("step-*"):
                shutil.rmtree(folder, ignore_errors=True)
