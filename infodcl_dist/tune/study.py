"""The study folder: what is searched, and a record a trial. It alone says what is done; Ray keeps nothing that counts.

study.yaml   base.yaml             the sweep and the run that it varies, as they were when it began
trials/0007/trial.json             parameters and status; written whole before the trial starts and when it ends
trials/0007/run/                   the run folder; what it reached stands in its metrics.jsonl
trials.parquet   best.yaml   result.json   plots/       at the end
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from infodcl_dist.base.config import as_values, changed_keys, dump_config, load_config, with_values
from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.files import read_json, write_json, write_text
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.run_folder import DATASET_FILE, check_trained_on
from infodcl_dist.train.state import SELECTED_BY
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.reports import FAILED, RECORD_FILE, REFUSED, RUNNING, evaluations
from infodcl_dist.tune.space import Parameters

STUDY_FILE, BASE_FILE, LOCK_FILE, TRIALS = "study.yaml", "base.yaml", "lock", "trials"
TABLE_FILE = "trials.parquet"
# What a study may change when it goes on: how fast and how far, not what is searched.
MAY_CHANGE = (
    "path",
    "base.config",  # the run itself is compared
    "base.overrides",
    "trials",
    "workers_per_trial",
    "cpus_per_worker",
    "gpus_per_worker",
    "max_concurrent",
    "cpus",
    "retries",
)


@dataclass(frozen=True)
class Trial:
    """A trial's record.

    Attributes:
        number: from 0, in the order of being proposed.
        parameters: by configuration key.
        status: `running` (or cut off), `finished` (its epochs, or patience), `stopped` by successive halving, `refused`
            (its configuration or its losses do not work), `failed` after all retries, till the study is gone on with.
        seconds: from its start to its end, by the driver's clock, in all attempts but those cut off with the driver.
        attempts: how often it was begun or gone on with.
        error: of a refused or failed trial, one line.
    """

    number: int
    parameters: Parameters
    status: str = RUNNING
    seconds: float = 0.0
    attempts: int = 1
    error: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether this session does not run it again."""
        return self.status != RUNNING


class Study:
    """An open study folder. One process at a time works on it, see `locked`."""

    def __init__(self, path: Path, base: RunConfig) -> None:
        self.path, self.base = path, base

    @classmethod
    def open(cls, config: TuneConfig, base: RunConfig, *, resume: bool) -> "Study":
        """Makes the folder, or opens it to go on. One that came neither to a trial nor to results is made anew.

        Raises:
            UserError: it holds a study and `resume` is false, or a study of something else, or no study.
        """
        path = config.path
        if not holds_study(path) or not ((path / TABLE_FILE).exists() or any(path.glob(f"{TRIALS}/*/{RECORD_FILE}"))):
            write_text(path / BASE_FILE, dump_config(base))
            write_text(path / STUDY_FILE, dump_config(config))
            return cls(path, base)
        if not resume:
            raise UserError(f"path: {path} holds a study; pass --resume to go on with it, or choose another")
        # The study's own space stands: a base file that was edited since must not mix two sweeps.
        known = (
            (load_config(TuneConfig, path / STUDY_FILE), config, MAY_CHANGE),
            (load_config(RunConfig, path / BASE_FILE), base, ("run.path",)),
        )
        for old, new, may_change in known:
            changed = min(set(changed_keys(as_values(new), as_values(old))) - set(may_change), default=None)
            if changed is not None:
                raise UserError(f"path: {path} holds a study with another {changed}; give it the same, or another path")
        return cls(path, base)

    def trials(self) -> list[Trial]:
        """All records, by number."""
        files = sorted((self.path / TRIALS).glob(f"[0-9]*/{RECORD_FILE}"))
        return [Trial(**read_json(file)) for file in files]

    def trial(self, number: int) -> Trial:
        """A record."""
        return Trial(**read_json(self.folder(number) / RECORD_FILE))

    def check_same_data(self, dataset: Dataset) -> None:
        """Whether the trials so far had the data that further ones would have.

        Raises:
            UserError: see `check_trained_on`.
        """
        for file in sorted((self.path / TRIALS).glob(f"*/run/{DATASET_FILE}")):
            check_trained_on(file.parent, dataset)

    def keep(self, trial: Trial) -> None:
        """Writes a record, whole or not at all."""
        write_json(self.folder(trial.number) / RECORD_FILE, asdict(trial))

    def update(self, number: int, **changes: Any) -> Trial:
        """Changes some fields of a record."""
        trial = replace(self.trial(number), **changes)
        self.keep(trial)
        return trial

    def try_failed_again(self) -> None:
        """Has failed trials go on from their checkpoints: what failed them may be mended by now."""
        for trial in self.trials():
            if trial.status == FAILED:
                self.update(trial.number, status=RUNNING, error=None)

    def folder(self, number: int) -> Path:
        """Of a trial."""
        return self.path / TRIALS / f"{number:04d}"

    def run_folder(self, number: int) -> Path:
        """Of a trial's run."""
        return self.folder(number) / "run"

    def config_file(self, number: int) -> Path:
        """Of a trial's run, as its workers are given it."""
        return self.folder(number) / "config.yaml"

    def run_config(self, number: int, parameters: Parameters) -> RunConfig:
        """A trial's run, which goes on where it was cut off.

        Raises:
            UserError: the parameters do not fit with each other.
        """
        return with_values(self.base, {**parameters, "run.path": str(self.run_folder(number)), "run.overwrite": False})

    def write_config(self, trial: Trial) -> Path:
        """Writes a trial's `config_file`.

        Raises:
            UserError: see `run_config`.
        """
        file = self.config_file(trial.number)
        write_text(file, dump_config(self.run_config(trial.number, trial.parameters)))
        return file

    def evaluations(self, number: int) -> list[dict[str, float]]:
        """What a trial's run found on validation so far: the records of `metrics.jsonl` that hold an evaluation."""
        return evaluations(self.run_folder(number))

    def best_evaluation(self, number: int) -> dict[str, float] | None:
        """The evaluation with the largest validation Recall@20, the first of equal ones; None before any."""
        return max(self.evaluations(number), key=lambda record: record[SELECTED_BY], default=None)

    def value(self, number: int) -> float:
        """What the search maximizes; a trial that came to no evaluation, or was refused, is worth nothing."""
        best = self.best_evaluation(number)
        return 0.0 if best is None or self.trial(number).status == REFUSED else best[SELECTED_BY]


def holds_study(path: Path) -> bool:
    """Whether a study lies there; else nothing does. Touches nothing.

    Raises:
        UserError: something else lies there, or it cannot be looked into.
    """
    try:
        if (path / STUDY_FILE).is_file():
            return True
        is_taken = path.is_dir() and any(file.name not in (LOCK_FILE, BASE_FILE) for file in path.glob("[!.]*"))
    except OSError as error:
        raise Unavailable(f"path: {path} cannot be read ({error.strerror}); choose another") from error
    if is_taken:
        raise UserError(f"path: {path} holds something that is no study; choose another")
    return False
