"""The command `propagate`, on a data set that `prepare` made; its numbers are looked at in tests/dist."""

from pathlib import Path

import numpy as np
import pytest

from infodcl_dist.cli.main import infodcl_dist, run


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


def test_plans_agree_and_what_is_there_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for plan in ("auto", "by_row", "out_of_core"):
        assert propagate(folder, "--out", str(folder / plan), "--plan", plan, "--max-memory-gb", "1.5") == 0
        assert sorted(file.name for file in (folder / plan).iterdir()) == ["items.npy", "users.npy"]
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
    (folder / "file").write_text("")
    cases = [
        ({"users": "short.npy"}, [], "has shape (11, 5)"),
        ({"users": "whole.npy"}, [], "holds int64"),
        ({"users": "none.npy"}, [], "none.npy: cannot be read"),
        ({}, ["--max-memory-gb", "0.01", "--plan", "out_of_core"], "give a host at least"),
        ({}, ["--max-memory-gb", "0"], "--max-memory-gb"),
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


def test_local_processes_make_the_same_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert propagate(folder, "--out", str(folder / "one")) == 0
    assert propagate(folder, "--out", str(folder / "two"), "--nproc", "2") == 0
    for name in ("users.npy", "items.npy"):
        one, two = (np.load(folder / out / name) for out in ("one", "two"))
        # By dimension, each with sums in one order; a vector unit may take the last columns in another.
        np.testing.assert_allclose(two, one, rtol=0, atol=3e-7)
    capsys.readouterr()
