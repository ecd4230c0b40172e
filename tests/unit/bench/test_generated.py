"""Generated data sets, and a bench on one as a user types it."""

import json

import numpy as np
import pytest
import torch

from infodcl_dist.bench import machine, suite
from infodcl_dist.bench.generated import generate
from infodcl_dist.cli.main import infodcl_dist, run
from infodcl_dist.data.dataset import check_pairs, open_dataset


def test_a_generated_data_set_is_whole_and_unequal(tmp_path):
    generate(tmp_path / "made", users=300, items=200, pairs=4000)
    dataset = open_dataset(tmp_path / "made", verify=True)
    check_pairs(dataset)
    assert (dataset.users, dataset.items, sum(dataset.manifest.counts.values())) == (300, 200, 4000)
    degrees = np.sort(dataset.users_of_items().degrees)
    assert degrees[-20:].sum() > 3 * degrees[:20].sum(), "a power law"


@pytest.mark.parametrize("sizes", ["10:10", "a:b:c", "10:10:90", "0:10:1"])
def test_sizes_that_make_no_data_set_are_refused(sizes, capsys):
    assert run(infodcl_dist, ["bench", "sampler", "--sizes", sizes]) == 2
    assert capsys.readouterr().err.startswith("error: --sizes")


def test_a_bench_writes_what_it_measured_with_its_conditions(tmp_path, capsys):
    out = tmp_path / "figures.json"
    status = run(
        infodcl_dist,
        ["bench", "sampler", "--sizes", "300:200:4000", "--repeats", "3", "--json", str(out), "model.dim=8"],
    )
    assert status == 0
    result = json.loads(out.read_text())
    assert [figure["name"] for figure in result["figures"]] == ["batch", "negatives alone"]
    assert all(len(figure["seconds"]) == 3 and figure["median_s"] > 0 for figure in result["figures"])
    assert {"machine", "roofline", "configuration", "warm_up", "peak_rss_bytes"} <= set(result)
    assert "versions" in result["machine"]
    assert "from" in result["configuration"]["init"], "as it is read again"
    assert not {"data", "run"} & result["configuration"].keys()
    assert "negatives alone" in capsys.readouterr().out


@pytest.mark.parametrize(("bench", "precision"), [("softmax", "medium"), ("evaluate", "highest")])
def test_what_training_does_is_measured_at_its_precision_and_the_rest_at_float32(monkeypatch, bench, precision):
    measured, of_roofline, real = [], [], suite.BENCHES[bench]

    def watched(setting):
        measured.append(torch.get_float32_matmul_precision())
        return real(setting)

    def watched_roofline(device):
        of_roofline.append(torch.get_float32_matmul_precision())
        return machine.measure_roofline(device)

    monkeypatch.setitem(suite.BENCHES, bench, watched)
    monkeypatch.setattr(suite, "measure_roofline", watched_roofline)
    keys = ["model.dim=8", "model.name=mf", "train.matmul_precision=medium"]
    assert run(infodcl_dist, ["bench", bench, "--sizes", "300:200:4000", "--repeats", "1", *keys]) == 0
    assert measured == of_roofline == [precision]
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("bench", ["epoch", "step", "propagate", "prepare", "similarity"])
def test_every_other_bench_measures_too(bench, tmp_path):
    out = tmp_path / "figures.json"
    given = ["--sizes", "300:200:4000", "--repeats", "1", "--warm-up", "0", "--max-steps", "2", "--json", str(out)]
    assert run(infodcl_dist, ["bench", bench, *given, "model.name=mf", "model.dim=8"]) == 0
    result = json.loads(out.read_text())
    assert result["bench"] == bench
    assert result["figures"]
    assert all(figure["median_s"] > 0 for figure in result["figures"])
