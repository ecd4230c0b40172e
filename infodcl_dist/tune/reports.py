"""What a trial says of itself. (Imports no torch: the process that only watches a trial's workers stays small.)"""

from pathlib import Path

from infodcl_dist.base.files import read_json, read_json_lines, write_json
from infodcl_dist.train.state import SELECTED_BY

RUNNING, FINISHED, STOPPED, REFUSED, FAILED = "running", "finished", "stopped", "refused", "failed"
RECORD_FILE = "trial.json"
"""Of a trial, beside its run folder: its parameters and status."""


def is_over(run: Path) -> bool:
    """Whether nobody goes on with the trial of a run folder, by the study's record. (A failed one is tried again.)"""
    is_so: bool = read_json(run.parent / RECORD_FILE)["status"] in (FINISHED, STOPPED, REFUSED)
    return is_so


IS_SETTLED = "is_settled"
"""Of an evaluation that is reported again: whether the scheduler gave its word on it."""
SETTLED_FILE = "settled.json"
"""Beside the record: the last epoch after which the scheduler let training go on."""


def settle(run: Path, epoch: int) -> None:
    """Keeps that training goes on after an epoch's evaluation."""
    write_json(run.parent / SETTLED_FILE, {"epoch": epoch})


def evaluations(run: Path) -> list[dict[str, float]]:
    """The records of a run's `metrics.jsonl` that hold an evaluation, in order; empty before there is one."""
    return [record for record in read_json_lines(run / "metrics.jsonl") if SELECTED_BY in record]


def evaluations_again(run: Path) -> list[dict[str, float]]:
    """What a trial that goes on says first: its `evaluations` so far, those that are settled marked."""
    file = run.parent / SETTLED_FILE
    last = read_json(file)["epoch"] if file.is_file() else 0
    return [{**record, IS_SETTLED: record["epoch"] <= last} for record in evaluations(run)]
