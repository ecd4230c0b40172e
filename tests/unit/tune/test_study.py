"""Searches, records and successive halving: all that decides which trials a sweep has, without Ray's processes."""

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.schedulers import TrialScheduler

from infodcl_dist.base.config import load_config
from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.train.state import SELECTED_BY
from infodcl_dist.tune import cluster, results
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.plots import importances
from infodcl_dist.tune.reports import FAILED, FINISHED, IS_SETTLED, REFUSED, RUNNING, STOPPED, evaluations_again, settle
from infodcl_dist.tune.results import trials_table
from infodcl_dist.tune.scheduling import StudySearch, Waiting, _EarlierTrial, _errors, build_scheduler
from infodcl_dist.tune.search import number_of_trials, propose
from infodcl_dist.tune.study import Study, Trial
from infodcl_dist.tune.sweep import _check_complete
from infodcl_dist.tune.trial import ENDING_S, RunTrial
from infodcl_dist.tune.workers import Outcome

SPACE = "space={train.learning_rate: {loguniform: [1.0e-4, 0.1]}, model.gcn_layers: {int: [0, 3]}}"


def sweep(path: Path, *keys: str) -> TuneConfig:
    base = "base.overrides=[data.path=set, model.name=mf, train.epochs=20]"
    return load_config(TuneConfig, None, [f"path={path}", base, SPACE, *keys])


def opened(config: TuneConfig, *, resume: bool = False) -> Study:
    return Study.open(config, config.base_run(), resume=resume)


def searching(study: Study, config: TuneConfig, *, slots: int = 4) -> StudySearch:
    return StudySearch(study, config, slots=slots, workers_of_host=slots)


def record(study: Study, trial: Trial, recalls: list[float]) -> None:
    """A trial and what its run would have written."""
    study.keep(trial)
    study.run_folder(trial.number).mkdir(exist_ok=True)
    lines = [json.dumps({"epoch": epoch, SELECTED_BY: recall}) for epoch, recall in enumerate(recalls, start=1)]
    (study.run_folder(trial.number) / "metrics.jsonl").write_text("\n".join([*lines, '{"epoch": 99, "los']))


def quality(parameters: dict) -> float:
    """Best at a learning rate of 0.01, whatever the rest."""
    return 0.1 - 0.05 * abs(math.log10(parameters["train.learning_rate"]) + 2)


def proposals(config: TuneConfig, order: list[int]) -> list[dict]:
    """All parameters, when trials end in another order than they began."""
    trials: list[Trial] = []
    for number in range(12):
        parameters = propose(config, number, trials, lambda n: quality(trials[n].parameters))
        trials.append(Trial(number, parameters))
        if number - 2 in order:
            trials[number - 2] = Trial(number - 2, trials[number - 2].parameters, FINISHED)
    return [trial.parameters for trial in trials]


def test_random_trials_do_not_depend_on_what_is_finished(tmp_path: Path) -> None:
    random = sweep(tmp_path / "a", "search=random")
    assert proposals(random, [0, 1, 2, 3, 4]) == proposals(random, []) == proposals(random, [7, 8])
    assert len({json.dumps(found) for found in proposals(random, [])}) == 12
    other_seed = sweep(tmp_path / "a", "search=random", "seed=1")
    assert proposals(random, []) != proposals(other_seed, [])


def test_tpe_learns_from_the_trials_so_far_and_from_nothing_else(tmp_path: Path) -> None:
    later = []
    for seed in range(3):
        config = sweep(tmp_path / "a", "search=tpe", "startup_trials=5", f"seed={seed}")
        trials: list[Trial] = []
        for number in range(30):
            parameters = propose(config, number, trials, lambda n: quality(trials[n].parameters))  # noqa: B023
            trials.append(Trial(number, parameters, FINISHED))
        again = propose(config, 29, trials[:29], lambda n: quality(trials[n].parameters))  # noqa: B023
        assert again == trials[29].parameters
        later += [quality(trial.parameters) for trial in trials[15:]]
    # Uniform draws lie 0.83 decades off on average, with a deviation of 0.55: a mean of 0.0583 ± 0.0041 over 45.
    assert np.mean(later) > 0.0583 + 2 * 0.0041


