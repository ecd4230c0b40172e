"""Whole runs whose channels ZeRO has spread: stopped at one stage and gone on with at another, and evaluated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_warm_start import make

from infodcl_dist.base.config import load_config
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.run import open_run, train_run
from infodcl_dist.train.objective import TERMS

EPOCHS = 4
# Two ranks sum in another order than one. Measured 1e-7.
TOLERANCE = 1e-5


def train(group: Group, dataset: Path, folder: Path, **keys: Any) -> dict[str, Any]:
    overrides = [
        f"data.path={dataset}",
        f"run.path={folder}",
        "model.dim=8",
        "metadata.dim=8",
        "metadata.epochs=2",
        f"train.epochs={EPOCHS}",
        "train.evaluate_every=2",
        "train.global_batch_size=64",
    ]
    config = load_config(RunConfig, None, overrides + [f"{key}={value}" for key, value in keys.items()])
    return train_run(config, group)


def start(group: Group, dataset: Path, folder: Path, stage: int, precision: str) -> dict[str, Any]:
    keys = {"train.epochs": EPOCHS // 2, "dense.zero_stage": stage, "dense.precision": precision}
    return train(group, dataset, folder, **keys, **{"dense.whole_below": 0})


def go_on(group: Group, dataset: Path, folder: Path, stage: int, precision: str) -> dict[str, Any]:
    keys = {"dense.zero_stage": stage, "dense.precision": precision, "dense.whole_below": 0}
    return train(group, dataset, folder, **keys)


def evaluate(group: Group, folder: Path) -> dict[str, float]:
    return open_run(folder, group)("test")


def curve(folder: Path) -> np.ndarray:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, EPOCHS + 1))
    # Users' contrastive term is off here: its zeros would tell nothing, and cannot be divided by.
    assert {record["loss/user_contrastive"] for record in records} == {0.0}
    names = ["loss", *(f"loss/{term}" for term in TERMS if term != "user_contrastive")]
    assert len(names) == 6
    return np.array([[record[name] for name in names] for record in records])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("zero") / "data", [*range(40)], [*range(25)])


@pytest.mark.parametrize(("first", "second"), [((2, 2), (0, 1)), ((0, 1), (2, 2)), ((3, 2), (1, 2)), ((1, 2), (3, 2))])
def test_a_stopped_run_goes_on_at_another_stage(ranks, dataset, tmp_path, first, second):
    ranks(1, train, dataset, tmp_path / "never-stopped")
    ranks(first[1], start, dataset, tmp_path / "run", first[0], "fp32")
    results = ranks(second[1], go_on, dataset, tmp_path / "run", second[0], "fp32")
    assert "going on from" in (tmp_path / "run" / "log.txt").read_text()
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(tmp_path / "never-stopped"), rtol=TOLERANCE)
    assert curve(tmp_path / "run")[0, 0] > curve(tmp_path / "run")[-1, 0]
    # The best model opens without channels, at any world size.
    for world_size in (1, 2):
        for found in ranks(world_size, evaluate, tmp_path / "run"):
            assert found == pytest.approx(results[0]["test"], abs=1e-12), "sums of float64, in another order"


def test_a_bf16_run_follows_fp32_and_goes_on_bit_for_bit(ranks, dataset, tmp_path):
    ranks(1, train, dataset, tmp_path / "fp32")
    ranks(2, go_on, dataset, tmp_path / "never-stopped", 0, "bf16")
    ranks(2, start, dataset, tmp_path / "run", 0, "bf16")
    ranks(2, go_on, dataset, tmp_path / "run", 0, "bf16")
    np.testing.assert_array_equal(curve(tmp_path / "run"), curve(tmp_path / "never-stopped"))
    found, expected = curve(tmp_path / "run"), curve(tmp_path / "fp32")
    # 8 bits of a factor: test_zero.py.
    np.testing.assert_allclose(found, expected, rtol=1e-2)
    assert np.abs(found / expected - 1).max() > TOLERANCE
