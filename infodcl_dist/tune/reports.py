"""What a trial says of itself. (Imports no torch: the process that only watches a trial's workers stays small.)"""

import json
from pathlib import Path

RUNNING, FINISHED, STOPPED, REFUSED, FAILED = "running", "finished", "stopped", "refused", "failed"
METRIC = "valid/recall@20"
"""What a sweep maximizes, as `metrics.jsonl` names it."""


def evaluations(run: Path) -> list[dict[str, float]]:
    """The records of a run's `metrics.jsonl` that hold an evaluation, in order; empty before there is one."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        return []
    # A killed process can leave half a line at the end.
    lines = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [record for record in map(json.loads, lines) if METRIC in record]
