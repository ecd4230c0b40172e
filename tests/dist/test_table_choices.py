"""Every kernel × sharding × optimizer of the tables at 1, 2 and 4 ranks: whole steps against the dense reference."""

from typing import Any

import pytest
import test_steps as steps
import torch
from reference import infodcl as reference
from reference.weights import relative_error
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from infodcl_dist.base.errors import UserError
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.table_plan import column_shards
from infodcl_dist.parallel.tables import Tables, TablesConfig

LEARNING_RATES = (0.01, 0.02, 0.005)  # of the steps
WORLD_SIZES = (1, 2, 4)
SHARDINGS = ("row_wise", "table_wise", "column_wise", "auto")
# On a CPU; `test_table_refusals.py` visits what is not here.
OPTIMIZERS = {"dense": ("adam", "adagrad", "rowwise_adagrad", "sgd"), "fused": ("adagrad", "rowwise_adagrad", "sgd")}
SAMPLED = steps.LOSS | {"negatives": "sampled", "samples_per_example": 2}
# Squares of gradients, whose relative error doubles.
STATES = 2 * steps.GRADIENTS
# An SGD step's difference of float32 weights: 3e-8 of 0.5, over a step of some 1e-3 (measured 3e-5).
SGD_MOVES = 2e-4

Placed = list[tuple[tuple[int, int], Tensor]]  # offsets and values of the parts that a rank holds


def allowed(kernel: str, sharding: str) -> list[str]:
    return [name for name in OPTIMIZERS[kernel] if (name, sharding) != ("rowwise_adagrad", "column_wise")]


def local_parts(tensor: ShardedTensor) -> Placed:
    return [(tuple(s.metadata.shard_offsets), s.tensor.detach().clone()) for s in tensor.local_shards()]


def train(group: Group, case: steps.Case) -> list[dict[str, Any]]:
    """What this rank holds before and after each step, and the step's terms."""
    step, made = steps.build(group, case)
    found = []
    for number, batch in enumerate([None, *made.epoch(1)]):
        if batch is not None:
            step.set_learning_rate(LEARNING_RATES[number - 1])
        terms = {} if batch is None else {name: float(value) for name, value in next(step.run([batch])).items()}
        state = step.tables.sharded_state(step.optimizer)
        found.append(
            {
                "terms": terms,
                "tables": {name: local_parts(weight) for name, weight in step.tables.sharded_weights().items()},
                "state": {f"{name} {kind}": local_parts(x) for name, kept in state.items() for kind, x in kept.items()},
                "channels": steps.weights_of(step),
                "gradients": [p.grad is not None for p in step.tables.parameters() if p.numel() > 0],
                "elements": sum(p.numel() for p in step.tables.parameters()),
                "shardings": set(step.tables.shardings.values()),
            }
        )
    return found


def whole(results: list[dict[str, Any]], what: str, name: str) -> Tensor:
    """A table or its state from the parts of all ranks, which cover it exactly once."""
    parts = [part for result in results for part in result[what][name]]
    shape = [max(offsets[axis] + values.shape[axis] for offsets, values in parts) for axis in (0, 1)]
    assert sum(values.numel() for _, values in parts) == shape[0] * shape[1]
    full = torch.full(shape, torch.nan)
    for (row, column), values in parts:
        full[row : row + values.shape[0], column : column + values.shape[1]] = values
    assert not full.isnan().any()
    return full


def updated_table(name: str, value: Tensor, gradient: Tensor, kept: dict[str, Tensor], rate: float) -> Tensor:
    """Duchi et al., 2011, on each element, or on the mean square of a row; or plain SGD."""
    if name == "sgd":
        return value - rate * gradient
    square = gradient**2 if name == "adagrad" else (gradient**2).mean(dim=1, keepdim=True)
    kept["sum"] = kept.get("sum", torch.zeros_like(square)) + square
    return value - rate * gradient / (torch.sqrt(kept["sum"]) + 1e-8)


class Expected:
    """The dense reference, a step at a time: Adam for the channels, any optimizer for the tables."""

    def __init__(self, case: steps.Case, first: list[dict[str, Any]]) -> None:
        self.case, self.adam = case, reference.Adam(LEARNING_RATES[0])
        self.weights = {name: value.double() for name, value in first[0]["channels"].items()}
        self.weights |= {name: whole(first, "tables", name).double() for name in ("user", "item")}
        self.kept: dict[str, dict[str, Tensor]] = {"user": {}, "item": {}}

    def step(self, number: int) -> dict[str, float]:
        case, before = self.case, self.weights
        batch = steps.examples(case, number)
        self.adam.learning_rate = rate = LEARNING_RATES[number]
        self.weights, terms, gradients = reference.training_step(
            before, self.adam, batch, steps.choices(case), steps.adjacency(case)
        )
        for table, kept in self.kept.items():
            if (name := case.tables["optimizer"]) == "adam":
                kept |= {"exp_avg": self.adam.first[table], "exp_avg_sq": self.adam.second[table]}
            else:
                self.weights[table] = updated_table(name, before[table], gradients[table], kept, rate)
        return terms


