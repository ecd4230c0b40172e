"""Warm start on real process groups: rows follow the users' own ids, and everything else stays as it was made."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import RanksFailed
from torch import Tensor

from infodcl_dist.base.config import dump_config, load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.data.prepare import prepare
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe import warm_start as subject
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.model import build_tables
from infodcl_dist.recipe.run import check_run, train_run
from infodcl_dist.recipe.run_folder import best_checkpoint
from infodcl_dist.train.checkpoint import load_model

WIDTH = 8
# The new catalogue has other ids before, between and after those that stay, so that every row number moves; and an odd
# number of rows, so that two ranks hold unequal shards.
EARLIER_USERS, USERS = range(0, 24), [*range(-3, 0), *range(5, 24), *range(40, 49)]
EARLIER_ITEMS, ITEMS = range(0, 18), [*range(-2, 0), *range(1, 18, 2), *range(30, 38)]


def make(folder: Path, users: list[int], items: list[int], prefix: str = "") -> Path:
    draw = np.random.default_rng(len(users))
    pairs = [(user, item) for user in users for item in draw.choice(items, 8, replace=False)]
    pairs += [(users[0], item) for item in items if item not in {seen for user, seen in pairs if user == users[0]}]
    source = folder.with_suffix(".csv")
    source.write_text("user,item\n" + "".join(f"{prefix}{user},{item}\n" for user, item in pairs))
    prepare(source, folder)
    return folder


def run_config(dataset: Path, run: Path, **keys: Any) -> RunConfig:
    overrides = [
        f"data.path={dataset}",
        f"run.path={run}",
        "model.name=mf",
        f"model.dim={WIDTH}",
        "train.epochs=1",
        "train.global_batch_size=64",
    ]
    return load_config(RunConfig, None, overrides + [f"{key}={value}" for key, value in keys.items()])


def train(group: Group, config: RunConfig) -> dict[str, Any]:
    return train_run(config, group)


def own_rows(group: Group, config: RunConfig) -> tuple[Tensor, Tensor]:
    """This rank's shards after a warm start, before any step; and the run's own initialization where nothing is set."""
    dataset = open_dataset(config.data.path)
    tables = build_tables(config, dataset, group)
    if config.init.run is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subject, "TILE_ROWS", 7)  # several tiles, the last one short
            subject.warm_start(config, tables, dataset, group)
    return tables.user_rows.detach().clone(), tables.item_rows.detach().clone()


def best_rows(group: Group, config: RunConfig) -> tuple[Tensor, Tensor]:
    tables = build_tables(config, open_dataset(config.data.path), group)
    load_model(best_checkpoint(config.run.path), tables, None)
    return tables.user_rows.detach().clone(), tables.item_rows.detach().clone()


def whole(shards: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [torch.cat([shard[table] for shard in shards]) for table in range(2)]


@pytest.fixture
def earlier(ranks, tmp_path: Path) -> RunConfig:
    config = run_config(make(tmp_path / "earlier-data", [*EARLIER_USERS], [*EARLIER_ITEMS]), tmp_path / "earlier")
    ranks(1, train, config)
    return config


def row_of_id(dataset: Path) -> tuple[dict[Any, int], dict[Any, int]]:
    opened = open_dataset(dataset)
    ids = (opened.user_ids().to_pylist(), opened.item_ids().to_pylist())
    users, items = ({own: row for row, own in enumerate(of_table)} for of_table in ids)
    return users, items


@pytest.mark.parametrize("world_size", [1, 2])
def test_known_ids_get_the_earlier_rows_and_new_ids_their_own(ranks, tmp_path, earlier, world_size):
    data = make(tmp_path / "data", USERS, ITEMS)
    cold, warm = (run_config(data, tmp_path / "run", **keys) for keys in ({}, {"init.from": earlier.run.path}))
    started, fresh = whole(ranks(world_size, own_rows, warm)), whole(ranks(world_size, own_rows, cold))
    best = whole(ranks(1, best_rows, earlier))
    visited = {"reused": 0, "new": 0}
    for table, (theirs, ours) in enumerate(zip(row_of_id(earlier.data.path), row_of_id(data), strict=True)):
        for own, row in ours.items():
            expected = best[table][theirs[own]] if own in theirs else fresh[table][row]
            assert torch.equal(started[table][row], expected), (table, own)
            visited["reused" if own in theirs else "new"] += 1
    assert visited == {"reused": 19 + 9, "new": 12 + 10}
    assert not torch.equal(fresh[0], started[0])


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_starts_warm_once_and_says_how_many_rows(ranks, tmp_path, earlier, world_size):
    data = make(tmp_path / "data", USERS, ITEMS)
    config = run_config(data, tmp_path / "run", **{"init.from": earlier.run.path})
    ranks(world_size, train, config)
    said = (tmp_path / "run" / "log.txt").read_text()
    assert "user rows: 19 reused, 12 new; item rows: 9 reused, 10 new" in said
    cold = run_config(data, tmp_path / "cold")
    ranks(world_size, train, cold)
    curves = [(folder / "metrics.jsonl").read_text() for folder in (tmp_path / "run", tmp_path / "cold")]
    assert json.loads(curves[0])["loss"] != json.loads(curves[1])["loss"]
    # Gone on with, the run needs the earlier one no more.
    (tmp_path / "earlier").rename(tmp_path / "moved")
    ranks(world_size, train, run_config(data, tmp_path / "run", **{"init.from": earlier.run.path, "train.epochs": 2}))
    said = (tmp_path / "run" / "log.txt").read_text()
    assert said.count("warm start from") == 1
    assert "going on from" in said


def test_rows_that_are_spread_by_columns_are_counted_once(ranks, tmp_path, earlier):
    data = make(tmp_path / "data", USERS, ITEMS)
    ranks(
        2,
        train,
        run_config(data, tmp_path / "run", **{"init.from": earlier.run.path, "tables.sharding": "column_wise"}),
    )
    said = (tmp_path / "run" / "log.txt").read_text()
    assert "user rows: 19 reused, 12 new; item rows: 9 reused, 10 new" in said


def test_rows_of_a_run_with_sampled_negatives_are_found(ranks, tmp_path):
    channels = {"model.name": "infodcl", "model.channels": "[knowledge]", "metadata.epochs": 1, "metadata.dim": WIDTH}
    data = make(tmp_path / "earlier-data", [*EARLIER_USERS], [*EARLIER_ITEMS])
    sampled = run_config(data, tmp_path / "earlier", **channels, **{"loss.negatives": "sampled"})
    ranks(1, train, sampled)
    again = run_config(make(tmp_path / "data", USERS, ITEMS), tmp_path / "run", **{"init.from": sampled.run.path})
    started, best = whole(ranks(1, own_rows, again)), whole(ranks(1, best_rows, sampled))
    for table, (theirs, ours) in enumerate(zip(row_of_id(data), row_of_id(again.data.path), strict=True)):
        known = [own for own in ours if own in theirs]
        assert len(known) == (19, 9)[table]
        for own in known:
            assert torch.equal(started[table][ours[own]], best[table][theirs[own]]), (table, own)


def test_the_key_is_from_and_its_value_a_path(tmp_path):
    dated = run_config(tmp_path / "data", tmp_path / "run", **{"init.from": "2026-11-22"})
    assert dated.init.run == Path.cwd() / "2026-11-22"
    (tmp_path / "config.yaml").write_text(dump_config(dated))
    assert "from: " in (tmp_path / "config.yaml").read_text()
    assert load_config(RunConfig, tmp_path / "config.yaml") == dated
    assert load_config(RunConfig, tmp_path / "config.yaml", ["init.from=null"]).init.run is None
    with pytest.raises(UserError, match=r"init.run: unknown key; did you mean init.from"):
        run_config(tmp_path / "data", tmp_path / "run", **{"init.run": "x"})


def test_what_does_not_fit_is_refused_in_one_line(ranks, tmp_path, earlier):
    data = make(tmp_path / "data", USERS, ITEMS)
    strings = make(tmp_path / "strings", USERS, ITEMS, prefix="u")
    (tmp_path / "empty").mkdir()
    for dataset, keys, expected in (
        (data, {"init.from": tmp_path / "empty"}, "is no run folder"),
        (data, {"init.from": earlier.run.path, "model.dim": 16}, "has model.dim=8, this run 16"),
        (strings, {"init.from": earlier.run.path}, "user ids are integers in .* and strings in "),
    ):
        with pytest.raises(UserError, match=f"^init.from: .*{expected}") as refused:
            check_run(run_config(dataset, tmp_path / "run", **keys))
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"init.from and run.path are one folder"):
        run_config(data, earlier.run.path, **{"init.from": earlier.run.path})
    # The same folder, prepared anew from other users: rows would go to strangers.
    make(tmp_path / "other", USERS, ITEMS).rename(tmp_path / "other-moved")
    earlier.data.path.rename(tmp_path / "old")
    (tmp_path / "other-moved").rename(earlier.data.path)
    with pytest.raises(UserError, match=r"^init.from: .* was trained on other contents of "):
        check_run(run_config(data, tmp_path / "run", **{"init.from": earlier.run.path}))
    with pytest.raises(UserError, match=r"^/.*/earlier: was trained on other contents of "):
        check_run(earlier)
    check_run(run_config(earlier.data.path, earlier.run.path, **{"run.overwrite": True}))
    # And on ranks, which check again: all of them say so.
    with pytest.raises(RanksFailed, match=r"init.from: .* was trained on other contents of "):
        ranks(2, own_rows, run_config(data, tmp_path / "run", **{"init.from": earlier.run.path}))
