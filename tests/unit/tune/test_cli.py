"""`infodcl-dist tune` and `report` end with one line and status 2 before anything is started."""

from pathlib import Path

import pytest

from infodcl_dist.cli.main import run
from infodcl_dist.cli.report import report
from infodcl_dist.cli.tune import tune
from infodcl_dist.data.prepare import PrepareOptions, prepare

SPACE = "space={train.learning_rate: {loguniform: [1.0e-4, 0.1]}}"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    pairs = [f"{user} {item}\n" for user in range(8) for item in range(user, user + 6)]
    (tmp_path / "pairs.txt").write_text("".join(pairs))
    prepare(tmp_path / "pairs.txt", tmp_path / "set", PrepareOptions())
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trial=3"], "command line: trial: unknown key; did you mean trials?"),
        (["space={train.lr: {uniform: [0, 1]}}"], "space: train.lr: unknown key"),
        (["space={train.epochs: {between: [0, 1]}}"], "command line: space.train.epochs.between: unknown key"),
        (["space={train.epochs: {int: [9, 3]}}"], "command line: space.train.epochs: the range [9, 3] is empty"),
        (["space=4"], "command line: space: must map keys of a run"),
        (["space=none.yaml"], "none.yaml: cannot be read"),
        (["search=grid"], "space.train.learning_rate: a grid needs choice, int or quniform"),
        (["base.overrides=[data.path=none, model.name=mf]"], "none: no dataset folder"),
        (["--address=ray://127.0.0.1:10001"], "a sweep is started on a machine of the cluster"),
        (["--address=foo"], "--address foo: nothing listens there; give HOST:PORT"),
        (["--address=127.0.0.1:1"], "--address 127.0.0.1:1: nothing listens there"),
        (["--address=[::1]:99999"], "--address [::1]:99999: nothing listens there"),
        (["base.config=none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_one_line(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    keys = [f"path={tmp_path / 'study'}", SPACE, f"base.overrides=[data.path={dataset}, model.name=mf]"]
    assert run(tune, [*keys, *arguments]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "study").exists()


def test_a_folder_of_other_things_stays_as_it_is(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.txt").write_text("")
    assert run(tune, [f"path={tmp_path / 'study'}", SPACE, f"base.overrides=[data.path={dataset}, model.name=mf]"]) == 2
    assert "holds something that is no study; choose another" in capfd.readouterr().err
    assert [file.name for file in (tmp_path / "study").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("name", "message"), [(".", "no run folder"), ("x" * 300, "(File name too long)")])
def test_a_report_of_nothing_is_one_line(
    name: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(report, [str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    assert "error: " in (line := capfd.readouterr().err)
    assert message in line
