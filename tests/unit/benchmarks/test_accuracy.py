"""The accuracy table's runs: which there are, and what is kept of one."""

import json
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import accuracy

from infodcl_dist.base.config import dump_config, load_config
from infodcl_dist.bench.generated import generate
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.report.runs import read_run

TABLE = yaml.safe_load((accuracy.HERE / "accuracy.yaml").read_text())


def test_every_row_of_the_table_is_a_configuration(tmp_path: Path) -> None:
    found = accuracy.jobs(TABLE, tmp_path / "data", tmp_path / "runs", [3], [])
    assert {job.run.relative_to(tmp_path / "runs").parts[0] for job in found} == set(TABLE["datasets"])
    for job in found:
        config = load_config(RunConfig, job.config, job.keys)
        assert (config.run.seed, config.run.path) == (3, job.run)
        assert config.data.path == tmp_path / "data" / job.run.relative_to(tmp_path / "runs").parts[0]


def test_a_row_of_some_data_sets_is_trained_on_these_alone(tmp_path: Path) -> None:
    found = accuracy.jobs(TABLE, tmp_path, tmp_path, [0], [])
    assert {job.run.parts[-3] for job in found if job.run.parts[-2] == "infodcl-features"} == {"tiktok"}


def test_figures_of_the_same_configuration_and_data_are_not_made_again(tmp_path: Path) -> None:
    generate(tmp_path / "data" / "office", users=20, items=10, pairs=40)
    (job,) = accuracy.jobs(TABLE, tmp_path / "data", tmp_path / "runs", [3], ["office/mf"])
    place = tmp_path / "kept"
    place.mkdir()
    values = yaml.safe_load(dump_config(load_config(RunConfig, job.config, job.keys)))
    values["data"]["path"], values["run"]["path"] = "data/office", "runs/office/mf/3"
    del values["model"]["diffusion"]["unconditional"]  # as if kept before the key existed
    (place / "config.yaml").write_text(yaml.safe_dump(values))
    checksum = open_dataset(tmp_path / "data" / "office", verify=False).checksum
    (place / "dataset.json").write_text(json.dumps({"name": "office", "checksum": checksum}))
    assert not accuracy.has_figures(job, place), "a configuration without a result"
    (place / "result.json").write_text("{}")
    assert accuracy.has_figures(job, place)
    assert not accuracy.has_figures(job._replace(keys=[*job.keys, "train.learning_rate=0.5"]), place)
    (place / "dataset.json").write_text(json.dumps({"name": "office", "checksum": "of other data"}))
    assert not accuracy.has_figures(job, place)


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--only office/nothing: no such row; there are: baby, .*, office/mf, "):
        accuracy.jobs(TABLE, tmp_path, tmp_path, [0], ["office/nothing"])


def test_what_is_kept_of_a_run_makes_the_same_report_and_names_no_path_of_the_machine(tmp_path: Path) -> None:
    name, runs = Path("office", "mf", "1"), tmp_path / "data" / "trained"
    run, place = runs / name, tmp_path / "kept" / name
    run.mkdir(parents=True)
    keys = [f"data.path={tmp_path}/data/office", f"run.path={run}", "run.seed=1", "run.label=MF", "model.name=mf"]
    (run / "config.yaml").write_text(dump_config(load_config(RunConfig, None, keys)))
    (run / "dataset.json").write_text('{"name": "office", "checksum": "c"}')
    metrics = {"valid": {"recall@20": 0.1}, "test": {"recall@20": 0.2}}
    (run / "result.json").write_text(json.dumps(metrics | {"best_epoch": 2, "versions": {}, "world_size": 1}))
    records = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "valid/recall@20": 0.1}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    accuracy.keep(runs, name, tmp_path / "kept")

    kept, trained = read_run(place), read_run(run)
    assert kept.identity == trained.identity
    assert (kept.result, kept.checksum, kept.seed) == (trained.result, trained.checksum, 1)
    assert kept.records == records[1:]
    assert kept.config["data.path"] == "data/office"
    assert kept.config["run.path"] == "runs/office/mf/1"
    assert all(str(tmp_path) not in path.read_text() for path in place.iterdir())