def test_a_grid_has_its_own_size(tmp_path: Path) -> None:
    grid = "space={model.gcn_layers: {int: [0, 2]}, train.epochs: {choice: [5, 9]}}"
    config = sweep(tmp_path, "search=grid", grid)
    assert number_of_trials(config) == 6
    assert len({json.dumps(propose(config, number, [], quality)) for number in range(6)}) == 6
    assert number_of_trials(sweep(tmp_path, "search=grid", grid, "trials=4")) == 4
    large = "space={model.gcn_layers: {int: [0, 9]}, train.epochs: {int: [1, 9]}}"
    assert number_of_trials(sweep(tmp_path, "search=grid", large)) == 90
    assert number_of_trials(sweep(tmp_path, "search=random")) == 40


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


def test_a_study_folder_is_not_mixed_with_another(tmp_path: Path) -> None:
    other_seed = sweep(tmp_path / "study", "seed=3")
    opened(other_seed)
    config = sweep(tmp_path / "study")
    opened(config)  # a study that came to nothing is made anew
    for kept in ("trials/0000/trial.json", "trials.parquet"):
        (tmp_path / "study" / kept).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "study" / kept).write_text("")
        with pytest.raises(UserError, match="--resume"):
            opened(config)
        (tmp_path / "study" / kept).unlink()
        opened(config)
    (tmp_path / "study" / kept).write_text("")
    opened(sweep(tmp_path / "study", "trials=99", "retries=0"), resume=True)
    for key, name in (("seed=3", "seed"), ("base.overrides=[data.path=set, train.epochs=21]", "model.name")):
        with pytest.raises(UserError, match=f"another {name}"):
            opened(sweep(tmp_path / "study", key), resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="no study"):
        opened(sweep(tmp_path / "other"), resume=True)


