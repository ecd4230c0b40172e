"""A whole sweep: check, prepare what all trials share, run trials under Ray Tune, write the results."""

import shutil
from pathlib import Path
from typing import Any

from ray import tune

from infodcl_dist.base.config import dump_config
from infodcl_dist.base.console import log
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import new_file
from infodcl_dist.base.locks import locked
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.run import check_run
from infodcl_dist.tune.cluster import bundles, check_address, connected, reserved, say_slots, slots
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.results import write_results
from infodcl_dist.tune.scheduling import Failures, StudySearch, build_scheduler
from infodcl_dist.tune.search import number_of_trials
from infodcl_dist.tune.space import checked_space
from infodcl_dist.tune.study import LOCK_FILE, Study
from infodcl_dist.tune.trial import RunTrial
from infodcl_dist.tune.workers import WorkerGroup


def run_sweep(config: TuneConfig, *, address: str | None, resume: bool) -> None:
    """Runs the sweep to its end, from wherever its study folder stands.

    Raises:
        UserError: something the user must change, before the first trial starts.
    """
    base = config.base_run()
    config = config.model_copy(update={"space": checked_space(config.space, base)})
    dataset = check_run(base)
    total = number_of_trials(config)
    if address is not None:
        check_address(address)
    with locked(config.path / LOCK_FILE, wait_s=0, holder="another sweep"):
        study = Study.open(config, base, resume=resume)
        study.check_same_data(dataset)
        done = sum(trial.is_done for trial in study.trials())
        log.info("study %s: %d of %d trials done", study.path, done, total)
        if done < total:
            with connected(config, address) as nodes:
                say_slots(config, nodes)
                at_once = slots(config, nodes)
                _make_metadata(study, config, dataset)
                _run_trials(study, config, total - done, at_once)
        write_results(study, config)


def _make_metadata(study: Study, config: TuneConfig, dataset: Dataset) -> None:
    """Makes the base run's metadata before any trial looks for it.

    Trials whose own settings ask for other metadata make it themselves, one of those with the same settings at a time.
    """
    base: RunConfig = study.base
    is_own = any(key.startswith("metadata.") for key in config.space)
    if is_own or all(name in dataset.manifest.features for name in base.model.trained_channels):
        return
    log.info("metadata: looked for, or made once for all trials")
    with reserved(config) as placement:
        workers = WorkerGroup(
            placement, workers=config.workers_per_trial, cpus=config.cpus_per_worker, gpus=config.gpus_per_worker
        )
        try:
            workers.start("make metadata", _written(study.path / "metadata.yaml", base))
            refusal = workers.outcome().refusal
        finally:
            workers.close()
    if refusal is not None:
        raise UserError(refusal)


def _run_trials(study: Study, config: TuneConfig, remaining: int, at_once: int) -> None:
    search = StudySearch(study, config)
    scratch = study.path / ".tune"  # what Tune writes for its own restoration, which the records stand in for
    shutil.rmtree(scratch, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(RunTrial, tune.PlacementGroupFactory([{}, *bundles(config)], strategy="PACK")),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=build_scheduler(config, study, study.base.train.epochs),
            num_samples=remaining,
            max_concurrent_trials=at_once,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            storage_path=str(scratch),
            name="sweep",
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs have their own
            failure_config=tune.FailureConfig(max_failures=config.retries),
            callbacks=[Failures(study)],
        ),
    )
    tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)


def _name(trial: Any) -> str:
    return f"trial-{trial.config['number']}"


def _written(file: Path, config: RunConfig) -> Path:
    with new_file(file) as building:
        building.write_text(dump_config(config), encoding="utf-8")
    return file
