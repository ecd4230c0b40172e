"""Searches, the study folder and its results: which trials a sweep has and what it leaves, without Ray's processes."""

import json
import math
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from infodcl_dist.base.config import load_config
from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.train.state import SELECTED_BY
from infodcl_dist.tune import results
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.plots import importances
from infodcl_dist.tune.reports import FAILED, FINISHED, REFUSED, RUNNING, STOPPED
from infodcl_dist.tune.results import trials_table
from infodcl_dist.tune.search import number_of_trials, propose
from infodcl_dist.tune.study import Study, Trial
from infodcl_dist.tune.sweep import _check_complete
from infodcl_dist.tune.trial import RunTrial
from infodcl_dist.tune.workers import Outcome

SPACE = "space={train.learning_rate: {loguniform: [1.0e-4, 0.1]}, model.gcn_layers: {int: [0, 3]}}"


def sweep(path: Path, *keys: str) -> TuneConfig:
    base = "base.overrides=[data.path=set, model.name=mf, train.epochs=20]"
    return load_config(TuneConfig, None, [f"path={path}", base, SPACE, *keys])


def opened(config: TuneConfig, *, resume: bool = False) -> Study:
    return Study.open(config, config.base_run(), resume=resume)


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
