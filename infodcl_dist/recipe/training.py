"""Trains one model on an open dataset with its metadata at hand, and keeps what a run keeps."""

import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from infodcl_dist.base.console import console, is_rank_zero, log, set_up_log
from infodcl_dist.base.files import write_json
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.data.item_rows import ItemRows
from infodcl_dist.graph.bipartite import training_graph
from infodcl_dist.inference.scratch import clear_scratch
from infodcl_dist.parallel.folders import ENDING_S, check_shared, on_rank_zero, one_group_at_a_time
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.model import (
    Evaluator,
    build_batches,
    build_evaluator,
    build_step,
    build_tables,
    build_trained_channels,
)
from infodcl_dist.recipe.run_folder import LOCK_FILE, RESULT_FILE, best_checkpoint, open_run_folder
from infodcl_dist.recipe.warm_start import warm_start
from infodcl_dist.train.checkpoint import epoch_of_model, load_model, save_model
from infodcl_dist.train.checkpoints import Checkpoints
from infodcl_dist.train.loop import EpochReport, Hook, fit, has_ended
from infodcl_dist.train.preemption import StopRequest
from infodcl_dist.train.profile import StepTrace
from infodcl_dist.train.state import SELECTED_BY, FitState
from infodcl_dist.train.sums import LossSums
from infodcl_dist.train.trackers import MetricsFile, TensorBoard, Terminal, metrics_table

RESULT_SPLITS = ("valid", "test")
STACK = ("torch", "torchrec", "deepspeed", "pyarrow", "numpy", "infodcl-dist")


def train_model(
    config: RunConfig,
    dataset: Dataset,
    metadata: Mapping[str, ItemRows],
    *,
    group: Group,
    stop: StopRequest,
    hooks: Sequence[Hook] = (),
    splits: Sequence[str] = RESULT_SPLITS,
) -> tuple[dict[str, Any], Evaluator]:
    """Trains, and returns what `result.json` holds and an evaluator of the best epoch's tables.

    Args:
        config: the run; its folder is made here.
        dataset: an open dataset.
        metadata: for each trained channel its rows [N, F]; empty for a model without channels.
        group: this process's place. All ranks call this together.
        stop: where to look for a request to stop.
        hooks: called after the run's own hooks, see `fit`.
        splits: what the best epoch is evaluated on at the end; a sweep's trials and pre-training leave `test` alone.

    Raises:
        Preempted: the run was asked to stop; see `Checkpoints`.
        UserError: another process group trains in the folder, or hosts do not share it; on every rank.
    """
    folder = config.run.path
    with one_group_at_a_time(folder / LOCK_FILE, wait_s=ENDING_S, holder="another run", meanwhile=stop.check):
        on_rank_zero(lambda: open_run_folder(config, dataset))
        check_shared(folder)
        on_rank_zero(lambda: clear_scratch(folder))
        set_up_log(folder / "log.txt")
        state, evaluator = _fitted(config, dataset, metadata, group=group, stop=stop, hooks=hooks)
        found = {split: evaluator(split) for split in splits}
        result = _result(config, state, found, dataset.manifest.counts["train"], group)
        on_rank_zero(lambda: write_json(folder / RESULT_FILE, result))
        if is_rank_zero():
            _say_result(folder, result, found)
    return result, evaluator


def _fitted(
    config: RunConfig,
    dataset: Dataset,
    metadata: Mapping[str, ItemRows],
    *,
    group: Group,
    stop: StopRequest,
    hooks: Sequence[Hook],
) -> tuple[FitState, Evaluator]:
    """Where training ended, and an evaluator of the best epoch's tables."""
    folder = config.run.path
    tables = build_tables(config, dataset, group)
    channels = build_trained_channels(config, metadata)
    graph = training_graph(dataset, group.device)
    batches = build_batches(config, dataset, metadata, group)
    step = build_step(
        config, tables=tables, channels=channels, graph=graph, batch_per_rank=batches.per_rank, group=group
    )
    evaluator = build_evaluator(config, tables, dataset, graph, group, in_training=True)
    log.info("%s on %s, %d ranks, %s; %s", config.model.name, dataset.name, group.world_size, group.device, tables)

    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint, step, stop, timeout_s=config.train.timeout_s)
    state = checkpoints.resume()
    if not has_ended(state, config.train):  # what a shorter training found is not this one's result
        on_rank_zero(lambda: (folder / RESULT_FILE).unlink(missing_ok=True))
    if config.init.run is not None and state.steps_done == 0:
        warm_start(config, tables, dataset, group)

    def keep_best(report: EpochReport) -> None:
        if report.is_best:
            save_model(best_checkpoint(folder), tables, channels, epoch=report.epoch)

    tensorboard = TensorBoard(folder / "tensorboard", first_epoch=state.epoch)
    metrics = MetricsFile(folder / "metrics.jsonl", first_epoch=state.epoch)
    own_hooks: list[Hook] = [keep_best, metrics, tensorboard, Terminal(config.train.epochs)]
    with checkpoints, StepTrace(folder / "profile", config.train.profile_steps, group.rank) as trace:

        def keep(state: FitState, sums: LossSums | None, *, is_last_step: bool = False) -> None:
            if sums is not None:
                trace.after_step()
            checkpoints(state, sums, is_last_step=is_last_step)

        state = fit(
            step,
            batches,
            config.train,
            evaluate=lambda: evaluator("valid"),
            hooks=[*own_hooks, *hooks],
            state=state,
            keep=keep,
        )
        checkpoints.save(state, None)
    tensorboard.close()

    load_model(best_checkpoint(folder), tables, channels)
    return state, evaluator


def _result(
    config: RunConfig, fitted: FitState, found: dict[str, dict[str, float]], pairs: int, group: Group
) -> dict[str, Any]:
    median = statistics.median(fitted.epoch_seconds)
    return {
        # The model's own word: killed after its best epoch, and gone on from before it, a run may hold another than
        # `fitted` knows of.
        "best_epoch": epoch_of_model(best_checkpoint(config.run.path)),
        **found,
        "selected_by": SELECTED_BY,
        "seed": config.run.seed,
        "world_size": group.world_size,
        "seconds_train": fitted.seconds,
        "seconds_per_epoch_median": median,
        "interactions_per_second": pairs / median,
        "versions": {name: version(name) for name in STACK},
    }


def _say_result(run: Path, result: dict[str, Any], found: dict[str, dict[str, float]]) -> None:
    console.print(metrics_table(found, f"best epoch {result['best_epoch']}, chosen by {result['selected_by']}"))
    console.print(
        f"run folder  {run}\nresults     {run / RESULT_FILE}\nprogress    tensorboard --logdir {run / 'tensorboard'}"
    )
    console.print(
        f"next        infodcl-dist evaluate {run}\n            infodcl-dist export {run} --out {run / 'export'}"
    )
