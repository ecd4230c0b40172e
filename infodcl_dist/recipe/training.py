"""Trains one model on an open dataset with its metadata at hand, and keeps what a run keeps."""

import shutil
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from infodcl_dist.base.config import dump_config
from infodcl_dist.base.console import console, is_rank_zero, log, set_up_log
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import write_json
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.parallel.folders import on_rank_zero
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.model import (
    Evaluator,
    build_batches,
    build_evaluator,
    build_graph,
    build_step,
    build_tables,
    build_trained_channels,
)
from infodcl_dist.train.checkpoint import load_model, save_model
from infodcl_dist.train.loop import SELECTED_BY, EpochReport, FitResult, Hook, fit
from infodcl_dist.train.trackers import MetricsFile, TensorBoard, Terminal, metrics_table

STACK = ("torch", "torchrec", "deepspeed", "pyarrow", "numpy", "infodcl-dist")
CONFIG_FILE, RESULT_FILE = "config.yaml", "result.json"


def best_checkpoint(run: Path) -> Path:
    """Where a run keeps the model of its best epoch."""
    return run / "checkpoints" / "best"


def train_model(
    config: RunConfig, dataset: Dataset, metadata: dict[str, np.ndarray], group: Group
) -> tuple[dict[str, Any], Evaluator]:
    """Trains, and returns what `result.json` holds and an evaluator of the best epoch's tables.

    Args:
        config: the run; its folder is made here.
        dataset: an open dataset.
        metadata: for each trained channel its rows [N, F]; empty for a model without channels.
        group: this process's place. All ranks call this together.
    """
    folder = config.run.path
    on_rank_zero(lambda: _open_run_folder(config))
    set_up_log(folder / "log.txt")
    tables = build_tables(config, dataset, group)
    channels = build_trained_channels(config, metadata)
    graph = build_graph(dataset, "train", group.device)
    batches = build_batches(config, dataset, metadata, group)
    step = build_step(
        config, tables=tables, channels=channels, graph=graph, batch_per_rank=batches.per_rank, group=group
    )
    evaluator = build_evaluator(config, tables, dataset, graph, group)

    def keep_best(report: EpochReport) -> None:
        if report.is_best:
            save_model(best_checkpoint(folder), tables, channels)

    log.info("%s on %s, %d ranks, %s; %s", config.model.name, dataset.name, group.world_size, group.device, tables)
    tensorboard = TensorBoard(folder / "tensorboard")
    hooks: list[Hook] = [keep_best, MetricsFile(folder / "metrics.jsonl"), tensorboard, Terminal(config.train.epochs)]
    fitted = fit(step, batches, config.train, lambda: evaluator("valid"), hooks)
    tensorboard.close()

    load_model(best_checkpoint(folder), tables, channels)
    result = _result(config, fitted, evaluator, batches.pairs, group)
    if is_rank_zero():
        write_json(folder / RESULT_FILE, result)
        _say_result(folder, result)
    return result, evaluator


def check_run_folder(config: RunConfig) -> None:
    """Whether the run may have its folder.

    Raises:
        UserError: it holds a run and `run.overwrite` is false, or it holds something else.
    """
    folder = config.run.path
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"run.path: {folder} holds something that is no run; choose another")
    if not config.run.overwrite:
        raise UserError(f"run.path: {folder} holds a run; choose another, or pass run.overwrite=true to replace it")


def _open_run_folder(config: RunConfig) -> None:
    check_run_folder(config)
    folder = config.run.path
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    except OSError as error:
        raise UserError(f"run.path: {folder} cannot be written ({error.strerror}); choose another") from error


def _result(config: RunConfig, fitted: FitResult, evaluator: Evaluator, pairs: int, group: Group) -> dict[str, Any]:
    median = statistics.median(fitted.epoch_seconds)
    return {
        "best_epoch": fitted.best_epoch,
        "valid": evaluator("valid"),
        "test": evaluator("test"),
        "selected_by": SELECTED_BY,
        "seed": config.run.seed,
        "world_size": group.world_size,
        "seconds_train": fitted.seconds,
        "seconds_per_epoch_median": median,
        "interactions_per_second": pairs / median,
        "versions": {name: version(name) for name in STACK},
    }


def _say_result(run: Path, result: dict[str, Any]) -> None:
    rows = {split: result[split] for split in ("valid", "test")}
    console.print(metrics_table(rows, f"best epoch {result['best_epoch']}, chosen by {result['selected_by']}"))
    console.print(
        f"run folder  {run}\nresults     {run / RESULT_FILE}\nprogress    tensorboard --logdir {run / 'tensorboard'}"
    )
    console.print(
        f"next        infodcl-dist evaluate {run}\n            infodcl-dist export {run} --out {run / 'export'}"
    )
