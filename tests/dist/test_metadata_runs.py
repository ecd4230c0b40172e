"""Whole runs with features, gaps, graphs and a scale: what is made, what is reused, and what is refused."""

import gc
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infodcl_dist.base.config import load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import Dataset, open_dataset
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.tables import Tables
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.metadata import (
    channel_folder,
    channel_rows,
    check_channels,
    makeable_channels,
    pretraining_folder,
)
from infodcl_dist.recipe.metadata_config import OF_ITEMS, OF_USERS, MetadataConfig
from infodcl_dist.recipe.run import train_run
from infodcl_dist.train.preemption import StopRequest

USERS, ITEMS = 40, 30
KEYS = [
    "model.dim=8",
    "model.standardize=column",
    "train.epochs=2",
    "train.global_batch_size=50",
    "train.evaluate_every=2",
    "metadata.epochs=2",
    "metadata.dim=6",
    "metadata.evaluate_every=2",
    "metadata.social_graph=given",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    items = [(u, i) for u in range(USERS) for i in draw.choice(ITEMS // 2, 8, replace=False) + (u % 2) * (ITEMS // 2)]
    (folder / "pairs.csv").write_text("user,item\n" + "".join(f"u{user},i{item}\n" for user, item in items))
    rows = draw.normal(100.0, 7.0, size=(ITEMS - 5, 3)).astype(np.float16)
    ids = [f"i{item}" for item in draw.permutation(ITEMS)[: len(rows)]]
    table = {"id": ids, "vector": pa.array(list(rows), pa.list_(pa.float16(), 3))}
    pq.write_table(pa.table(table), folder / "text.parquet")
    (folder / "facts.tsv").write_text("".join(f"i{item}\tmod\t{item % 5}\n" for item in range(ITEMS - 3)))
    (folder / "friends.csv").write_text("a,b\n" + "".join(f"u{u},u{(u * 7 + 3) % USERS}\n" for u in range(USERS)))
    options = PrepareOptions(
        item_features={"text": folder / "text.parquet"},
        item_graph={"facts": folder / "facts.tsv"},
        user_graph=folder / "friends.csv",
    )
    prepare(folder / "pairs.csv", folder / "set", options)
    return open_dataset(folder / "set")


def config_of(dataset: Dataset, run: Path | str, *keys: str) -> RunConfig:
    return load_config(RunConfig, None, [*KEYS, f"data.path={dataset.path}", f"run.path={run}", *keys])


def train(group: Group, config: RunConfig) -> dict:
    return train_run(config, group)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def made(dataset: Dataset) -> list[str]:
    return sorted(folder.name.partition("-")[0] for folder in dataset.path.glob("metadata/*/channels/*"))


@pytest.mark.timeout(120)
def test_only_what_is_asked_for_is_made_and_the_numbers_are_those_of_one_rank(ranks, tmp_path, dataset):
    curves = []
    for world_size in (2, 1):
        run = tmp_path / f"run-{world_size}"
        ranks(world_size, train, config_of(dataset, run, "model.channels=[text, facts, social]"))
        curves.append(losses(run))
        said = (run / "log.txt").read_text()
        assert f"channel text: 5 of {ITEMS} items have no row; a learned one stands in for them" in said
        assert made(dataset) == ["facts", "social"]
    assert np.isfinite(curves).all()
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    # Another number of neighbours: the graph's channel anew, pre-training not.
    (pretrained,) = dataset.path.glob("metadata/*/pretrain/result.json")
    written = pretrained.stat().st_mtime_ns
    ranks(1, train, config_of(dataset, tmp_path / "more", "model.channels=[facts]", "metadata.neighbours=3"))
    assert made(dataset) == ["facts", "facts", "social"]
    assert pretrained.stat().st_mtime_ns == written
    (settings,) = [json.loads(file.read_text()) for file in dataset.path.glob("metadata/*/channels/social-*/*.json")]
    assert settings["social_graph"] == "given"
    assert settings["checksum"] == dataset.checksum


def tables_left(group: Group, config: RunConfig) -> list[int]:
    """How many tables there are after pre-training and after a run's end; no memory is looked through by chance."""
    gc.disable()
    with StopRequest(config.train.timeout_s) as stop:
        channel_rows(config, open_dataset(config.data.path), group=group, stop=stop)
    return [sum(isinstance(held, Tables) for held in gc.get_objects())]


def test_pre_training_s_tables_are_gone_before_the_main_run_makes_its_own(ranks, tmp_path, dataset):
    config = config_of(dataset, tmp_path / "run", "model.channels=[social]", "metadata.seed=77")
    assert ranks(1, tables_left, config) == [[0]]


# For each setting another value; `seed` and its like are pre-training's.
OTHER = {
    "neighbours": 3,
    "social_neighbours": 4,
    "social_graph": "interactions",
    "similarity": "cosine",
    "hub_cap": 5,
    "seed": 1,
    "dim": 7,
    "layers": 2,
    "epochs": 3,
    "global_batch_size": 49,
    "learning_rate": 0.1,
    "regularization": 0.1,
    "evaluate_every": 1,
    "patience": 1,
}


def test_a_setting_that_matters_names_another_folder(dataset):
    assert set(OTHER) == set(MetadataConfig.model_fields), "a new setting needs a place in this test"
    of_interactions = ("metadata.social_graph=interactions",)

    def folders(*keys: str) -> dict[str, Path]:
        config = config_of(dataset, "none", *keys)
        found = {name: channel_folder(config, dataset, name) for name in ("knowledge", "social", "facts")}
        return found | {"pretraining": pretraining_folder(config, dataset)}

    base, visited = folders(*of_interactions), 0
    for name, value in OTHER.items():
        keys = (
            ("metadata.social_graph=given",)
            if name == "social_graph"
            else (*of_interactions, f"metadata.{name}={value}")
        )
        changed = {of for of, folder in folders(*keys).items() if folder != base[of]}
        expected = {"knowledge", "facts"} if name in OF_ITEMS else set()
        expected |= {"social"} if name in OF_USERS else set()
        assert changed == (expected or {"knowledge", "social", "facts", "pretraining"}), name
        visited += 1
    assert visited == len(OTHER)
    assert makeable_channels(dataset) == ["knowledge", "social", "facts"]


def test_what_the_dataset_lacks_is_refused_by_key_and_option(dataset, tmp_path):
    check_channels(config_of(dataset, "none", "model.channels=[text, facts, social, knowledge]"), dataset)
    with pytest.raises(UserError) as raised:
        check_channels(config_of(dataset, "none", "model.channels=[text, colour]"), dataset)
    assert str(raised.value) == (
        f"model.channels: {dataset.path} has no item feature or graph 'colour'; there are: knowledge, social, facts, "
        "text; prepare takes --item-features and --item-graph"
    )
    (tmp_path / "pairs.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u in range(5) for i in range(12)))
    prepare(tmp_path / "pairs.csv", tmp_path / "bare")
    bare = open_dataset(tmp_path / "bare")
    with pytest.raises(UserError, match=r"metadata\.social_graph: .* has no user graph to be given; .*--user-graph"):
        check_channels(config_of(bare, "none", "model.channels=[social]"), bare)
    check_channels(config_of(bare, "none", "model.channels=[knowledge]"), bare)
    with pytest.raises(UserError, match=r"model\.standardize"):
        config_of(bare, "none", "model.standardize=rows")
