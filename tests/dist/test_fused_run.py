"""A whole run on fused tables: trained, gone on with by another sharding, opened where no fused kernel is needed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import RanksFailed

from infodcl_dist.base.config import load_config
from infodcl_dist.base.machine import Memory
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import row_span
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.metadata import channel_rows
from infodcl_dist.recipe.run import open_run, train_run
from infodcl_dist.train.preemption import StopRequest

USERS, ITEMS = 40, 30
KEYS = [
    "model.channels=[taste]",
    "model.dim=8",
    "train.global_batch_size=50",
    "train.evaluate_every=2",
    "train.learning_rate=0.05",
    "tables.kernel=fused",
    "tables.optimizer=rowwise_adagrad",
    "loss.negatives=sampled",
    "loss.contrastive=0.05",
]


def dataset(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    items = [(u, i) for u in range(USERS) for i in draw.choice(ITEMS // 2, 8, replace=False) + (u % 2) * (ITEMS // 2)]
    (folder / "pairs.csv").write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in items))
    np.save(folder / "taste.npy", draw.normal(size=(ITEMS, 5)).astype(np.float32))
    command = [sys.executable, "-m", "infodcl_dist", "prepare", str(folder / "pairs.csv")]
    command += ["--out", str(folder / "dataset"), "--item-features", f"taste={folder / 'taste.npy'}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder / "dataset"


def train(group: Group, keys: list[str]) -> dict:
    return train_run(load_config(RunConfig, None, [*KEYS, *keys]), group)


def leave_scratch(run: Path) -> None:
    """As an evaluation out of core that was killed."""
    (run / ".propagation-dead").mkdir()
    (run / ".propagation-dead" / "user.npy").write_text("")
    (run / ".propagation-dead.lock").touch()


def open_and_evaluate(group: Group, run: Path) -> tuple[dict[str, float], str]:
    opened = open_run(run, group)
    own = [row_span(count, group.rank, group.world_size) for count in (USERS, ITEMS)]
    assert opened.held == Memory(host=sum(span.size for span in own) * 8 * 4), "weights alone"
    return opened("test"), str(opened.tables)


def test_a_fused_run_learns_goes_on_by_another_sharding_and_is_opened_anywhere(ranks, tmp_path):
    keys = [f"data.path={dataset(tmp_path)}", f"run.path={tmp_path / 'run'}"]
    ranks(2, train, [*keys, "train.epochs=2", "tables.sharding=table_wise"])
    leave_scratch(tmp_path / "run")
    result = ranks(4, train, [*keys, "train.epochs=4", "tables.sharding=row_wise"])[0]
    assert not list((tmp_path / "run").glob(".propagation-*")), "training begins"
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    losses = [record["loss"] for record in records]
    assert losses == sorted(losses, reverse=True), losses
    for world_size in (1, 2):
        leave_scratch(tmp_path / "run")
        opened = ranks(world_size, open_and_evaluate, tmp_path / "run")
        assert not list((tmp_path / "run").glob(".propagation-*")), "a run is opened"
        for metrics, tables in opened:
            # float64 sums over users, in another order
            assert metrics == pytest.approx(result["test"], rel=1e-12)
            assert "(row_wise, dense)" in tables


def make_channels_on_a_gpu(group: Group, keys: list[str]) -> None:
    """As on a rank with a GPU, until it is touched."""
    config = load_config(RunConfig, None, keys)
    with StopRequest(60) as stop:
        on_gpu = replace(group, device=torch.device("cuda"))
        channel_rows(config, open_dataset(config.data.path), group=on_gpu, stop=stop)


def test_what_the_device_cannot_do_is_refused_on_the_ranks_before_anything_is_made(ranks, tmp_path):
    data, run = dataset(tmp_path), tmp_path / "run"
    keys = [f"data.path={data}", f"run.path={run}", "model.channels=[knowledge]"]
    with pytest.raises(RanksFailed, match=r"UserError: tables\.kernel: fused_uvm_caching needs a CUDA device"):
        ranks(2, train, [*keys, "tables.kernel=fused_uvm_caching"])
    with pytest.raises(RanksFailed, match=r"UserError: metadata\.dim: a GPU reads rows in vectors of 4, and 6 is no"):
        ranks(1, make_channels_on_a_gpu, [*keys, "metadata.dim=6"])
    assert not run.exists()
    assert not list((data / "metadata").glob("*/pretrain"))


def test_the_numbers_do_not_depend_on_world_size_or_sharding(ranks, tmp_path):
    data, curves = dataset(tmp_path), []
    for world_size, sharding in ((1, "row_wise"), (2, "table_wise"), (4, "row_wise")):
        run = tmp_path / f"{sharding}-{world_size}"
        keys = [f"data.path={data}", f"run.path={run}", "train.epochs=2", f"tables.sharding={sharding}"]
        ranks(world_size, train, keys)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curves.append([[record[term] for term in ("loss", "loss/bpr", "loss/contrastive")] for record in records])
    # Sums in another order, through 14 steps.
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-5)