def assert_equals_reference(case: steps.Case, per_rank: list[list[dict[str, Any]]]) -> None:
    at = [[result[number] for result in per_rank] for number in range(steps.STEPS + 1)]
    expected = Expected(case, at[0])
    for number in range(steps.STEPS):
        before = {name: expected.weights[name] for name in ("user", "item")}
        for term, value in expected.step(number).items():
            mean = sum(result["terms"][term] for result in at[number + 1]) / len(per_rank)
            assert mean == pytest.approx(value, rel=steps.TERMS), (case, number, term)
        for table, kept in expected.kept.items():
            found = whole(at[number + 1], "tables", table)
            assert relative_error(found, expected.weights[table]) < steps.TABLES, (case, number, table)
            if case.tables["optimizer"] == "sgd":
                moved = expected.weights[table] - before[table]
                assert relative_error(found - whole(at[number], "tables", table), moved) < SGD_MOVES, (case, number)
            for kind, value in kept.items():
                state = whole(at[number + 1], "state", f"{table} {kind}")
                assert relative_error(state, value) < STATES, (case, number, table, kind)
        for name, value in at[number + 1][0]["channels"].items():
            if name not in ("user", "item"):
                assert relative_error(value, expected.weights[name]) < steps.CHANNELS, (case, number, name)


def assert_held_as_asked(kernel: str, sharding: str, results: list[dict[str, Any]]) -> None:
    world_size = len(results)
    everything = (steps.USERS + steps.ITEMS) * steps.WIDTH
    assert sum(result["elements"] for result in results) == everything
    if world_size > 1:
        assert all(result["elements"] < everything for result in results)
    for result in results:
        assert result["gradients"] == [kernel == "dense"] * len(result["gradients"])
        assert result["shardings"] <= ({"row_wise", "table_wise"} if sharding == "auto" else {sharding})
    holding = {"row_wise": world_size, "table_wise": min(2, world_size), "column_wise": min(2, world_size)}
    if sharding in holding:
        assert sum(result["elements"] > 0 for result in results) == holding[sharding]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("kernel", OPTIMIZERS)
def test_steps_equal_the_dense_reference(ranks, kernel, sharding, world_size):
    cases = []
    for optimizer in allowed(kernel, sharding):
        tables = {"kernel": kernel, "sharding": sharding, "optimizer": optimizer}
        cases.append(steps.Case("infodcl", SAMPLED, {}, {}, tables=tables))
    if kernel == "dense":
        tables = {"kernel": kernel, "sharding": sharding, "optimizer": "adam"}
        cases += [steps.Case(name, steps.LOSS, {}, {}, tables=tables) for name in ("infodcl", "lightgcn")]
    for case in cases:
        results = ranks(world_size, train, case)
        assert_held_as_asked(kernel, sharding, [result[-1] for result in results])
        assert_equals_reference(case, results)
    by_column = sharding == "column_wise"
    assert len(cases) == {"dense": 5 if by_column else 6, "fused": 2 if by_column else 3}[kernel]


def test_the_control_another_sample_or_another_rate_is_noticed(ranks):
    tables = {"kernel": "fused", "sharding": "row_wise", "optimizer": "sgd"}
    case = steps.Case("infodcl", SAMPLED, {}, {}, tables=tables)
    results = ranks(2, train, case)
    assert_equals_reference(case, results)
    one_sample_less = steps.Case("infodcl", SAMPLED | {"samples_per_example": 1}, {}, {}, tables=tables)
    with pytest.raises(AssertionError, match="contrastive"):
        assert_equals_reference(one_sample_less, results)
    adagrad = steps.Case("infodcl", SAMPLED, {}, {}, tables=tables | {"optimizer": "adagrad"})
    with pytest.raises(AssertionError, match="user"):
        assert_equals_reference(adagrad, results)


def ask_for_too_much(group: Group) -> str:
    config = TablesConfig(sharding="auto")
    with pytest.raises(UserError) as refused:
        Tables(users=10**9, items=10**9, dim=4096, config=config, seed=0, group=group)
    return str(refused.value)


def test_what_no_plan_can_hold_is_refused_on_every_rank_before_anything_is_allocated(ranks):
    for answer in ranks(2, ask_for_too_much):
        assert answer.startswith("tables.sharding: auto finds no plan (Unable to find a plan for this model because of")
        assert answer.endswith("; use more ranks, or a smaller dim")


def test_columns_are_cut_into_equal_whole_vectors_and_at_most_one_a_rank():
    visited = 0
    for dim in range(8, 257, 8):
        for world_size in range(1, 17):
            count = column_shards(dim, world_size)
            assert count <= world_size
            assert dim % (4 * count) == 0
            assert count >= min(2, world_size)
            visited += 1
    assert visited == 32 * 16
    assert column_shards(7, 4) == 1
