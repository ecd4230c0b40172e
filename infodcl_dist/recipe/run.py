"""The one training function: torchrun, the command line and the tests all call `train_run`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import Dataset, check_negatives_exist, check_pairs, open_dataset
from infodcl_dist.data.item_rows import ItemRows
from infodcl_dist.graph.bipartite import training_graph
from infodcl_dist.inference.scratch import clear_scratch
from infodcl_dist.model.channels import Channel
from infodcl_dist.parallel.folders import on_rank_zero
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.device import check_device, check_reading_device
from infodcl_dist.recipe.metadata import channel_rows, check_channels, stored_channel_rows
from infodcl_dist.recipe.model import Evaluator, build_evaluator, build_tables, build_trained_channels
from infodcl_dist.recipe.run_folder import (
    best_checkpoint,
    check_run_folder,
    check_same_data,
    check_trained_on,
    holds_checkpoints,
    read_trained_config,
)
from infodcl_dist.recipe.training import RESULT_SPLITS, train_model
from infodcl_dist.recipe.warm_start import open_source
from infodcl_dist.train.checkpoint import load_model
from infodcl_dist.train.loop import Hook
from infodcl_dist.train.preemption import StopRequest


def train_run(
    config: RunConfig, group: Group, *, hooks: Sequence[Hook] = (), splits: Sequence[str] = RESULT_SPLITS
) -> dict[str, Any]:
    """Trains a run from its configuration, in this process group, and returns what `result.json` holds.

    A sweep's trial passes `hooks`, to report and to be stopped, and `splits` without test; see `train_model`.

    Raises:
        UserError: something the user must change, on every rank alike.
        Preempted: the run was asked to stop; run again, it goes on.
    """
    check_device(config, group.device)  # before pre-training, which may take hours
    dataset = on_rank_zero(lambda: check_run(config))
    with StopRequest(config.train.timeout_s) as stop:
        metadata = channel_rows(config, dataset, group=group, stop=stop)
        result, _ = train_model(config, dataset, metadata, group=group, stop=stop, hooks=hooks, splits=splits)
    return result


def check_run(config: RunConfig) -> Dataset:
    """Opens the run's dataset, after all checks that need neither a process group nor the device that trains.

    Raises:
        UserError: the run folder is taken, the dataset is not whole or cannot train, a channel is unknown, or
            `init.from` does not fit.
    """
    check_run_folder(config)
    dataset = checked_dataset(config.data.path)
    check_same_data(config, dataset)
    check_negatives_exist(dataset)
    check_channels(config, dataset)
    if config.init.run is not None and (config.run.overwrite or not holds_checkpoints(config.run.path)):
        open_source(config.init.run, config, dataset)
    return dataset


def checked_dataset(path: Path) -> Dataset:
    """A dataset whose files have their checksums and whose held-out pairs are not in training."""
    dataset = open_dataset(path, verify=True)
    check_pairs(dataset)
    return dataset


def open_run(path: Path, group: Group) -> Evaluator:
    """Opens a run folder at any world size: its configuration, its data, and the model of its best epoch.

    Raises:
        UserError: it is no run folder, holds no checkpoint, or its dataset was prepared anew since; or see
            `check_reading_device`.
    """
    config, dataset = _trained_config_and_data(path, group)
    on_rank_zero(lambda: clear_scratch(path))
    tables = build_tables(config, dataset, group)
    load_model(best_checkpoint(path), tables, None)
    graph = training_graph(dataset, group.device)
    return build_evaluator(config, tables, dataset, graph, group, in_training=False)


class TrainedChannel(NamedTuple):
    """A channel of a finished run's best epoch, and what it was fed."""

    channel: Channel
    rows: ItemRows  # [N, F]


def open_channels(path: Path, group: Group) -> dict[str, TrainedChannel]:
    """Opens the channels of a run folder, by name, on the group's device; docs/guide.md generates embeddings by them.

    Raises:
        UserError: see `open_run`; or the run's model has no channels, or the rows of one are gone.
    """
    config, dataset = _trained_config_and_data(path, group)
    rows = stored_channel_rows(config, dataset, group)
    channels = build_trained_channels(config, rows)
    if channels is None:
        raise UserError(f"{path}: is a run without channels (model.name={config.model.name}); give one of infodcl")
    load_model(best_checkpoint(path), build_tables(config, dataset, group), channels)
    channels.to(group.device).eval()
    return {name: TrainedChannel(cast(Channel, channel), rows[name]) for name, channel in channels.items()}


def _trained_config_and_data(path: Path, group: Group) -> tuple[RunConfig, Dataset]:
    config = read_trained_config(path)
    check_reading_device(config, group.device)
    dataset = on_rank_zero(lambda: checked_dataset(config.data.path))
    on_rank_zero(lambda: check_trained_on(path, dataset))
    return config, dataset
