"""What a trial says of itself. (Imports no torch: the process that only watches a trial's workers stays small.)"""

from pathlib import Path

from infodcl_dist.base.files import read_json, read_json_lines
from infodcl_dist.train.state import SELECTED_BY

RUNNING, FINISHED, STOPPED, REFUSED, FAILED = "running", "finished", "stopped", "refused", "failed"
RECORD_FILE = "trial.json"
"""Of a trial, beside its run folder: its parameters and status."""


def is_running(run: Path) -> bool:
    """Whether the trial of a run folder is not done by the study's record, so that it may be gone on with."""
    is_so: bool = read_json(run.parent / RECORD_FILE)["status"] == RUNNING
    return is_so


IS_SETTLED = "is_settled"
"""Of an evaluation that is reported again: training went on after it, so the scheduler gave its word on it."""


def evaluations(run: Path) -> list[dict[str, float]]:
    """The records of a run's `metrics.jsonl` that hold an evaluation, in order; empty before there is one."""
    return [record for record in read_json_lines(run / "metrics.jsonl") if SELECTED_BY in record]


def evaluations_again(run: Path) -> list[dict[str, float]]:
    """What a trial that goes on says first: its `evaluations` so far, those that are settled marked."""
    last = max((record["epoch"] for record in read_json_lines(run / "metrics.jsonl")), default=0)
    return [{**record, IS_SETTLED: record["epoch"] < last} for record in evaluations(run)]
