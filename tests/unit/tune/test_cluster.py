"""What a machine or a cluster has room for, and how a sweep leaves Ray."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from test_study import sweep

from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.tune import cluster
from infodcl_dist.tune.cluster import Node, slots, workers_of_host
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.workers import Outcome


@pytest.mark.parametrize(
    ("keys", "nodes", "expected"),
    [
        (["workers_per_trial=1"], [Node(2, 0)], 2),
        (["workers_per_trial=2"], [Node(2, 0)], 1),
        (["workers_per_trial=2"], [Node(3, 0), Node(3, 0)], 3),
        (["workers_per_trial=1", "cpus_per_worker=2"], [Node(3, 0), Node(3, 0)], 2),
        (["workers_per_trial=2", "gpus_per_worker=1"], [Node(64, 8)], 4),
        (["workers_per_trial=1", "max_concurrent=3"], [Node(64, 0)], 3),
    ],
)
def test_slots_are_whole_workers_on_whole_machines(
    tmp_path: Path, keys: list[str], nodes: list[Node], expected: int
) -> None:
    assert slots(sweep(tmp_path, *keys), nodes) == expected


@pytest.mark.parametrize(
    ("keys", "nodes", "trials", "expected"),
    [
        ([], [Node(4, 0)], 40, 4),
        ([], [Node(64, 0)], 3, 3),
        (["max_concurrent=1"], [Node(4, 0)], 40, 1),
        (["workers_per_trial=2", "max_concurrent=1"], [Node(4, 0)], 40, 2),
        (["workers_per_trial=2"], [Node(5, 0), Node(2, 0)], 40, 5),  # a trial may lie on both
    ],
)
def test_workers_of_a_machine(tmp_path: Path, keys: list[str], nodes: list[Node], trials: int, expected: int) -> None:
    assert workers_of_host(sweep(tmp_path, *keys), nodes, trials) == expected


def test_a_trial_that_never_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^workers_per_trial: 3 workers of 1 cores and 0 GPUs do not fit on 2 cores"):
        slots(sweep(tmp_path, "workers_per_trial=3"), [Node(2, 0)])
    with pytest.raises(UserError, match="do not fit"):
        slots(sweep(tmp_path, "cpus_per_worker=4"), [Node(3, 0), Node(3, 0)])


def test_a_sweep_that_is_asked_to_end_gives_ray_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []
    monkeypatch.setattr(cluster, "_start", lambda config: None)
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(ray, "shutdown", lambda: left.append(True))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended, cluster.connected(sweep(tmp_path), None):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before, "whoever listened before listens again"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (ended.value.code, left) == (143, [True])


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ([RayActorError()], None),
        (
            [RayTaskError("run", "a fault of ours", ValueError())] * 2 + [RayActorError()],
            r"^evaluate: failed 3 times \(The actor experienced an error .*\); --resume tries again",
        ),
        ([RayActorError()] * 2 + [RayTaskError("run", "a fault of ours", ValueError())], "a fault of ours"),
    ],
)
def test_workers_outside_of_a_trial_are_tried_again_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: list[RayError], told: str | None
) -> None:
    attempts = []

    @contextmanager
    def workers_at(job: str, config_file: Path, config: TuneConfig) -> Iterator[SimpleNamespace]:
        attempts.append(job)

        def next_report() -> str:
            if len(attempts) <= len(failures):
                raise failures[len(attempts) - 1]
            return "report"

        yield SimpleNamespace(next_report=next_report, outcome=Outcome)

    monkeypatch.setattr(cluster, "_workers_at", workers_at)
    config = sweep(tmp_path / "study", "retries=2")
    if told is None:
        assert cluster.work("evaluate", tmp_path, config) == "report"
    else:
        kind = Unavailable if isinstance(failures[-1], RayActorError) else RayTaskError
        with pytest.raises(kind, match=told):
            cluster.work("evaluate", tmp_path, config)
    assert len(attempts) == (2 if told is None else 3)
