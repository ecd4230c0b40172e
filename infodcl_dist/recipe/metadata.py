"""The rows of each channel: features of the dataset, or channels made from training pairs and given graphs (3.1.1).

M users, N items, F width of the pre-trained embeddings.
"""

import gc
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infodcl_dist.base.console import log
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import write_json
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.data.item_rows import ItemRows
from infodcl_dist.data.side_information import MADE_CHANNELS
from infodcl_dist.graph.bipartite import training_graph
from infodcl_dist.inference.export import export_embeddings
from infodcl_dist.parallel.folders import new_shared_folder, on_rank_zero, one_group_at_a_time
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.device import check_pretraining_device
from infodcl_dist.recipe.made_channels import build_from_item_graph, build_knowledge, build_social
from infodcl_dist.recipe.standardize import fit_scaling
from infodcl_dist.recipe.training import train_model
from infodcl_dist.train.preemption import StopRequest


def channel_rows(config: RunConfig, dataset: Dataset, *, group: Group, stop: StopRequest) -> dict[str, ItemRows]:
    """For each trained channel its rows [N, F_channel], memory-mapped; made channels are made when missing."""
    check_channels(config, dataset)
    made = ensure_channels(config, dataset, _made_names(config, dataset), group=group, stop=stop)
    return _rows(config, dataset, made, group)


def stored_channel_rows(config: RunConfig, dataset: Dataset, group: Group) -> dict[str, ItemRows]:
    """As `channel_rows`, of a run that was trained: nothing is made. All ranks call it.

    Raises:
        UserError: a made channel is not there any more.
    """
    check_channels(config, dataset)
    made = {name: channel_folder(config, dataset, name) / f"{name}.npy" for name in _made_names(config, dataset)}
    for name, file in made.items():
        if not on_rank_zero(file.is_file):
            raise UserError(f"{file}: is gone, so channel {name} has no rows; give the run's train command to make it")
    return _rows(config, dataset, made, group)


def _made_names(config: RunConfig, dataset: Dataset) -> list[str]:
    return [name for name in config.model.trained_channels if name not in dataset.manifest.features]


def _rows(config: RunConfig, dataset: Dataset, made: dict[str, Path], group: Group) -> dict[str, ItemRows]:
    return {
        name: ItemRows(np.load(made[name], mmap_mode="r"))
        if name in made
        else feature_rows(config, dataset, name, group)
        for name in config.model.trained_channels
    }


def check_channels(config: RunConfig, dataset: Dataset) -> None:
    """Whether the dataset has what the trained channels are made from.

    Raises:
        UserError: a channel is neither made from interactions nor a feature or a graph of the dataset, or the social
            channel is to follow a user graph that is not there; names the key, and the option of `prepare`.
    """
    for name in config.model.trained_channels:
        if name in MADE_CHANNELS or name in dataset.manifest.item_graphs:
            continue
        if name not in dataset.manifest.features:
            there = ", ".join([*MADE_CHANNELS, *sorted({*dataset.manifest.features, *dataset.manifest.item_graphs})])
            raise UserError(
                f"model.channels: {dataset.path} has no item feature or graph {name!r}; there are: {there}; prepare "
                "takes --item-features and --item-graph"
            )
        dataset.feature(name)
    if "social" in config.model.trained_channels:
        check_social_graph(config, dataset)


def check_social_graph(config: RunConfig, dataset: Dataset) -> None:
    """Whether the graph that the social channel is to follow is there.

    Raises:
        UserError: it is not; names the key, and the option of `prepare`.
    """
    if config.metadata.social_graph == "given" and dataset.manifest.user_graph is None:
        raise UserError(
            f"metadata.social_graph: {dataset.path} has no user graph to be given; prepare it with --user-graph, or "
            "set metadata.social_graph=interactions"
        )


def makeable_channels(dataset: Dataset) -> list[str]:
    """The channels that can be made for a dataset: from its interactions, and of each of its item graphs."""
    return [*MADE_CHANNELS, *sorted(dataset.manifest.item_graphs)]


def channel_folder(config: RunConfig, dataset: Dataset, channel: str) -> Path:
    """Where a made channel of this data with these settings lies; the name holds a digest of what it hangs on."""
    name = f"{channel}-{_digest(config.metadata.of_channel(channel))}"
    return pretraining_folder(config, dataset) / "channels" / name


def pretraining_folder(config: RunConfig, dataset: Dataset) -> Path:
    """Where pre-training on this data with these settings lies; its name is a digest of both."""
    tables = config.pretraining_tables.model_dump(mode="json")
    digest = _digest([dataset.checksum, config.metadata.of_pretraining(), tables])
    return dataset.path.absolute() / "metadata" / digest


