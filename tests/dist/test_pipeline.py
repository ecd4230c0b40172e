"""TorchRec's pipeline changes when ids travel, and no number."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_steps import CASES, STEPS, build, weights_of

from infodcl_dist.data.batches import Batch
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.tables import Lookup
from infodcl_dist.train.step import Step

FUSED = {"kernel": "fused", "optimizer": "adagrad"}


def case(name: str, tables: dict[str, Any]) -> Any:
    loss = CASES[name].loss
    if tables and name == "infodcl":
        loss = loss | {"negatives": "sampled", "samples_per_example": 3}
    return type(CASES[name])(name, loss, {}, {}, tables=tables)


def one_by_one(step: Step, batches: Iterator[Batch]) -> Iterator[dict[str, torch.Tensor]]:
    """Without the pipeline: a lookup, a backward pass, the optimizers."""
    for given in batches:
        batch = given.to(step.tables.user_rows.device)
        step.optimizer.zero_grad()
        rows = step.tables.lookup(batch.users, batch.positives, batch.negatives, step.objective.samples(batch))
        losses = step.objective.losses(batch, rows)
        if step.engine is None:
            losses["loss"].backward()
        else:
            step.engine.backward(losses["loss"])
        step.optimizer.step()
        if step.engine is not None:
            step.engine.step()
        yield {name: value.detach() for name, value in losses.items()}


def train(group: Group, name: str, tables: dict[str, Any], is_pipelined: bool) -> dict[str, Any]:
    """Losses of two epochs' steps, and the weights after them."""
    step, made = build(group, case(name, tables))
    found = []
    for epoch in (1, 2):
        batches = made.epoch(epoch)
        run = step.run(batches) if is_pipelined else one_by_one(step, batches)
        found += [{term: float(value) for term, value in losses.items()} for losses in run]
    return {"losses": found, "weights": weights_of(step)}


@pytest.mark.parametrize("tables", [{}, FUSED], ids=["dense", "fused"])
@pytest.mark.parametrize("name", ["infodcl", "mf"])
def test_pipelined_steps_equal_plain_ones_bit_for_bit(ranks, name, tables):
    visited = 0
    for world_size in (1, 2, 4):
        plain = ranks(world_size, train, name, tables, False)
        for found, expected in zip(ranks(world_size, train, name, tables, True), plain, strict=True):
            assert len(found["losses"]) == 2 * STEPS
            assert found["losses"] == expected["losses"]
            for weight, value in expected["weights"].items():
                assert torch.equal(found["weights"][weight], value), weight
                visited += 1
    assert visited == (1 + 2 + 4) * (2 if name == "mf" else 2 + 2 * 33)


def order_of_events(group: Group) -> list[str]:
    """When the ids of a batch were sent, and when a batch's update was done."""
    step, made = build(group, CASES["mf"])
    events = []
    tables = step.tables.module.module.tables
    send = tables.input_dist

    def sending(*arguments: Any) -> Any:
        events.append("ids sent")
        return send(*arguments)

    tables.input_dist = sending
    for _ in step.run(made.epoch(1)):
        events.append("updated")
    return events


def test_ids_of_a_batch_travel_before_the_one_before_it_is_done(ranks):
    for events in ranks(2, order_of_events):
        assert events == ["ids sent", "ids sent", "updated", "ids sent", "updated", "updated"]


def with_precision(group: Group, precision: str) -> dict[str, Any]:
    step, made = build(group, CASES["infodcl"])
    step.matmul_precision = precision
    within, between, losses_of = [], [], step.objective.losses

    def watched(batch: Batch, rows: Lookup) -> dict[str, torch.Tensor]:
        within.append(torch.get_float32_matmul_precision())
        return losses_of(batch, rows)

    step.objective.losses = watched
    losses = []
    for found in step.run(made.epoch(1)):
        losses.append(float(found["loss"]))
        between.append(torch.get_float32_matmul_precision())
    return {"losses": losses, "within": within, "between": between}


def test_lower_precision_of_products_holds_in_a_step_alone(ranks):
    exact, rounded = (ranks(1, with_precision, precision)[0] for precision in ("highest", "medium"))
    assert exact["within"] == ["highest"] * STEPS
    assert rounded["within"] == ["medium"] * STEPS
    assert rounded["between"] == ["highest"] * STEPS
    # bfloat16 keeps 8 bits, 0.4 %; a processor without units for it, and a small product, stay with float32.
    assert exact["losses"] == pytest.approx(rounded["losses"], rel=4e-3)
