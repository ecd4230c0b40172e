"""Whose folder a run may have, and what `run.overwrite` removes."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from infodcl_dist.base.config import load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.bench.generated import generate
from infodcl_dist.data.dataset import Dataset, open_dataset
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.run_folder import open_run_folder, read_run_config, read_trained_config


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    generate(tmp_path / "data", users=20, items=10, pairs=40)
    return open_dataset(tmp_path / "data", verify=False)


def config(dataset: Dataset, *keys: str) -> RunConfig:
    paths = [f"data.path={dataset.path}", f"run.path={dataset.path.parent / 'run'}"]
    return load_config(RunConfig, None, [*paths, *keys])


def begin(dataset: Dataset, *keys: str) -> Path:
    """A run's folder after the first attempt got as far as a checkpoint."""
    made = config(dataset, *keys)
    open_run_folder(made, dataset)
    (made.run.path / "checkpoints" / "step-7").mkdir(parents=True)
    return made.run.path / "checkpoints" / "step-7"


def test_a_run_that_replaced_another_goes_on_by_its_own_configuration(dataset: Dataset) -> None:
    begin(dataset)
    checkpoint = begin(dataset, "run.overwrite=true", "run.seed=1")
    kept = read_run_config(checkpoint.parents[1])
    assert (kept.run.seed, kept.run.overwrite) == (1, False)
    open_run_folder(kept, dataset)
    assert checkpoint.is_dir()


def test_a_folder_with_a_configuration_of_somebody_else_is_never_overwritten(dataset: Dataset) -> None:
    made = config(dataset, "run.overwrite=true")
    made.run.path.mkdir()
    (made.run.path / "config.yaml").write_text("name: a project of its own\n")
    with pytest.raises(UserError, match="holds something that is no run"):
        open_run_folder(made, dataset)
    assert (made.run.path / "config.yaml").is_file()


@pytest.mark.parametrize("run_id", ["mine", "none"])
def test_torchrun_s_attempts_replace_the_earlier_run_once(
    dataset: Dataset, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first attempt ended before it had the folder."""
    earlier = begin(dataset)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    ours = begin(dataset, "run.overwrite=true", "run.seed=1")
    (ours / "of the first attempt").touch()
    assert list(earlier.parent.iterdir()) == [ours], "the same name: what the earlier run had is gone"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    open_run_folder(config(dataset, "run.overwrite=true", "run.seed=1"), dataset)
    assert (ours / "of the first attempt").is_file()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    open_run_folder(config(dataset, "run.overwrite=true", "run.seed=1"), dataset)
    assert not ours.exists(), "another launch, of the same id or none"


def test_a_removal_that_is_cut_off_is_begun_again(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(dataset)
    remove = shutil.rmtree

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    # The order that is worst: folders last.
    monkeypatch.setattr(Path, "glob", lambda self, _: sorted(map(self.joinpath, os.listdir(self)), key=Path.is_dir))
    with pytest.raises(KeyboardInterrupt):
        begin(dataset, "run.overwrite=true")
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert not begin(dataset, "run.overwrite=true", "run.seed=2").parents[2].joinpath("checkpoints").is_dir()


@pytest.mark.parametrize("name", ["n" * 300, "file/below"])
def test_a_path_that_cannot_be_is_one_line(dataset: Dataset, name: str) -> None:
    (dataset.path.parent / "file").touch()
    made = config(dataset, f"run.path={dataset.path.parent / name}")
    with pytest.raises(UserError, match=r"run\.path: .* cannot be (read|written)"):
        open_run_folder(made, dataset)


def test_a_run_is_opened_with_dense_tables_unless_its_rows_lie_beside_a_gpu(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    keys = ["model.dim=8", "loss.negatives=sampled", "loss.user_contrastive=0.1", "tables.sharding=table_wise"]
    visited = 0
    for kernel in ("fused", "fused_uvm_caching"):
        made = config(dataset, *keys, f"tables.kernel={kernel}", "run.overwrite=true")
        open_run_folder(made, dataset)
        for on_gpu in (True, False):
            monkeypatch.setattr(torch.cuda, "is_available", lambda on_gpu=on_gpu: on_gpu)
            expected = ("dense", "adam")
            if on_gpu and kernel == "fused_uvm_caching":
                expected = (kernel, "sgd")
            opened = read_trained_config(made.run.path)
            assert (opened.tables.kernel, opened.tables.optimizer) == expected
            assert opened.tables.sharding == "row_wise"
            assert opened.samples_per_example == 0, "lookups would want samples"
            visited += 1
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert visited == 4