def needs_pretraining(config: RunConfig, dataset: Dataset) -> bool:
    """Whether the run would pre-train: it has channels that are to be made, and nothing of them was made beforehand."""
    if all(channel_folder(config, dataset, name).is_dir() for name in _made_names(config, dataset)):
        return False
    return not embeddings_folder(config, dataset).is_dir()


def ensure_channels(
    config: RunConfig, dataset: Dataset, names: Iterable[str], *, group: Group, stop: StopRequest
) -> dict[str, Path]:
    """The files of made channels, `NAME.npy` [N, F] each; those that are not there are made, after pre-training.

    Raises:
        UserError: the social channel is to follow a user graph that is not there; see `check_pretraining_device`.
        Preempted: pre-training was asked to stop; see `Checkpoints`.
    """
    folders = {name: channel_folder(config, dataset, name) for name in names}

    def absent() -> list[str]:
        return [name for name, folder in folders.items() if not folder.is_dir()]

    missing = on_rank_zero(absent)
    for name, folder in folders.items():
        if name not in missing:
            log.info("channel %s: reused from %s", name, folder)
    if missing:
        # Runs that start together with the same settings: one makes what the others wait for.
        lock = pretraining_folder(config, dataset).with_suffix(".lock")
        with one_group_at_a_time(lock, holder="another run that makes them", meanwhile=stop.check):
            if missing := on_rank_zero(absent):
                check_pretraining_device(config, group.device)
                users, items = _pretrained(config, dataset, group=group, stop=stop)
                for name in missing:
                    _make(config, dataset, name, users, items, group=group)
    return {name: folder / f"{name}.npy" for name, folder in folders.items()}


def _make(
    config: RunConfig, dataset: Dataset, name: str, users: np.ndarray, items: np.ndarray, *, group: Group
) -> None:
    """Makes one channel in its folder, complete or absent; of interactions it sees those of train alone."""
    with new_shared_folder(channel_folder(config, dataset, name)) as building:
        out = building / f"{name}.npy"
        if name in MADE_CHANNELS:
            graph = training_graph(dataset, torch.device("cpu"))
            if name == "knowledge":
                build_knowledge(graph, items, config.metadata, out, group)
            else:
                given = dataset.user_graph() if config.metadata.social_graph == "given" else None
                build_social(graph, users, items, given=given, config=config.metadata, out=out, group=group)
        else:
            build_from_item_graph(dataset.item_graph(name), items, config.metadata, out, group)
        settings = {
            "channel": name,
            "dataset": dataset.name,
            "checksum": dataset.checksum,
            **config.metadata.of_pretraining(),
            **config.metadata.of_channel(name),
        }
        on_rank_zero(lambda: write_json(building / "settings.json", settings))


def feature_rows(config: RunConfig, dataset: Dataset, name: str, group: Group) -> ItemRows:
    """A feature's rows as channels train on them: with its gaps, and scaled if the run says so. All ranks call it."""
    matrix, scaling = dataset.feature(name), None
    if config.model.standardize == "column":
        seen = dataset.users_of_items().degrees > 0
        scaling = fit_scaling(name, matrix, seen, group)
    return ItemRows(matrix, dataset.manifest.features[name].missing, scaling)


def embeddings_folder(config: RunConfig, dataset: Dataset) -> Path:
    """Where the embeddings of a complete pre-training lie."""
    return pretraining_folder(config, dataset) / "pretrain" / "embeddings"


def _digest(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _pretrained(
    config: RunConfig, dataset: Dataset, *, group: Group, stop: StopRequest
) -> tuple[np.ndarray, np.ndarray]:
    """U° [M, F] and E° [N, F] of LightGCN's best epoch, memory-mapped; an earlier, complete pre-training is reused."""
    embeddings = embeddings_folder(config, dataset)
    if not on_rank_zero(embeddings.is_dir):
        log.info("metadata: pre-training LightGCN on the training pairs of %s", dataset.name)
        pretraining = config.pretraining(embeddings.parent)
        evaluator = train_model(pretraining, dataset, {}, group=group, stop=stop, splits=("valid",))[1]
        with new_shared_folder(embeddings) as building:
            export_embeddings(evaluator.embeddings(), building)
        # A step and TorchRec's modules are cycles of references, and hold its tables beside those of the main run.
        del evaluator
        gc.collect()
    users, items = (np.load(embeddings / f"{name}.npy", mmap_mode="r") for name in ("users", "items"))
    return users, items
