"""Channels made from embeddings and neighbours, at 1, 2 and 4 ranks, against plain loops over sets."""

import errno
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from graphs import build_bipartite

from infodcl_dist.base.config import load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.rows import CompressedRows, compress, transpose
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe import made_channels
from infodcl_dist.recipe.made_channels import build_from_item_graph, build_knowledge, build_social
from infodcl_dist.recipe.metadata_config import MetadataConfig

USERS, ITEMS, ATTRIBUTES, WIDTH, NEIGHBOURS = 11, 9, 7, 4, 2
TOLERANCE = 1e-6  # float32 rows, of means over a few


def draw(rows: int, columns: int, seed: int) -> np.ndarray:
    """A dense 0/1 matrix whose first and last row are empty."""
    made = np.random.default_rng(seed).random((rows, columns)) < 0.4
    made[[0, -1]] = False
    return made


def friends() -> np.ndarray:
    made = draw(USERS, USERS, 3)
    made = made | made.T
    made[[0, -1]] = made[:, [0, -1]] = False
    np.fill_diagonal(made, False)
    return made


def compressed(dense: np.ndarray) -> CompressedRows:
    return compress(*np.nonzero(dense), len(dense))


def embeddings() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(9)
    return tuple(generator.normal(size=(n, WIDTH)).astype(np.float32) for n in (USERS, ITEMS))


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def from_items(dense: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean over an item's nearest, of equally near the lowest; its own row when it has none."""
    made = rows.astype(np.float64)
    for item, own in enumerate(dense):
        near = [(-jaccard(own, dense[other]), other) for other in range(len(dense)) if other != item]
        nearest = [other for value, other in sorted(near) if value < 0][:NEIGHBOURS]
        if nearest:
            made[item] = rows[nearest].astype(np.float64).mean(axis=0)
    return made


def social(pairs: np.ndarray, weights: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    own, made = users.astype(np.float64), items.astype(np.float64)
    total = weights.sum(axis=1, keepdims=True)
    mixed = np.where(total > 0, (own + weights @ own / np.where(total > 0, total, 1)) / 2, own)
    for item in range(ITEMS):
        if pairs[:, item].any():
            made[item] = mixed[pairs[:, item]].mean(axis=0)
    return made


def build(group: Group, folder: Path, block: int) -> None:
    pairs, facts = draw(USERS, ITEMS, 1), compressed(draw(ITEMS, ATTRIBUTES, 2))
    users, items = embeddings()
    graph = build_bipartite(*np.nonzero(pairs), USERS, ITEMS)
    config = load_config(MetadataConfig, None, [f"neighbours={NEIGHBOURS}"])
    load = np.load

    def unshared(path: Path, mmap_mode: str) -> np.ndarray:
        assert mmap_mode != "r+", "network file systems write whole pages of a map back, with other ranks' rows"
        return load(path, mmap_mode=mmap_mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_channels, "BLOCK_PAIRS", block)
        patch.setattr(np, "load", unshared)
        build_knowledge(graph, items, config, folder / "knowledge.npy", group)
        build_from_item_graph((facts, transpose(facts, ATTRIBUTES)), items, config, folder / "facts.npy", group)
        for name, given in (("social", None), ("given", compressed(friends()))):
            build_social(graph, users, items, given=given, config=config, out=folder / f"{name}.npy", group=group)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("block", [1, 1 << 22])
def test_channels_equal_loops_over_sets(ranks, tmp_path, world_size, block):
    ranks(world_size, build, tmp_path, block)
    pairs, (users, items) = draw(USERS, ITEMS, 1), embeddings()
    similar = np.array([[0 if u == v else jaccard(pairs[u], pairs[v]) for v in range(USERS)] for u in range(USERS)])
    expected = {
        "knowledge": from_items(pairs.T, items),
        "facts": from_items(draw(ITEMS, ATTRIBUTES, 2), items),
        "social": social(pairs, similar, users, items),
        "given": social(pairs, friends().astype(float), users, items),
    }
    assert {file.stem for file in tmp_path.iterdir()} == expected.keys(), "nothing else is left"
    for name, rows in expected.items():
        found = np.load(tmp_path / f"{name}.npy")
        assert np.abs(rows - items).max() > 0.1, "a channel of own rows would hide everything"
        np.testing.assert_allclose(found, rows, atol=TOLERANCE, err_msg=name)
    np.testing.assert_array_equal(np.load(tmp_path / "facts.npy")[[0, -1]], items[[0, -1]])
    assert np.abs(expected["given"] - expected["social"]).max() > 0.1


def peaks_of_many_rows(group: Group, folder: Path) -> tuple[int, int]:
    """Bytes held at most while a channel is made from a graph of items, and from one of users, of `MANY` each."""
    neighbours = compress(np.arange(MANY), np.arange(MANY) ^ 1, MANY)
    rows = np.random.default_rng(0).normal(size=(MANY, WIDE)).astype(np.float32)
    graph = build_bipartite(np.arange(ITEMS), np.arange(ITEMS), MANY, ITEMS)
    config, peaks = load_config(MetadataConfig, None, [f"neighbours={NEIGHBOURS}"]), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_channels, "ROWS_AT_ONCE", 100)
        for make in (
            lambda: build_from_item_graph((neighbours, neighbours), rows, config, folder / "facts.npy", group),
            lambda: build_social(
                graph, rows, rows[:ITEMS], given=neighbours, config=config, out=folder / "social.npy", group=group
            ),
        ):
            tracemalloc.start()
            try:
                make()
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
    return tuple(peaks)


MANY, WIDE = 20_000, 256


def test_a_block_takes_memory_for_its_own_rows_alone(ranks, tmp_path):
    """Not for a copy of all embeddings in float64, 41 MB, nor for all rows of a block at once, 20 MB and more."""
    ((of_items, of_users),) = ranks(1, peaks_of_many_rows, tmp_path)
    assert max(of_items, of_users) < 8e6, (of_items, of_users)


def build_on_a_full_disk(group: Group, folder: Path) -> str:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    facts, config = compressed(draw(ITEMS, ATTRIBUTES, 2)), load_config(MetadataConfig, None, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(UserError) as raised:
            build_from_item_graph(
                (facts, transpose(facts, ATTRIBUTES)), embeddings()[1], config, folder / "facts.npy", group
            )
    return str(raised.value)


def test_every_rank_says_that_the_disk_is_full(ranks, tmp_path):
    for said in ranks(2, build_on_a_full_disk, tmp_path):
        assert said.startswith(f"{tmp_path}/facts.npy: cannot be written (No space left on device)")
