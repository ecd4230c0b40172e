"""Figures and their comparison."""

import json
from pathlib import Path

import pytest
import torch

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.spans import SPANS, span
from infodcl_dist.bench.compare import LEAST_BAND, band_of, compare, verdict
from infodcl_dist.bench.figures import Figure
from infodcl_dist.bench.machine import Roofline
from infodcl_dist.bench.step import part_of


def test_a_figure_derives_rates_from_its_median():
    figure = Figure("x", (1.0, 2.0, 9.0), interactions=10, flops=4e9, bytes=2e9)
    found = figure.as_json(Roofline(flops_per_s=8e9, bytes_per_s=2e9))
    assert found["median_s"] == 2.0
    assert found["interactions_per_second"] == 5.0
    assert found["share_of_gemm"] == 0.25
    assert found["share_of_copy"] == 0.5
    assert found["spread"] == pytest.approx((5.5 - 1.5) / 2 / 2)


def test_a_difference_counts_beyond_the_band_of_its_own_noise():
    quiet, noisy = {"spread": 0.0}, {"spread": 0.1}
    assert band_of(quiet, quiet) == LEAST_BAND
    assert band_of(noisy, quiet) == pytest.approx(0.3)
    assert [verdict(ratio, 0.3) for ratio in (1.29, 1.31, 0.78, 0.76)] == ["same", "slower", "same", "faster"]


def test_comparing_tells_what_is_shared_and_which_conditions_differ(tmp_path: Path):
    same = {"bench": "epoch", "device": "cpu", "warm_up": 1}
    for name, seconds, waits, processes in (("a", 1.0, 0.0, 1), ("b", 2.0, 0.1, 2)):
        figures = [
            {"name": "epoch", "median_s": seconds, "spread": 0.0},
            {"name": "waits", "median_s": waits, "spread": 0},
        ]
        machine, data = {"cores": 2, "commit": f"commit-{name}"}, {"name": name}
        own = {"processes": processes, "figures": figures, "machine": machine, "data": data}
        (tmp_path / name).write_text(json.dumps(same | own))
    table, differing = compare(tmp_path / "a", tmp_path / "b")
    assert table.title == "a (commit-a) → b (commit-b)"
    assert list(table.columns[3].cells) == ["2.00", "inf"]
    assert list(table.columns[5].cells) == ["slower", "slower"]
    assert differing == ["data", "processes"], "and another commit is no other machine"
    assert compare(tmp_path / "a", tmp_path / "a")[1] == []
    (tmp_path / "c").write_text('{"figures": []}')
    with pytest.raises(UserError, match="no figure in common"):
        compare(tmp_path / "a", tmp_path / "c")
    for text in ("[]", '{"figures": [1]}', '{"figures": [{"name": "epoch", "median_s": 1.0}]}'):
        (tmp_path / "d").write_text(text)
        with pytest.raises(UserError, match="no result of"):
            compare(tmp_path / "d", tmp_path / "a")


def test_spans_are_seen_by_a_profiler_and_cost_nothing_without():
    assert not isinstance(span("data"), torch.profiler.record_function)
    with torch.profiler.profile() as profiler, span("data"):
        torch.ones(2).sum()
    assert [part_of(event.name) for event in profiler.events()].count("data") == 1
    with pytest.raises(ValueError, match="none of"):
        span("lunch")
    assert len(SPANS) == len(set(SPANS)) == 12
