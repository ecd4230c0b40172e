"""The same step and the same metrics on a CUDA device as on the CPU. Run by launch/test_gpu.sh.

Written without a GPU at hand: until a run of that script is noted in docs/lab-notes.md, the tolerances are assumptions.
A process of its own computes on the device, since the harness's pools have hidden it from DeepSpeed.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from reference.weights import relative_error
from test_evaluation import CUTOFFS, LAYERS, graph
from test_evaluation import tables as rows_to_rank
from test_zero import batches_of, build, state_of

from infodcl_dist.inference.embeddings import propagate_tables
from infodcl_dist.inference.evaluation import evaluate
from infodcl_dist.parallel.dense import DenseConfig
from infodcl_dist.parallel.group import Group, process_group

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

# Both sides are float32, with products in another order (PyTorch keeps TF32 off): ten times what the CPU is held to
# against float64 in test_steps.py. Assumption.
TERMS, TABLES, CHANNELS = 2e-5, 2e-5, 1e-3


def on_device(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(group, *arguments)` in a fresh process, alone in its group, on the first CUDA device."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_in_group, function, *arguments).result(timeout=240)


def _in_group(function: Callable[..., Any], *arguments: Any) -> Any:
    with process_group(timeout_s=120) as group:
        assert group.device.type == "cuda"
        return function(group, *arguments)


def one_step(group: Group, dense: DenseConfig) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Terms of the first batch, and the state after it, on the CPU."""
    step = build(group, dense)
    terms = step(batches_of(group).batch(1, 0).to(group.device))
    state = {name: value.cpu() for name, value in state_of(step).items()}
    return {name: float(value) for name, value in terms.items()}, state


@pytest.mark.parametrize("stage", [0, 2])
def test_a_step_equals_the_cpu(ranks, stage):
    terms, state = on_device(one_step, DenseConfig(zero_stage=stage))
    ((expected_terms, expected),) = ranks(1, one_step, DenseConfig())
    assert terms == pytest.approx(expected_terms, rel=TERMS)
    assert set(state) == set(expected)
    for name, value in expected.items():
        tolerance = TABLES if name in ("user", "item") else CHANNELS
        assert relative_error(state[name], value) < tolerance, name


def metrics(group: Group) -> dict[str, float]:
    users, items = (rows.to(group.device) for rows in rows_to_rank(8, ties=False))
    train, valid, test = (graph(name).to(group.device) for name in ("train", "valid", "test"))
    embeddings = propagate_tables(users, items, train, LAYERS)
    masks = [train.items_of_user, valid.items_of_user]
    return evaluate(embeddings, truth=test.items_of_user, masks=masks, cutoffs=CUTOFFS, group=group)


def test_evaluation_equals_the_cpu(ranks):
    found = on_device(metrics)
    (expected,) = ranks(1, metrics)
    assert 0 < expected["recall@5"] < 1
    assert found == pytest.approx(expected, abs=1e-12)
