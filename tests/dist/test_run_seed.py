"""`run.seed` decides what a run starts from and draws."""

from pathlib import Path

import numpy as np
import torch

from infodcl_dist.base.config import load_config
from infodcl_dist.bench.generated import generate
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.data.item_rows import ItemRows
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.model import build_batches, build_tables, build_trained_channels


def drawn(group: Group, data: Path, seed: int) -> dict[str, torch.Tensor]:
    keys = [f"data.path={data}", "run.path=unused", "model.dim=8", "model.channels=[knowledge]", f"run.seed={seed}"]
    config, dataset = load_config(RunConfig, None, [*keys, "train.global_batch_size=64"]), open_dataset(data)
    metadata = {"knowledge": ItemRows(np.ones((dataset.items, 4), np.float32))}
    tables, channels = build_tables(config, dataset, group), build_trained_channels(config, metadata)
    batch = build_batches(config, dataset, metadata, group).batch(1, 0)
    held = {"user": tables.user_rows, "item": tables.item_rows}
    held |= {name: value for name, value in channels.named_parameters() if value.dim() > 1}
    return {name: rows.detach().clone() for name, rows in held.items()} | {
        "order": batch.positives,
        "negatives": batch.negatives,
    }


def test_another_seed_is_another_run_and_the_same_one_the_same(ranks, tmp_path):
    generate(tmp_path / "data", users=60, items=40, pairs=500)
    first, again, other = (ranks(1, drawn, tmp_path / "data", seed)[0] for seed in (1, 1, 2))
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        assert not torch.equal(value, other[name]), name
    assert len(first) > 6, "channels too"


def test_pre_training_has_a_seed_of_its_own():
    config = load_config(RunConfig, None, ["data.path=a", "run.path=b", "run.seed=3", "metadata.seed=77"])
    assert config.pretraining(Path("c")).run.seed == 77
