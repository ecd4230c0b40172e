"""The same steps and the same metrics on a CUDA device as on the CPU. Run by launch/test_gpu.sh.

Written without a GPU at hand: until a run of that script is noted in docs/lab-notes.md, the tolerances are assumptions.
Where there is none, each test is rehearsed on the CPU, so that it still fits the code when a GPU comes.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Ranks
from reference.weights import relative_error
from test_evaluation import CUTOFFS, LAYERS, graph
from test_evaluation import tables as rows_to_rank
from test_fused_run import dataset
from test_fused_run import train as train_fused
from test_pipeline import case, train
from test_steps import build as build_case
from test_steps import weights_of
from test_zero import batches_of, build, state_of

from infodcl_dist.graph.mean_of_layers import by_dimension
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.evaluation import EvaluationConfig, evaluate
from infodcl_dist.parallel.dense import DenseConfig
from infodcl_dist.parallel.group import Group, process_group
from infodcl_dist.recipe.run import open_run

rehearsal = pytest.param(
    "rehearsal", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
)
on_cuda = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
)

# Both sides are float32, with products in another order (PyTorch keeps TF32 off): ten times what the CPU is held to
# against float64 in test_steps.py. Assumption.
TERMS, TABLES, CHANNELS = 2e-5, 2e-5, 1e-3


OnDevice = Callable[..., Any]


@pytest.fixture(params=[rehearsal, on_cuda])
def on_device(request: pytest.FixtureRequest, ranks: Ranks) -> OnDevice:
    """`function(group, *arguments)` alone in its group, on the first CUDA device, or on the CPU when it rehearses.

    On the device in a fresh process, since the harness's pools have hidden it from DeepSpeed.
    """
    if request.param == "rehearsal":
        return lambda function, *arguments: ranks(1, function, *arguments)[0]

    def on_cuda(function: Callable[..., Any], *arguments: Any) -> Any:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(_in_group, function, *arguments).result(timeout=240)

    return on_cuda


def _in_group(function: Callable[..., Any], *arguments: Any) -> Any:
    with process_group(timeout_s=120) as group:
        assert group.device.type == "cuda"
        return function(group, *arguments)


def one_step(group: Group, dense: DenseConfig) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Terms of the first batch, and the state after it, on the CPU."""
    step = build(group, dense)
    terms = next(step.run([batches_of(group).batch(1, 0)]))
    state = {name: value.cpu() for name, value in state_of(step).items()}
    return {name: float(value) for name, value in terms.items()}, state


@pytest.mark.parametrize("stage", [0, 2])
def test_a_step_equals_the_cpu(on_device, ranks, stage):
    terms, state = on_device(one_step, DenseConfig(zero_stage=stage))
    ((expected_terms, expected),) = ranks(1, one_step, DenseConfig())
    assert terms == pytest.approx(expected_terms, rel=TERMS)
    assert set(state) == set(expected)
    for name, value in expected.items():
        tolerance = TABLES if name in ("user", "item") else CHANNELS
        assert relative_error(state[name], value) < tolerance, name


def two_epochs(group: Group, tables: dict[str, Any], is_pipelined: bool) -> dict[str, torch.Tensor]:
    """The tables after two epochs of matrix factorization, on the CPU."""
    weights = train(group, "mf", tables, is_pipelined)["weights"]
    return {name: value.cpu() for name, value in weights.items()}


@pytest.mark.parametrize("kernel", ["dense", "fused", "fused_uvm_caching"])
def test_pipelined_epochs_of_every_kernel_equal_the_cpu(on_device, ranks, kernel):
    if kernel == "fused_uvm_caching" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_cpu = {"kernel": "dense" if kernel == "dense" else "fused", "optimizer": "adagrad"}
    (expected,) = ranks(1, two_epochs, on_cpu, True)
    for is_pipelined in (False, True):
        found = on_device(two_epochs, on_cpu | {"kernel": kernel}, is_pipelined)
        for name, value in expected.items():
            assert relative_error(found[name], value) < TABLES, (name, is_pipelined)


def first_update(group: Group, tables: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the first batch changes in the tables of matrix factorization, on the CPU."""
    step, made = build_case(group, case("mf", tables))
    before = weights_of(step)
    next(step.run([made.batch(1, 0)]))
    return {name: (value - before[name]).cpu() for name, value in weights_of(step).items()}


def test_a_first_step_of_fused_adam_equals_the_cpus_dense_one(on_device, ranks):
    """Lazy Adam is Adam for rows that the batch looks up, in their first step; no other row has a gradient in it."""
    found = on_device(first_update, {"kernel": "fused"} if torch.cuda.is_available() else {})
    (expected,) = ranks(1, first_update, {})
    for name, value in expected.items():
        assert 0 < (value != 0).any(dim=1).sum() < len(value), "some rows, not all"
        assert relative_error(found[name], value) < CHANNELS, name  # Adam's quotient, as of the channels


def opened(group: Group, run: Path) -> tuple[dict[str, float], str]:
    evaluator = open_run(run, group)
    return evaluator("test"), str(evaluator.tables)


def test_a_run_whose_rows_lie_in_the_hosts_memory_is_opened_with_them_there(on_device, tmp_path):
    kernel = "fused_uvm_caching" if torch.cuda.is_available() else "fused"
    keys = [f"data.path={dataset(tmp_path)}", f"run.path={tmp_path / 'run'}", "train.epochs=2"]
    result = on_device(train_fused, [*keys, f"tables.kernel={kernel}"])
    found, tables = on_device(opened, tmp_path / "run")
    assert found == pytest.approx(result["test"], rel=1e-12)
    assert f"(row_wise, {'dense' if kernel == 'fused' else kernel})" in tables


def metrics(group: Group) -> dict[str, float]:
    users, items = (rows.to(group.device) for rows in rows_to_rank(8, ties=False))
    train, valid, test = (graph(name).to(group.device) for name in ("train", "valid", "test"))
    embeddings = Embeddings(*by_dimension(train, (users, items), LAYERS), 8)
    masks = [train.items_of_user, valid.items_of_user]
    config = EvaluationConfig(cutoffs=CUTOFFS)
    return evaluate(embeddings, truth=test.items_of_user, masks=masks, train=train, config=config, group=group).means


def test_evaluation_equals_the_cpu(on_device, ranks):
    found = on_device(metrics)
    (expected,) = ranks(1, metrics)
    assert 0 < expected["recall@5"] < 1
    assert found == pytest.approx(expected, abs=1e-12)
