"""The metadata of each channel: features of the dataset, or similarity channels made from training pairs (3.1.1).

M users, N items, F width of the pre-trained embeddings.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch.nn.functional import embedding_bag

from infodcl_dist.base.console import is_rank_zero, log, progress_bar
from infodcl_dist.base.files import write_json
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.graph.bipartite import Bipartite, Rows
from infodcl_dist.graph.similarity import Sets, build_sets, nearest_blocks, similarity_blocks
from infodcl_dist.inference.export import export_embeddings
from infodcl_dist.parallel.collectives import barrier
from infodcl_dist.parallel.folders import new_shared_folder, on_rank_zero, one_group_at_a_time
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import Span, row_span
from infodcl_dist.recipe.config import MADE_CHANNELS, MetadataConfig, RunConfig
from infodcl_dist.recipe.model import build_graph
from infodcl_dist.recipe.training import train_model
from infodcl_dist.train.preemption import StopRequest

SimilarityBlock = tuple[Span, sparse.csr_matrix]


def channel_matrices(config: RunConfig, dataset: Dataset, *, group: Group, stop: StopRequest) -> dict[str, np.ndarray]:
    """For each channel its rows [N, F_channel], memory-mapped; similarity channels are made when missing."""
    channels = config.model.trained_channels
    features = feature_matrices(config, dataset)
    made: dict[str, np.ndarray] = {}
    if any(name in MADE_CHANNELS for name in channels):
        folder = ensure_metadata(config, dataset, group=group, stop=stop)
        made = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in MADE_CHANNELS}
    return {name: features[name] if name in features else made[name] for name in channels}


def feature_matrices(config: RunConfig, dataset: Dataset) -> dict[str, np.ndarray]:
    """The channels that are features of the dataset, [N, F_channel] each.

    Raises:
        UserError: a channel is neither made here nor a feature of the dataset.
    """
    return {name: dataset.feature(name) for name in config.model.trained_channels if name not in MADE_CHANNELS}


def metadata_folder(config: RunConfig, dataset: Dataset) -> Path:
    """Where metadata of this data with these settings lies; the name is a digest of both, so none can change unseen."""
    settings = f"{dataset.checksum} {config.metadata.model_dump_json()} {config.pretraining_tables.model_dump_json()}"
    return dataset.path.absolute() / "metadata" / hashlib.sha256(settings.encode()).hexdigest()[:16]


def ensure_metadata(config: RunConfig, dataset: Dataset, *, group: Group, stop: StopRequest) -> Path:
    """The folder with `knowledge.npy` and `social.npy` [N, F]; pre-trains and builds them when it does not exist."""
    folder = metadata_folder(config, dataset)
    channels = folder / "channels"
    if not on_rank_zero(channels.is_dir):
        # Runs that start together with the same settings: one makes what the others wait for.
        with one_group_at_a_time(folder.with_suffix(".lock")):
            if not on_rank_zero(channels.is_dir):
                _build_metadata(config, dataset, folder, group=group, stop=stop)
                return channels
    log.info("metadata: reused from %s", folder)
    return channels


def _build_metadata(config: RunConfig, dataset: Dataset, folder: Path, *, group: Group, stop: StopRequest) -> None:
    users, items = _pretrained(config, dataset, folder / "pretrain", group=group, stop=stop)
    graph = build_graph(dataset, torch.device("cpu"))
    with new_shared_folder(folder / "channels") as building:
        build_knowledge(graph, items, config.metadata, building / "knowledge.npy", group)
        build_social(graph, users, items, config=config.metadata, out=building / "social.npy", group=group)
        if is_rank_zero():
            settings = config.metadata.model_dump(mode="json")
            write_json(building / "settings.json", {"dataset": dataset.name, "checksum": dataset.checksum, **settings})


def build_knowledge(graph: Bipartite, items: np.ndarray, config: MetadataConfig, out: Path, group: Group) -> None:
    """Knowledge channel [N, F]: mean embedding of the items most similar by shared users; the own one if none."""
    sets = _sets_without_hubs(graph.users_of_item, graph.items_of_user, config, "users")
    own = row_span(graph.items, group.rank, group.world_size)
    target = _shared_array(out, items.shape)
    blocks = nearest_blocks(sets, own, config.neighbours, config.similarity)
    for span, nearest in _with_progress(blocks, own, "knowledge channel"):
        nearest.data[:] = 1.0
        count = np.diff(nearest.indptr)[:, None]
        target[span.start : span.stop] = np.where(
            count > 0, (nearest @ items) / np.maximum(count, 1), items[span.start : span.stop]
        )
    target.flush()
    barrier()


def build_social(
    graph: Bipartite, users: np.ndarray, items: np.ndarray, *, config: MetadataConfig, out: Path, group: Group
) -> None:
    """Social channel [N, F]: mean over an item's users of s_u, where s_u averages the user and its similar users' mean.

    A user without a similar user stands for itself; an item without a training user keeps its own embedding.
    """
    sets = _sets_without_hubs(graph.items_of_user, graph.users_of_item, config, "items")
    own = row_span(graph.users, group.rank, group.world_size)
    # A file as well, since every rank reads all of it in the second pass.
    social_users = _shared_array(out.with_name("social_users.npy"), users.shape)
    if config.social_neighbours is None:
        blocks = similarity_blocks(sets, own, config.similarity)
    else:
        blocks = nearest_blocks(sets, own, config.social_neighbours, config.similarity)
    for span, similarity in _with_progress(blocks, own, "social channel"):
        total = np.asarray(similarity.sum(axis=1))
        mine = users[span.start : span.stop]
        mean = (similarity @ users) / np.where(total > 0, total, 1.0)
        social_users[span.start : span.stop] = np.where(total > 0, (mine + mean) / 2, mine)
    social_users.flush()
    barrier()
    own = row_span(graph.items, group.rank, group.world_size)
    target = _shared_array(out, items.shape)
    bags = graph.users_of_item
    offsets = bags.offsets[own.start : own.stop + 1]
    means = embedding_bag(
        bags.indices[offsets[0] : offsets[-1]],
        torch.from_numpy(np.asarray(social_users)),
        offsets - offsets[0],
        mode="mean",
        include_last_offset=True,
    ).numpy()
    lonely = np.diff(offsets.numpy())[:, None] == 0
    target[own.start : own.stop] = np.where(lonely, items[own.start : own.stop], means)
    target.flush()
    barrier()


def _pretrained(
    config: RunConfig, dataset: Dataset, folder: Path, *, group: Group, stop: StopRequest
) -> tuple[np.ndarray, np.ndarray]:
    """U° [M, F] and E° [N, F] of LightGCN's best epoch, memory-mapped; an earlier, complete pre-training is reused."""
    embeddings = folder / "embeddings"
    if not on_rank_zero(embeddings.is_dir):
        log.info("metadata: pre-training LightGCN on the training pairs of %s", dataset.name)
        _, evaluator = train_model(config.pretraining(folder), dataset, {}, group=group, stop=stop)
        with new_shared_folder(embeddings) as building:
            export_embeddings(evaluator.embeddings(), building)
    users, items = (np.load(embeddings / f"{name}.npy", mmap_mode="r") for name in ("users", "items"))
    return users, items


def _sets_without_hubs(rows: Rows, columns: Rows, config: MetadataConfig, kind: str) -> Sets:
    sets = build_sets(rows, columns, config.hub_cap)
    if sets.hubs:
        log.info("metadata: %s %s with more than %s pairs count in no similarity", sets.hubs, kind, config.hub_cap)
    return sets


def _shared_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped float32 array that every rank writes its own rows of."""
    if is_rank_zero():
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()
    barrier()
    array: np.memmap = np.load(path, mmap_mode="r+")
    return array


def _with_progress(blocks: Iterator[SimilarityBlock], own: Span, description: str) -> Iterator[SimilarityBlock]:
    with progress_bar() as bar:
        task = bar.add_task(description, total=own.size)
        for span, similarity in blocks:
            yield span, similarity
            bar.advance(task, span.size)