def test_a_study_is_not_looked_for_where_one_may_not_look(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^path: \S+ cannot be read \(File name too long\); choose another$"):
        opened(sweep(tmp_path / ("x" * 300)))


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


def test_step_checkpoints_go_when_the_study_has_the_trials_end(tmp_path: Path) -> None:
    study = opened(sweep(tmp_path / "study"))
    step = study.run_folder(0) / "checkpoints" / "step-000000007"
    workers = SimpleNamespace(
        is_asked=True, answer=lambda go_on: None, outcome=lambda timeout_s: Outcome(), close=lambda: None
    )
    for status, of_trial in product((RUNNING, FAILED, STOPPED), (workers, None)):  # None: stopped before it had any
        study.keep(Trial(0, {}, status))
        step.mkdir(parents=True, exist_ok=True)
        trial = RunTrial.__new__(RunTrial)
        trial._run, trial._workers = study.run_folder(0), of_trial
        trial.cleanup()
        assert step.exists() == (status != STOPPED)


def test_the_chosen_trial_is_evaluated_by_workers_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = sweep(tmp_path / "study", "trials=2")
    study, jobs = opened(config), []
    for number, recall in enumerate((0.1, 0.2)):
        record(study, Trial(number, propose(config, number, [], quality), FINISHED), [recall])
    metrics = {split: {"recall@20": 0.3} for split in ("valid", "test")}

    def work(job: str, config_file: Path, config: TuneConfig) -> dict:
        jobs.append((job, load_config(RunConfig, config_file).run.path))
        return metrics

    monkeypatch.setattr(results, "work", work)
    assert results.needs_evaluation(study)
    for _ in range(2):
        results.write_results(study, config)
        assert not results.needs_evaluation(study)
    assert jobs == [("evaluate", study.run_folder(1))]
    found = json.loads((study.path / "result.json").read_text())
    assert (found["trial"], found["valid"], found["test"]) == (1, metrics["valid"], metrics["test"])


@pytest.mark.parametrize("refused", [None, "disk: is full"])
def test_a_part_of_a_sweep_is_not_its_result(tmp_path: Path, refused: str | None) -> None:
    study = opened(sweep(tmp_path / "study", "trials=2"))
    study.keep(Trial(0, {}, FINISHED))
    _check_complete(study, 1, None)
    with pytest.raises(UserError, match="1 of 2 trials are done, and --resume goes on") as error:
        _check_complete(study, 2, refused)
    assert isinstance(error.value, Unavailable) == (refused is not None)
    assert refused is None or str(error.value).startswith(refused)


def test_a_study_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    before, after = (SimpleNamespace(path="set", checksum=checksum) for checksum in "ab")
    study = opened(sweep(tmp_path / "study"))
    study.check_same_data(after)
    record(study, Trial(0, {}), [])
    (study.run_folder(0) / "dataset.json").write_text('{"name": "set", "checksum": "a"}')
    study.check_same_data(before)
    with pytest.raises(UserError, match=r"0000/run: was trained on other contents of set; prepare each version"):
        study.check_same_data(after)


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


def test_a_refused_trial_is_never_the_best(tmp_path: Path) -> None:
    study = opened(sweep(tmp_path / "study"))
    record(study, Trial(0, {}, REFUSED, error="loss term bpr is not finite in epoch 3"), [0.1, 0.9])
    with pytest.raises(UserError, match="no trial came to an evaluation, unless it was refused"):
        results.write_results(study, sweep(tmp_path / "study"))
    record(study, Trial(1, {}, STOPPED), [0.2])
    assert results._best(study, study.trials()) == study.trial(1)
    assert (study.value(0), study.value(1)) == (0.0, 0.2)


def test_the_table_holds_each_trials_best_epoch(tmp_path: Path) -> None:
    study = opened(sweep(tmp_path / "study"))
    parameters = {"model.gcn_layers": 2, "model.channels": ["a"], "loss.reconstruction": None, "run.label": 1}
    record(study, Trial(0, parameters, FINISHED), [0.1, 0.3, 0.2])
    parameters = {"model.gcn_layers": 3, "model.channels": ["b"], "loss.reconstruction": 0.5, "run.label": "b"}
    study.keep(Trial(1, parameters, REFUSED, error="not finite"))
    table = trials_table(study, study.trials())
    first, second = table.to_pylist()
    assert (first["epochs"], first["best_epoch"], first[SELECTED_BY], first["model.gcn_layers"]) == (3, 2, 0.3, 2)
    told = [second[key] for key in ("epochs", "best_epoch", SELECTED_BY, "error")]
    assert told == [0, None, None, "not finite"]
    assert first["model.channels"] == '["a"]'
    assert [row["loss.reconstruction"] for row in (first, second)] == [None, 0.5]
    assert [row["run.label"] for row in (first, second)] == ["1", '"b"']
    assert study.value(1) == 0.0


def test_the_table_has_all_metrics_whatever_the_first_trial_came_to(tmp_path: Path) -> None:
    base = "base.overrides=[data.path=set, 'evaluation.metrics=[recall,map]']"
    study = opened(sweep(tmp_path / "study", base))
    study.keep(Trial(0, {}, REFUSED, error="not finite"))
    study.keep(Trial(1, {}, FINISHED))
    study.run_folder(1).mkdir()
    found = {"epoch": 1, SELECTED_BY: 0.1, "valid/map@20": 0.3}
    (study.run_folder(1) / "metrics.jsonl").write_text(json.dumps(found) + "\n")
    first, second = trials_table(study, study.trials()).to_pylist()
    assert (first["valid/map@20"], second["valid/map@20"], second["valid/recall@50"]) == (None, 0.3, None)


def test_a_result_is_of_the_model_that_the_chosen_trial_has(tmp_path: Path) -> None:
    study = opened(sweep(tmp_path / "study"))
    record(study, Trial(0, {}, FINISHED), [0.2])
    model = study.run_folder(0) / "checkpoints" / "best" / "checksums.json"
    model.parent.mkdir(parents=True)
    model.write_text("one model")
    (study.path / "result.json").write_text(json.dumps({"trial": 0, "model": results._model(study, study.trial(0))}))
    assert not results.needs_evaluation(study)
    model.write_text("made anew")
    assert results.needs_evaluation(study)
    model.unlink()  # cleared away, to save room
    assert not results.needs_evaluation(study)


def test_importance_finds_the_key_that_matters(tmp_path: Path) -> None:
    config = sweep(tmp_path, "search=random")
    trials = [Trial(n, propose(config, n, [], quality), FINISHED) for n in range(40)]
    shares = importances(config.space, trials, np.array([quality(trial.parameters) for trial in trials]))
    assert next(iter(shares)) == "train.learning_rate"
