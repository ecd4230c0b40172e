"""The channels that are made from pre-trained embeddings: means over the neighbours of items and of users (3.1.1).

M users, N items, F width of the pre-trained embeddings. Every rank writes its own rows of one file.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch.nn.functional import embedding_bag

from infodcl_dist.base.array_file import ArrayFile, create_mapped, open_array
from infodcl_dist.base.console import log, progress_bar
from infodcl_dist.base.files import writing
from infodcl_dist.data.rows import CompressedRows, row_blocks
from infodcl_dist.graph.bipartite import Bipartite, Rows, tensor_rows
from infodcl_dist.graph.similarity import Sets, build_sets, nearest_blocks, similarity_blocks
from infodcl_dist.parallel.collectives import barrier, side_group
from infodcl_dist.parallel.folders import on_rank_zero
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import Span, row_span
from infodcl_dist.recipe.metadata_config import MetadataConfig

NeighbourBlock = tuple[Span, sparse.csr_matrix]
"""Some rows, and the weights [block, R] of their neighbours."""
BLOCK_PAIRS = 1 << 22  # of a given graph, some 35 MB as a matrix; assumption
# Ranks have as many rows each, not as many pairs, and speak only when all are made. One that died is noticed at once.
MAKING_S = 24 * 3600.0
ROWS_AT_ONCE = 1 << 16  # of a channel, some 100 MB of width 64 with what they are made from; assumption


def build_knowledge(graph: Bipartite, items: np.ndarray, config: MetadataConfig, out: Path, group: Group) -> None:
    """Knowledge channel [N, F]: mean embedding of the items most similar by shared users; the own one if none."""
    sets = _sets_without_hubs(graph.users_of_item, graph.items_of_user, config, "users")
    _build_from_items(sets, items, config, out, group)


def build_from_item_graph(
    graph: tuple[CompressedRows, CompressedRows], items: np.ndarray, config: MetadataConfig, out: Path, group: Group
) -> None:
    """An item graph's channel [N, F]: mean embedding of the items most similar by shared attributes; or the own one.

    Args:
        graph: attributes of items and items of attributes.
        items: E° [N, F].
        config: how many neighbours, by which similarity, and from how many items on an attribute counts no more.
        out: the file to write.
        group: this process's place.
    """
    of_items, of_attributes = map(tensor_rows, graph)
    _build_from_items(_sets_without_hubs(of_items, of_attributes, config, "attributes"), items, config, out, group)


def build_social(
    graph: Bipartite,
    users: np.ndarray,
    items: np.ndarray,
    *,
    given: CompressedRows | None,
    config: MetadataConfig,
    out: Path,
    group: Group,
) -> None:
    """Social channel [N, F]: mean over an item's users of s_u, where s_u averages the user and its neighbours' mean.

    Neighbours are the users of `given`'s rows, or where that is None users with similar items, weighed by similarity.
    A user without a neighbour stands for itself; an item without a training user keeps its own embedding.
    """
    waits = side_group(MAKING_S)
    own = row_span(graph.users, group.rank, group.world_size)
    blocks = _similar_users(graph, own, config) if given is None else _given_blocks(given, own)
    # A file as well, since every rank reads all of it in the second pass.
    made_users = _shared_array(out.with_name("social_users.npy"), users.shape)
    for span, weights in _with_progress(blocks, own, "social channel"):
        total = np.asarray(weights.sum(axis=1))
        mine = users[span.start : span.stop]
        mean = _weighted_sums(weights, users) / np.where(total > 0, total, 1.0)
        made_users.write(span.start, np.where(total > 0, (mine + mean) / 2, mine))
    barrier(waits)
    # Mapped now that it is whole: of what is opened anew no host shows old pages. ("c", for torch may write.)
    social_users = np.load(made_users.path, mmap_mode="c")
    own = row_span(graph.items, group.rank, group.world_size)
    target = _shared_array(out, items.shape)
    bags = graph.users_of_item
    offsets = bags.offsets[own.start : own.stop + 1]
    means = embedding_bag(
        bags.indices[offsets[0] : offsets[-1]],
        torch.from_numpy(social_users),
        offsets - offsets[0],
        mode="mean",
        include_last_offset=True,
    ).numpy()
    lonely = np.diff(offsets.numpy())[:, None] == 0
    target.write(own.start, np.where(lonely, items[own.start : own.stop], means))
    barrier(waits)
    on_rank_zero(made_users.path.unlink)


def _build_from_items(sets: Sets, items: np.ndarray, config: MetadataConfig, out: Path, group: Group) -> None:
    waits = side_group(MAKING_S)
    own = row_span(len(items), group.rank, group.world_size)
    target = _shared_array(out, items.shape)
    blocks = nearest_blocks(sets, own, config.neighbours, config.similarity)
    for span, nearest in _with_progress(blocks, own, f"{out.stem} channel"):
        nearest.data[:] = 1.0
        count = np.diff(nearest.indptr)[:, None]
        means = _weighted_sums(nearest, items) / np.maximum(count, 1)
        target.write(span.start, np.where(count > 0, means, items[span.start : span.stop]))
    barrier(waits)


def _weighted_sums(weights: sparse.csr_matrix, rows: np.ndarray) -> np.ndarray:
    """Weights [block, R] times float32 rows [R, F].

    In float32: of any other weights SciPy would convert all R rows for every block.
    """
    sums: np.ndarray = weights.astype(np.float32, copy=False) @ rows
    return sums


def _similar_users(graph: Bipartite, own: Span, config: MetadataConfig) -> Iterator[NeighbourBlock]:
    sets = _sets_without_hubs(graph.items_of_user, graph.users_of_item, config, "items")
    if config.social_neighbours is None:
        return similarity_blocks(sets, own, config.similarity)
    return nearest_blocks(sets, own, config.social_neighbours, config.similarity)


def _given_blocks(rows: CompressedRows, own: Span) -> Iterator[NeighbourBlock]:
    """The rows of a given graph, every neighbour with weight 1; at most `BLOCK_PAIRS` pairs at a time, or one row."""
    for block in row_blocks(rows.offsets[own.start : own.stop + 1], BLOCK_PAIRS):
        span = Span(own.start + block[0], own.start + block[1])
        first, last = rows.offsets[span.start], rows.offsets[span.stop]
        offsets = rows.offsets[span.start : span.stop + 1] - first
        weights = np.ones(last - first, np.float32)
        yield span, sparse.csr_matrix((weights, rows.indices[first:last], offsets), shape=(span.size, len(rows)))


def _sets_without_hubs(rows: Rows, columns: Rows, config: MetadataConfig, kind: str) -> Sets:
    sets = build_sets(rows, columns, config.hub_cap)
    if sets.hubs:
        log.info("metadata: %s %s with more than %s pairs count in no similarity", sets.hubs, kind, config.hub_cap)
    return sets


def _shared_array(path: Path, shape: tuple[int, ...]) -> ArrayFile:
    """A file of float32 rows, of which every rank writes its own. (Not by a map: NFS writes whole pages of one back.)

    Raises:
        UserError: there is no room for it, on every rank.
    """

    def make() -> None:
        with writing(path):
            create_mapped(path, shape).flush()

    on_rank_zero(make)
    return open_array(path)


def _with_progress(blocks: Iterator[NeighbourBlock], own: Span, description: str) -> Iterator[NeighbourBlock]:
    """The blocks in parts of at most `ROWS_AT_ONCE` rows: a block of rows with few neighbours has many."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=own.size)
        for span, similarity in blocks:
            for start in range(span.start, span.stop, ROWS_AT_ONCE):
                part = Span(start, min(start + ROWS_AT_ONCE, span.stop))
                yield part, similarity[part.start - span.start : part.stop - span.start]
                bar.advance(task, part.size)
