"""What a bench takes for a channel's rows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from infodcl_dist.base.config import load_config
from infodcl_dist.bench.setting import Setting
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.data.prepare import PrepareOptions, prepare
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
    assert (rows["knowledge"] != rows["facts"]).all()
    np.testing.assert_array_equal(rows["image"], np.arange(12.0).reshape(6, 2))
    assert setting.shape.metadata_dims == (3, 3, 2)
