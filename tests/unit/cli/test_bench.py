"""`infodcl-dist bench` says what each subject measures, and ends as its workers do. (Figures: `tests/unit/bench`.)"""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infodcl_dist.bench.suite import BENCHES
from infodcl_dist.cli.bench import SUBJECTS
from infodcl_dist.cli.main import infodcl_dist, run
from infodcl_dist.parallel import launch


def test_each_subject_says_what_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert SUBJECTS.keys() == BENCHES.keys()
    assert len(set(SUBJECTS.values())) == len(SUBJECTS)
    for subject, measures in SUBJECTS.items():
        assert run(infodcl_dist, ["bench", subject, "--help"]) == 0
        assert measures in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("outcome", "expected"), [(0, 0), (2, 2), (None, 143), ("rank 1 ended with status 9", 1)])
def test_it_ends_as_its_workers_do(
    outcome: int | str | None,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[list[str]] = []

    def run_workers(module: str, arguments: list[str], **given: Any) -> int | None:
        calls.append(arguments)
        if isinstance(outcome, str):
            raise launch.WorkerFailed(outcome)
        return outcome

    monkeypatch.setattr(launch, "run_workers", run_workers)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = ["--data", str(tmp_path), "--json", "out.json", "--repeats", "3", "model.dim=8"]
    assert run(infodcl_dist, ["bench", "step", "--nproc", "2", *given]) == expected
    assert capsys.readouterr().err == (f"error: {outcome}\n" if isinstance(outcome, str) else "")
    ((command, subject, *options),) = calls
    assert (command, subject) == ("bench", "step")
    pairs = {("--data", str(tmp_path)), ("--json", "out.json"), ("--repeats", "3")}
    assert pairs <= set(itertools.pairwise(options))
    assert options[-1] == "model.dim=8"


def test_sizes_are_of_a_generated_data_set_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(infodcl_dist, ["bench", "step", "--data", str(tmp_path), "--sizes", "9:9:9"]) == 2
    assert capsys.readouterr().err.startswith("error: --sizes and --data exclude each other")


def test_data_come_by_their_option_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data in ([], ["--data", str(tmp_path)]):
        assert run(infodcl_dist, ["bench", "step", *data, "model.dim=8", "data.path=my/set"]) == 2
        said = "error: data.path=my/set: bench takes its data set by --data; give --data my/set\n"
        assert capsys.readouterr().err == said


@pytest.mark.parametrize("processes", ["1", "2"])
def test_it_leaves_nothing_behind(processes: str, tmp_path: Path) -> None:
    """Of a pass that works in files, neither where it is called nor among what is temporary."""
    (here := tmp_path / "here").mkdir()
    (temporary := tmp_path / "temporary").mkdir()
    given = ["--sizes", "40:30:200", "--repeats", "1", "--warm-up", "0", "--nproc", processes, "model.name=mf"]
    subprocess.run(
        [sys.executable, "-m", "infodcl_dist", "bench", "propagate", *given, "propagation.plan=out_of_core"],
        cwd=here,
        env=os.environ | {"TMPDIR": str(temporary)},
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert list(here.iterdir()) == []
    assert [path for path in temporary.iterdir() if not path.name.startswith("torchelastic_")] == []
