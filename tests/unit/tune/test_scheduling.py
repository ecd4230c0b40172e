"""What Ray Tune is told while trials run: which comes next, which is stopped; without Ray's processes."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler
from test_study import opened, quality, record, sweep

from infodcl_dist.train.state import SELECTED_BY
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.reports import FAILED, FINISHED, IS_SETTLED, REFUSED, RUNNING, STOPPED, evaluations_again, settle
from infodcl_dist.tune.scheduling import StudySearch, Waiting, _EarlierTrial, _errors, build_scheduler
from infodcl_dist.tune.search import propose
from infodcl_dist.tune.study import Study, Trial
from infodcl_dist.tune.trial import ENDING_S


def searching(study: Study, config: TuneConfig, *, slots: int = 4) -> StudySearch:
    return StudySearch(study, config, slots=slots, workers_of_host=slots)


def test_a_study_goes_on_with_what_was_cut_off_and_repeats_nothing_done(tmp_path: Path) -> None:
    config = sweep(tmp_path / "study", "search=random", "trials=4")
    first = searching(opened(config), config)
    runs = [first.suggest(f"trial {number}")["run"] for number in range(3)]
    first.on_trial_complete("trial 0", {"status": FINISHED, "epoch": 20})
    first.on_trial_complete("trial 2", {"epoch": 8})
    again = searching(opened(config, resume=True), config)
    assert again.suggest("x")["run"] == runs[1]
    assert again.suggest("y")["run"] == str(tmp_path / "study" / "trials" / "0003" / "run")
    again.on_trial_complete("x", error=True)
    assert again.suggest("z") is None, "Tune is not told that all is over while one runs"
    again.on_trial_complete("y", {"epoch": 20})  # stopped at its last epoch
    assert again.suggest("z") is None, "its workers still evaluate"
    (tmp_path / "study" / "trials" / "0003" / "run").mkdir()
    (tmp_path / "study" / "trials" / "0003" / "run" / "result.json").write_text("{}")
    assert again.suggest("z") == StudySearch.FINISHED
    trials = opened(config, resume=True).trials()
    assert [trial.status for trial in trials] == [FINISHED, FAILED, STOPPED, FINISHED]
    assert [trial.attempts for trial in trials] == [1, 2, 1, 1]
    assert [trial.parameters for trial in trials] == [propose(config, n, [], quality) for n in range(4)]


def test_a_study_that_goes_on_tries_failed_trials_again(tmp_path: Path) -> None:
    config = sweep(tmp_path / "study", "search=random", "trials=2")
    study = opened(config)
    for number, status in enumerate((FINISHED, FAILED)):
        record(study, Trial(number, propose(config, number, [], quality), status, error="died"), [0.1])
    study.try_failed_again()
    search = searching(study, config)
    assert [search.suggest("a")["number"], search.suggest("b")] == [1, None]
    assert (study.trial(1).status, study.trial(1).attempts, study.trial(1).error) == (RUNNING, 2, None)
    assert study.trial(0).status == FINISHED


def test_parameters_that_do_not_fit_together_are_a_refused_trial(tmp_path: Path) -> None:
    grid = "space={tables.sharding: {choice: [row_wise, column_wise]}, model.dim: {choice: [12]}}"
    config = sweep(tmp_path / "study", "search=grid", grid)
    search = searching(opened(config), config)
    assert search.suggest("a")["number"] == 0
    assert search.suggest("b") is None
    refused = opened(config, resume=True).trial(1)
    assert refused.status == REFUSED
    assert "model.dim=16" in str(refused.error)


def test_what_the_machine_refuses_ends_no_trial_and_begins_no_other(tmp_path: Path) -> None:
    config = sweep(tmp_path / "study", "search=random", "trials=4")
    study = opened(config)
    search = searching(study, config)
    assert [search.suggest(name)["number"] for name in "ab"] == [0, 1]
    search.on_trial_complete("a", {"status": RUNNING, "epoch": 3, "refusal": None, "unavailable": "disk: is full"})
    assert search.unavailable == "disk: is full"
    assert search.suggest("c") is None
    search.on_trial_complete("b", {"status": FINISHED, "epoch": 20})
    assert search.suggest("c") == StudySearch.FINISHED
    assert [trial.status for trial in study.trials()] == [RUNNING, FINISHED]
    assert study.trial(0).error is None
    again = searching(opened(config, resume=True), config)
    assert [again.suggest(name)["number"] for name in "abc"] == [0, 2, 3]


def test_records_that_cannot_be_written_end_the_sweep_and_refuse_nothing(tmp_path: Path) -> None:
    config = sweep(tmp_path / "study", "search=random", "trials=4")
    study = opened(config)
    search = searching(study, config)
    search.suggest("a")
    os.mkdir(study.folder(1))
    (study.folder(1) / "config.yaml").mkdir()
    assert search.suggest("b") is None
    assert f"{study.folder(1)}/config.yaml: cannot be written" in str(search.unavailable)
    assert [trial.status for trial in study.trials()] == [RUNNING]


def test_successive_halving_remembers_the_done_trials_of_an_earlier_session(tmp_path: Path) -> None:
    config = sweep(tmp_path / "study", "asha.grace_epochs=3", "asha.reduction_factor=2")
    study = opened(config)
    for number, level in enumerate((0.10, 0.12, 0.14)):
        record(study, Trial(number, {}, STOPPED), [level] * 3)
    record(study, Trial(3, {}), [0.9] * 3)  # cut off: it will report again itself
    for level, verdict in ((0.11, TrialScheduler.STOP), (0.15, TrialScheduler.CONTINUE)):
        scheduler, trial = build_scheduler(config, study), _EarlierTrial("new")
        scheduler.on_trial_add(None, trial)
        found = [scheduler.on_trial_result(None, trial, {"epoch": e, SELECTED_BY: level}) for e in (1, 2, 3)]
        assert found == [TrialScheduler.CONTINUE, TrialScheduler.CONTINUE, verdict]


def test_a_trial_that_goes_on_is_not_judged_again(tmp_path: Path) -> None:
    config = sweep(tmp_path / "study", "asha.grace_epochs=2", "asha.reduction_factor=2")
    study = opened(config)
    record(study, Trial(0, {}), [0.1] * 3)  # the first at its rungs, so it went on
    for number in (1, 2, 3):
        record(study, Trial(number, {}, FINISHED), [0.5] * 9)
    settle(study.run_folder(0), 2)
    again = evaluations_again(study.run_folder(0))
    assert [line[IS_SETTLED] for line in again] == [True, True, False]
    scheduler, trial = build_scheduler(config, study), _EarlierTrial("0")
    scheduler.on_trial_add(None, trial)
    assert [scheduler.on_trial_result(None, trial, line) for line in again] == [TrialScheduler.CONTINUE] * 3
    assert scheduler.on_trial_result(None, trial, {"epoch": 4, SELECTED_BY: 0.1}) == TrialScheduler.STOP
    # Only a word of the scheduler settles an evaluation.
    settle(study.run_folder(0), 1)
    scheduler, trial = build_scheduler(config, study), _EarlierTrial("0")
    scheduler.on_trial_add(None, trial)
    found = [scheduler.on_trial_result(None, trial, line) for line in evaluations_again(study.run_folder(0))]
    assert found[:2] == [TrialScheduler.CONTINUE, TrialScheduler.STOP]


@pytest.mark.parametrize(
    ("keys", "most"),
    [
        ([], 20),
        (["space={train.epochs: {choice: [10, 60]}}"], 60),
        (["asha.grace_epochs=20"], None),
        (["asha.enabled=false"], None),
    ],
)
def test_successive_halving_knows_how_long_the_longest_trial_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, keys: list[str], most: int | None
) -> None:
    config = sweep(tmp_path / "study", "asha.grace_epochs=5", *keys)
    assert getattr(build_scheduler(config, opened(config)), "_max_t", None) == most
    assert ("no trial is stopped early" in caplog.text) == (keys == ["asha.grace_epochs=20"])


def test_a_stopped_trial_keeps_its_place_until_it_has_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sweep(tmp_path / "study", "search=random", "trials=3")
    study = opened(config)
    search = searching(study, config, slots=1)
    search.suggest("a")
    assert search.suggest("b") is None, "one at a time"
    search.on_trial_complete("a", {"epoch": 8})
    assert search.suggest("b") is None
    study.run_folder(0).mkdir()
    (study.run_folder(0) / "result.json").write_text("{}")
    assert search.suggest("b")["number"] == 1
    search.on_trial_complete("b", {"epoch": 8})
    assert search.suggest("c") is None
    late = time.monotonic() + ENDING_S + 60
    monkeypatch.setattr(time, "monotonic", lambda: late)
    assert search.suggest("c")["number"] == 2, "the workers of the other may have died"
    search.on_trial_complete("c", {"epoch": 8})
    assert search.suggest("d") is None
    monkeypatch.setattr(time, "monotonic", lambda: late + ENDING_S)
    assert search.suggest("d") == StudySearch.FINISHED


def test_a_trial_that_is_stopped_before_it_has_workers_is_not_waited_for(tmp_path: Path) -> None:
    config = sweep(tmp_path / "study", "search=random", "trials=1")
    search = searching(opened(config), config)
    search.suggest("a")
    search.on_trial_complete("a", {"epoch": 8, IS_SETTLED: False})  # it says again what it had said before
    assert search.suggest("b") == StudySearch.FINISHED


def test_it_is_said_when_trials_wait_and_none_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said, waiting = [], Waiting()
    # A wait begins with the first step that sees it, however long there was none before; it is said once a minute.
    for now, states in [
        (0, []),
        (500, ["PENDING"]),
        (530, ["PENDING"]),
        (560, ["PENDING"]),
        (600, ["PENDING"]),
        (610, ["PENDING", "RUNNING"]),
        (675, ["PENDING"]),
        (735, ["PENDING", "TERMINATED"]),
    ]:
        monkeypatch.setattr(time, "monotonic", lambda now=now: float(now))
        waiting.on_step_end(0, [SimpleNamespace(status=state) for state in states])
        if "trials wait for resources" in caplog.text:
            said.append(now)
            caplog.clear()
    assert said == [560, 735]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no reason known"),
        (
            "Failure # 1 (at 7)\nTraceback\n  a\nx.AError: one\nFailure # 2 (at 9)\nThe machine is gone.\nb\n",
            "The machine is gone.",
        ),
        ("Failure # 1 (at 7)\nTraceback\nAError: one\nmore\nray.BError: two\n  c\n", "ray.BError: two"),
    ],
)
def test_the_reason_of_a_failure_is_the_last_attempts(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "error.txt").write_text(text)
    assert _errors(SimpleNamespace(error_file=str(tmp_path / "error.txt"))) == (text, reason)


def test_a_removed_trial_is_made_anew_and_no_other(tmp_path: Path) -> None:
    config = sweep(tmp_path / "study", "search=random", "trials=4")
    study = opened(config)
    for number in (0, 2, 3):
        record(study, Trial(number, propose(config, number, [], quality), FINISHED), [0.1])
    search = searching(study, config)
    assert search.suggest("a")["number"] == 1
    assert search.suggest("b") is None
    assert [trial.status for trial in study.trials()] == [FINISHED, RUNNING, FINISHED, FINISHED]
