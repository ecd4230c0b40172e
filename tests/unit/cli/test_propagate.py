"""The command `propagate`, on a data set that `prepare` made; its numbers are looked at in tests/dist."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infodcl_dist.base.locks import locked
from infodcl_dist.cli.main import infodcl_dist, run
from infodcl_dist.graph import out_of_core, propagation_plan
from infodcl_dist.graph.column_slice import ColumnSlice
from infodcl_dist.graph.out_of_core import RESULTS
from infodcl_dist.inference import stored_tables

HEADER_BYTES = 128  # of a small .npy file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of 12 users and 8 items, and tables of 5 columns."""
    pairs = [(user, item) for user in range(12) for item in range(8) if (user * item) % 3 != 1]
    (tmp_path / "pairs.txt").write_text("".join(f"{user} {item}\n" for user, item in pairs))
    assert run(infodcl_dist, ["prepare", str(tmp_path / "pairs.txt"), "--out", str(tmp_path / "data")]) == 0
    generator = np.random.default_rng(0)
    for name, rows in (("U.npy", 12), ("I.npy", 8)):
        np.save(tmp_path / name, generator.standard_normal((rows, 5), np.float32))
    return tmp_path


def propagate(folder: Path, *more: str, users: str = "U.npy") -> int:
    tables = ["--users", str(folder / users), "--items", str(folder / "I.npy"), "--layers", "2"]
    return run(infodcl_dist, ["propagate", str(folder / "data"), *tables, *more])


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("kind", [">f4", "f2", "f8", np.longdouble])
def test_any_floats_are_taken_as_float32(folder: Path, kind: str | type) -> None:
    for plan in ("by_dimension", "by_row", "out_of_core"):
        np.save(folder / "U.npy", np.load(folder / "U.npy").astype("f2"))
        assert propagate(folder, "--out", str(folder / plan), "--plan", plan) == 0
        np.save(folder / "other.npy", np.load(folder / "U.npy").astype(kind))
        assert propagate(folder, "--out", str(folder / f"{plan}-other"), "--plan", plan, users="other.npy") == 0
        for name in ("users.npy", "items.npy"):
            np.testing.assert_array_equal(np.load(folder / f"{plan}-other" / name), np.load(folder / plan / name))


