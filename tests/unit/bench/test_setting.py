"""What a bench takes for a channel's rows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from harness import Ranks

from infodcl_dist.base.config import load_config
from infodcl_dist.bench.generated import generate
from infodcl_dist.bench.setting import Setting, Training
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe.config import RunConfig


def test_made_channels_have_random_rows_and_features_their_own(tmp_path: Path) -> None:
    pairs = [(user, (user + shift) % 6) for user in range(8) for shift in range(5)]
    (tmp_path / "pairs.csv").write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs))
    (tmp_path / "facts.tsv").write_text("0\tmade by\tACME\n")
    np.save(tmp_path / "image.npy", np.arange(12.0).reshape(6, 2))
    options = PrepareOptions(
        item_features={"image": tmp_path / "image.npy"}, item_graph={"facts": tmp_path / "facts.tsv"}
    )
    prepare(tmp_path / "pairs.csv", tmp_path / "data", options)
    keys = [f"data.path={tmp_path / 'data'}", "run.path=none", "model.channels=[knowledge,facts,image]"]
    alone: Any = SimpleNamespace(world_size=1)
    setting = Setting(
        config=load_config(RunConfig, None, [*keys, "metadata.dim=3"]),
        dataset=open_dataset(tmp_path / "data"),
        group=alone,
        repeats=1,
        warm_up=0,
        max_steps=1,
    )
    rows = setting.metadata
    shapes = {name: matrix.shape for name, matrix in rows.items()}
    assert shapes == {"knowledge": (6, 3), "facts": (6, 3), "image": (6, 2)}
    assert (rows["knowledge"].matrix != rows["facts"].matrix).all()
    np.testing.assert_array_equal(rows["image"][np.arange(6)], np.arange(12.0).reshape(6, 2))
    assert setting.shape.metadata_dims == (3, 3, 2)


def steps_taken(group: Group, dataset: Path, max_steps: int) -> list[int]:
    keys = [f"data.path={dataset}", "run.path=none", "model.name=mf", "model.dim=8", "train.global_batch_size=50"]
    setting = Setting(
        config=load_config(RunConfig, None, keys),
        dataset=open_dataset(dataset),
        group=group,
        repeats=1,
        warm_up=0,
        max_steps=max_steps,
    )
    training = Training(setting)
    return [training.batches.steps, training.run(), training.run(2), training.run(5)]


def test_a_training_takes_the_steps_that_an_epoch_has_and_that_are_measured(ranks: Ranks, tmp_path: Path) -> None:
    generate(tmp_path / "data", users=30, items=20, pairs=240)
    for max_steps, expected in ((100, [4, 4, 2, 4]), (3, [4, 3, 2, 3])):
        assert ranks(1, steps_taken, tmp_path / "data", max_steps) == [expected]


def losses_of_a_feature_with_gaps(group: Group, dataset: Path) -> tuple[list[bool], float]:
    """Whether a step's loss is finite, and the mean of the rows that it is trained on."""
    keys = [f"data.path={dataset}", "run.path=none", "model.channels=[image]", "model.dim=4"]
    setting = Setting(
        config=load_config(RunConfig, None, [*keys, "train.global_batch_size=20", "model.standardize=column"]),
        dataset=open_dataset(dataset),
        group=group,
        repeats=1,
        warm_up=0,
        max_steps=2,
    )
    training = Training(setting)
    finite = [bool(losses["loss"].isfinite()) for losses in training.step.run(training.batches.epoch(1))]
    return finite, float(np.nanmean(setting.metadata["image"][np.arange(6)]))


def test_items_without_a_row_are_trained_on_as_a_run_does(ranks: Ranks, tmp_path: Path) -> None:
    pairs = [(user, (user + shift) % 6) for user in range(8) for shift in range(5)]
    (tmp_path / "pairs.csv").write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs))
    image = np.arange(12.0).reshape(6, 2)
    image[4] = np.nan
    np.save(tmp_path / "image.npy", image)
    prepare(tmp_path / "pairs.csv", tmp_path / "data", PrepareOptions(item_features={"image": tmp_path / "image.npy"}))
    ((finite, mean),) = ranks(1, losses_of_a_feature_with_gaps, tmp_path / "data")
    assert len(finite) >= 1
    assert all(finite)
    assert abs(mean) < 1e-6
