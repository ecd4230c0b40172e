"""The channels of a finished run, opened again; and the example of docs/guide.md, run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from infodcl_dist.base.config import load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.bench.generated import generate
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.model import build_trained_channels
from infodcl_dist.recipe.run import open_channels, train_run

ITEMS, DIM = 24, 8
GUIDE = Path(__file__).parents[2] / "docs/guide.md"
KEYS = (
    *(f"model.dim={DIM}", "model.diffusion.unconditional=0.1", "train.epochs=2", "train.evaluate_every=1"),
    *("train.global_batch_size=50", "train.learning_rate=0.01", "metadata.dim=8", "metadata.epochs=1"),
)


def config_of(folder: Path, *keys: str) -> RunConfig:
    return load_config(RunConfig, None, [*KEYS, f"data.path={folder}/data", f"run.path={folder}/run", *keys])


def train(group: Group, config: RunConfig) -> dict:
    return train_run(config, group)


def opened(group: Group, config: RunConfig) -> dict[str, tuple[dict[str, torch.Tensor], np.ndarray]]:
    """Of each channel its weights less those it began with, and its rows."""
    found = open_channels(config.run.path, group)
    begun = build_trained_channels(config, {name: channel.rows for name, channel in found.items()})
    assert begun is not None
    return {
        name: (
            {
                weight: (value - dict(begun[name].named_parameters())[weight]).detach()
                for weight, value in channel.named_parameters()
            },
            rows[np.arange(ITEMS)],
        )
        for name, (channel, rows) in found.items()
    }


def refusal(group: Group, run: Path) -> str:
    with pytest.raises(UserError) as raised:
        open_channels(run, group)
    return str(raised.value)


@pytest.mark.timeout(200)
def test_a_run_s_channels_open_and_generate(ranks, tmp_path):
    generate(tmp_path / "data", users=40, items=ITEMS, pairs=400)
    config = config_of(tmp_path)
    ranks(1, train, config)
    ((found,), of_two) = (ranks(world_size, opened, config) for world_size in (1, 2))
    assert list(found) == ["knowledge", "social"]
    for name, (moved, rows) in found.items():
        assert sum(bool(of_weight.any()) for of_weight in moved.values()) > len(moved) / 2, "they are trained"
        np.testing.assert_array_equal(rows, np.load(next(tmp_path.glob(f"data/metadata/*/channels/*/{name}.npy"))))
        for other in of_two:
            assert all(torch.equal(of_weight, other[name][0][weight]) for weight, of_weight in moved.items())

    (example,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert 'Path("runs/mine")' in example
    checks = "\nassert items.isfinite().all() and items.std() > 0\nprint(*items.shape)\n"
    code = example.replace("runs/mine", str(tmp_path / "run")) + checks
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert said.returncode == 0, said.stderr[-2000:]
    assert said.stdout.split()[-2:] == [str(ITEMS), str(DIM)]

    (rows_file,) = tmp_path.glob("data/metadata/*/channels/*/social.npy")
    rows_file.unlink()
    (gone,) = ranks(1, refusal, tmp_path / "run")
    assert gone.startswith(f"{rows_file}: is gone, so channel social has no rows")
    ranks(1, train, config_of(tmp_path, f"run.path={tmp_path}/mf", "model.name=mf"))
    (without,) = ranks(1, refusal, tmp_path / "mf")
    assert without == f"{tmp_path}/mf: is a run without channels (model.name=mf); give one of infodcl"
