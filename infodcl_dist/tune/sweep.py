"""A whole sweep: check, prepare what all trials share, run trials under Ray Tune, write the results."""

import shutil
from typing import Any

from ray import tune

from infodcl_dist.base.config import dump_config
from infodcl_dist.base.console import log
from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.files import write_text
from infodcl_dist.base.locks import locked
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.run import check_run
from infodcl_dist.tune.cluster import (
    Node,
    bundles,
    check_address,
    connected,
    say_slots,
    slots,
    work,
    workers_of_host,
)
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.results import needs_evaluation, write_results
from infodcl_dist.tune.scheduling import Failures, StudySearch, Waiting, build_scheduler
from infodcl_dist.tune.search import number_of_trials
from infodcl_dist.tune.space import checked_space, grid_of
from infodcl_dist.tune.study import LOCK_FILE, Study, holds_study
from infodcl_dist.tune.trial import RunTrial


def run_sweep(config: TuneConfig, *, address: str | None, resume: bool) -> None:
    """Runs the sweep to its end, from wherever its study folder stands.

    Raises:
        UserError: something the user must change, before the first trial starts; or the sweep was ended early.
        Unavailable: the machine refused what a trial needs. As after any end, `resume` goes on.
    """
    base = config.base_run()
    config = config.model_copy(update={"space": checked_space(config.space, base)})
    dataset = check_run(base)
    total = number_of_trials(config)
    if address is not None:
        check_address(address)
    holds_study(config.path)  # before the lock's file is put into somebody else's folder
    with locked(config.path / LOCK_FILE, wait_s=0, holder="another sweep"):
        study = Study.open(config, base, resume=resume)
        study.check_same_data(dataset)
        study.try_failed_again()
        done = sum(trial.is_done for trial in study.trials())
        log.info("study %s: %d of %d trials done", study.path, done, total)
        if config.search == "grid" and total < (combinations := len(grid_of(config.space))):
            log.warning("trials=%d: of %d combinations the first alone are tried", total, combinations)
        if done >= total and not needs_evaluation(study):
            write_results(study, config)
            return
        with connected(config, address) as nodes:
            say_slots(config, nodes)
            if done < total:
                _make_metadata(study, config, dataset)
                refused = _run_trials(study, config, nodes, total - done)
                _check_complete(study, total, refused)
            write_results(study, config)


def _check_complete(study: Study, total: int, refused: str | None) -> None:
    """Whether all trials are done: the results of a part would pass for the whole sweep's.

    Raises:
        UserError: not all are: Tune ends a sweep at a SIGUSR1 as if it were over, and the machine may refuse.
    """
    done = sum(trial.is_done for trial in study.trials())
    if done < total:
        count = f"{done} of {total} trials are done, and --resume goes on with the rest"
        if refused is not None:
            raise Unavailable(f"{refused}; {count}")
        raise UserError(f"{study.path}: the sweep was ended early; {count}")


def _make_metadata(study: Study, config: TuneConfig, dataset: Dataset) -> None:
    """Makes the base run's metadata before any trial looks for it.

    Trials whose own settings ask for other metadata make it themselves, one of those with the same settings at a time.
    """
    base: RunConfig = study.base
    is_own = any(key.startswith("metadata.") for key in config.space)
    if is_own or all(name in dataset.manifest.features for name in base.model.trained_channels):
        return
    log.info("metadata: looked for, or made once for all trials")
    file = study.path / "metadata.yaml"
    write_text(file, dump_config(base))
    work("make metadata", file, config)


def _run_trials(study: Study, config: TuneConfig, nodes: list[Node], trials: int) -> str | None:
    """Runs the trials that remain, so many, and returns what the machine refused, if it did."""
    at_once = slots(config, nodes)
    search = StudySearch(study, config, slots=at_once, workers_of_host=workers_of_host(config, nodes, trials))
    scratch = study.path / ".tune"  # what Tune writes for its own restoration, which the records stand in for
    shutil.rmtree(scratch, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(RunTrial, tune.PlacementGroupFactory([{}, *bundles(config)], strategy="PACK")),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=build_scheduler(config, study),
            num_samples=-1,  # the search says when it is over
            max_concurrent_trials=at_once,  # so many may wait for their workers; the search counts those that end too
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            storage_path=str(scratch),
            name="sweep",
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs have their own
            failure_config=tune.FailureConfig(max_failures=config.retries),
            callbacks=[Failures(study, search.halt), Waiting()],
        ),
    )
    tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)
    return search.unavailable


def _name(trial: Any) -> str:
    return f"trial-{trial.config['number']}"