def test_plans_agree_and_what_is_there_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for plan in ("auto", "by_row", "out_of_core"):
        assert propagate(folder, "--out", str(folder / plan), "--plan", plan, "--max-memory-gb", "1.5") == 0
        assert names(folder / plan) == ["items.npy", "users.npy"]
        found.append([np.load(folder / plan / name) for name in ("users.npy", "items.npy")])
    for users, items in found[1:]:
        # Float32, layers added in another order.
        np.testing.assert_allclose(users, found[0][0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(items, found[0][1], rtol=0, atol=1e-6)
    capsys.readouterr()
    assert propagate(folder, "--out", str(folder / "auto")) == 2
    assert "holds users.npy already" in capsys.readouterr().err


def test_bad_input_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(folder / "short.npy", np.ones((11, 5), np.float32))
    np.save(folder / "whole.npy", np.ones((12, 5), np.int64))
    np.save(folder / "empty.npy", np.ones((12, 0), np.float32))
    (folder / "cut.npy").write_bytes((folder / "U.npy").read_bytes()[:-1])
    (folder / "file").write_text("")
    cases = [
        ({"users": "short.npy"}, [], "has shape (11, 5)"),
        ({"users": "empty.npy"}, [], "has shape (12, 0); give a matrix with a column at least"),
        ({"users": "cut.npy"}, [], "ends after"),
        ({"users": "whole.npy"}, [], "holds int64"),
        ({"users": "none.npy"}, [], "none.npy: cannot be read"),
        ({}, ["--max-memory-gb", "0.01", "--plan", "out_of_core"], "give a host at least"),
        ({}, ["--max-memory-gb", "0"], "--max-memory-gb"),
        ({}, ["--max-memory-gb", "1e30"], "error: --max-memory-gb: 1e+30 does not fit: input should be less than"),
        ({}, ["--plan", "by_magic"], "--plan"),
    ]
    capsys.readouterr()
    for tables, more, word in cases:
        assert propagate(folder, "--out", str(folder / "out"), *more, **tables) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert word in line
    assert propagate(folder, "--out", str(folder / "file" / "out")) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert not list((folder).glob("out/*.npy"))
    assert not (folder / "out" / ".propagation").exists()


def test_a_pass_that_another_writes_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stored_tables, "ENDING_S", 0)
    out = folder / "out"
    with locked(out / ".propagation.lock"):
        assert propagate(folder, "--out", str(out)) == 2
    assert f"error: {out}: another propagate works on it" in capsys.readouterr().err
    assert names(out) == [".propagation.lock"]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_unfinished_pass_out_of_core_is_not_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(folder / "out")
    with monkeypatch.context() as patched:
        patched.setattr(out_of_core, "_finish", interrupted)
        assert propagate(folder, "--out", out, "--plan", "out_of_core") == 130
    before = names(folder / "out" / ".propagation")
    assert propagate(folder, "--out", out, "--plan", "by_row") == 2
    assert "holds an unfinished pass out of core; say --plan out_of_core" in capsys.readouterr().err
    assert names(folder / "out" / ".propagation") == before
    assert propagate(folder, "--out", out, "--plan", "out_of_core") == 0
    assert names(folder / "out") == ["items.npy", "users.npy"]


def test_a_pass_that_is_killed_in_its_last_removal_has_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In several slices, of which it has removed the results, and not yet what says that they are done."""
    out, kept = folder / "out", []

    def killed(work: Path, **_: object) -> None:
        if work.exists():
            for file in work.glob("*.npy"):
                file.unlink()
            kept.extend(names(work))
            raise KeyboardInterrupt

    for module in (propagation_plan, out_of_core):
        monkeypatch.setattr(module, "most_columns", lambda *_: 2)
    with monkeypatch.context() as patched:
        patched.setattr(out_of_core.shutil, "rmtree", killed)
        assert propagate(folder, "--out", str(out), "--plan", "out_of_core") == 130
    assert "settings.json" in kept
    results = [(out / name).read_bytes() for name in RESULTS]
    assert propagate(folder, "--out", str(out), "--plan", "out_of_core") == 2
    assert f"{out}: holds users.npy already" in capsys.readouterr().err
    assert [(out / name).read_bytes() for name in RESULTS] == results
    assert names(out) == sorted(RESULTS)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_pass_out_of_core_asks_for_no_more_room_than_it_takes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, layers: int
) -> None:
    """In three slices of at most 2 of the 5 columns, so that a share of 2/5 is a slice's."""
    out, asked, found = folder / "out", [], []

    def look(self: ColumnSlice, steps: int, tiles: int) -> None:
        found.append(sum(file.stat().st_size - HEADER_BYTES for file in out.rglob("*.npy")))
        note(self, steps, tiles)

    def finish(*arguments: Any) -> None:
        found.append(sum(file.stat().st_size - HEADER_BYTES for file in out.rglob("*.npy")))
        put_results(*arguments)

    note, put_results = ColumnSlice._note, out_of_core.put_results
    monkeypatch.setattr(ColumnSlice, "_note", look)
    monkeypatch.setattr(out_of_core, "put_results", finish)
    monkeypatch.setattr(out_of_core, "check_room", lambda _, needed: asked.append(needed))
    for module in (propagation_plan, out_of_core):
        monkeypatch.setattr(module, "most_columns", lambda *_: 2)
    assert propagate(folder, "--out", str(out), "--plan", "out_of_core", "--layers", str(layers)) == 0
    table = (12 + 8) * 5 * 4
    assert asked == [{1: 2 * table, 2: 2 * table, 4: table + 3 * table * 2 // 5}[layers]]
    assert max(found) <= asked[0]
    assert max(found) == asked[0] or layers == 4, "of the last slice, of one column, the layers take less"


@pytest.mark.parametrize("plan", ["by_dimension", "out_of_core"])
def test_a_small_disk_is_refused_before_anything_is_written(
    folder: Path, plan: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(out_of_core.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    assert propagate(folder, "--out", str(folder / "out"), "--plan", plan) == 2
    assert "the pass needs 1 MiB and 0 MiB are free" in capsys.readouterr().err
    assert names(folder / "out") == []


def test_local_processes_make_the_same_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert propagate(folder, "--out", str(folder / "one")) == 0
    assert propagate(folder, "--out", str(folder / "two"), "--nproc", "2") == 0
    for name in ("users.npy", "items.npy"):
        one, two = (np.load(folder / out / name) for out in ("one", "two"))
        # By dimension, each with sums in one order; a vector unit may take the last columns in another.
        np.testing.assert_allclose(two, one, rtol=0, atol=3e-7)
    capsys.readouterr()
