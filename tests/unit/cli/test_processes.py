"""A command that starts workers passes on what the user typed, and ends as they do."""

import os
from pathlib import Path
from typing import Any

import click
import pytest

from infodcl_dist.cli import processes
from infodcl_dist.cli.main import infodcl_dist, run
from infodcl_dist.cli.processes import run_in_processes, with_processes
from infodcl_dist.parallel import launch

TYPED = [
    ["evaluate", "runs/a b", "--split", "valid", "--json", "--cutoffs", "1,2", "--groups"],
    ["recommend", "runs/x", "--top", "5", "--out", "x.parquet", "--deny", "some file.txt"],
    ["metadata", "my set", "--config", "some file.yaml", "metadata.dim=8", "model.channels=[a, b]"],
    ["metadata", "set"],
    ["export", "runs/x", "--out", "e", "--format", "parquet", "--faiss", "--at", "7"],
]


@pytest.mark.parametrize("typed", TYPED)
def test_workers_get_what_was_typed(typed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(processes, "run_in_processes", lambda *given, **_: calls.append(given))
    assert run(infodcl_dist, [*typed, "--nproc", "3"]) == 0
    ((module, arguments, count),) = calls
    assert (module, count) == ("infodcl_dist", 3)
    parsed = []
    for given in (typed, arguments):
        command = infodcl_dist.get_command(click.Context(infodcl_dist), given[0])
        assert command is not None
        parsed.append(command.make_context(given[0], list(given[1:])).params)
    assert parsed[0] == parsed[1]
    assert parsed[1]["nproc"] == 1


def test_the_cores_that_we_may_use_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "run_workers", lambda *_, **__: 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    for count, threads in ((2, "3"), (4, "1"), (9, "1")):
        monkeypatch.delenv("OMP_NUM_THREADS")
        run_in_processes("infodcl_dist", [], count)
        assert os.environ["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run_in_processes("infodcl_dist", [], 2)
    assert os.environ["OMP_NUM_THREADS"] == "5"


ONE_RANKS_ERROR = """
import os
import click
from infodcl_dist.base.errors import UserError
from infodcl_dist.cli.main import main
from infodcl_dist.parallel.collectives import barrier
from infodcl_dist.parallel.group import process_group

@click.command()
def command():
    with process_group(timeout_s=60):
        barrier()
        if os.environ["RANK"] == "1":
            raise UserError("shard.npy: is bad")
        barrier()

main(command)
"""


@pytest.mark.timeout(120)
def test_an_error_of_any_rank_is_told_once_and_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one_ranks_error.py").write_text(ONE_RANKS_ERROR)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    command = click.Command("command", callback=lambda: run_in_processes("one_ranks_error", [], 2))
    assert run(command, []) == 2
    assert capfd.readouterr().err == "error: shard.npy: is bad\n"


def test_one_process_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @click.argument("run", type=click.Path(path_type=Path))
    @with_processes
    def command(run: Path) -> None:
        """Does it."""
        print("here", run)

    assert run(command, ["x"]) == 0
    assert capsys.readouterr().out == "here x\n"


def ending(outcome: Any) -> Any:
    def workers(module: str, arguments: list[str], *, processes: int, chosen: frozenset[int]) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return workers


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1), (2, 2), (None, 143)])
def test_the_workers_status_is_the_commands(
    status: int | None, expected: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = launch.WorkerFailed("rank 1 ended with status 9") if status == 1 else status
    monkeypatch.setattr(launch, "run_workers", ending(outcome))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = click.Command("command", callback=lambda: run_in_processes("module", [], 2))
    assert run(command, []) == expected
    assert ("rank 1 ended with status 9" in capsys.readouterr().err) == (status == 1)
