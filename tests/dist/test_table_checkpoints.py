"""Tables and their optimizers' state through checkpoints: to another world size and sharding, and on from there."""

from pathlib import Path
from typing import Any

import pytest
import test_steps as steps
import torch
from harness import RanksFailed
from test_table_choices import OPTIMIZERS, SAMPLED, SHARDINGS, allowed, local_parts, whole

from infodcl_dist.parallel.group import Group
from infodcl_dist.train.checkpoint import copy_for_checkpoint, load_checkpoint, load_model, save_model, write_checkpoint
from infodcl_dist.train.state import FitState

SAVED_AFTER = 2  # of 3 steps


def case_of(kernel: str, sharding: str, optimizer: str) -> steps.Case:
    tables = {"kernel": kernel, "sharding": sharding, "optimizer": optimizer}
    return steps.Case("infodcl", SAMPLED, {}, {}, tables=tables)


def held(step: Any) -> dict[str, Any]:
    state = step.tables.sharded_state(step.optimizer)
    return {
        "tables": {name: local_parts(weight) for name, weight in step.tables.sharded_weights().items()},
        "state": {f"{name} {kind}": local_parts(x) for name, kept in state.items() for kind, x in kept.items()},
    }


def train_and_save(group: Group, case: steps.Case, folder: Path) -> list[dict[str, Any]]:
    """What is held when it is saved, and after one step more."""
    step, made = steps.build(group, case)
    found = []
    for number in range(steps.STEPS):
        next(step.run([made.batch(1, number)]))
        if number == SAVED_AFTER - 1:
            write_checkpoint(folder / "step", copy_for_checkpoint(step), FitState(step=2, steps_done=SAVED_AFTER))
            save_model(folder / "model", step.tables, None, epoch=1)
        if number >= SAVED_AFTER - 1:
            found.append(held(step))
    return found


def load_and_train(group: Group, case: steps.Case, folder: Path) -> list[dict[str, Any]]:
    """What is held after loading into fresh tables, and after one step more."""
    step, made = steps.build(group, case)
    assert load_checkpoint(folder / "step", step).steps_done == SAVED_AFTER
    found = [held(step)]
    next(step.run([made.batch(1, SAVED_AFTER)]))
    return [*found, held(step)]


def load_rows(group: Group, case: steps.Case, folder: Path) -> dict[str, Any]:
    """As an opened run does: the model alone, into dense tables by rows."""
    step, _ = steps.build(group, case)
    load_model(folder / "model", step.tables, None)
    return held(step)


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float) -> int:
    visited = 0
    for what in ("tables", "state"):
        assert set(found[0][what]) == set(expected[0][what])
        for name in found[0][what]:
            values = whole(found, what, name), whole(expected, what, name)
            torch.testing.assert_close(*values, rtol=tolerance, atol=tolerance, msg=f"{what} {name}")
            visited += 1
    return visited


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("kernel", OPTIMIZERS)
def test_training_goes_on_at_another_world_size_and_sharding(ranks, kernel, sharding, tmp_path):
    visited = 0
    for optimizer in allowed(kernel, sharding):
        saved = ranks(2, train_and_save, case_of(kernel, sharding, optimizer), tmp_path / optimizer)
        for world_size, target in ((2, sharding), (4, SHARDINGS[SHARDINGS.index(sharding) - 1]), (1, "row_wise")):
            if optimizer not in allowed(kernel, target):
                continue
            loaded = ranks(world_size, load_and_train, case_of(kernel, target, optimizer), tmp_path / optimizer)
            for number in (0, 1):
                # What is loaded is what was saved, bit for bit; the step after it sums in another order elsewhere.
                tolerance = 0.0 if number == 0 or world_size == 2 else 1e-5
                parts = [[rank[number] for rank in results] for results in (loaded, saved)]
                states = {"adam": 4, "adagrad": 2, "rowwise_adagrad": 2, "sgd": 0}[optimizer]
                assert assert_same(*parts, tolerance) == 2 + states
            visited += 1
        opened = ranks(1, load_rows, case_of("dense", "row_wise", "sgd"), tmp_path / optimizer)
        for name in ("user", "item"):
            assert torch.equal(whole(opened, "tables", name), whole([rank[0] for rank in saved], "tables", name))
    # By columns there is no row-wise Adagrad, and from auto (-1: by columns) none can go there.
    assert (
        visited
        == {
            ("dense", "row_wise"): 12,
            ("dense", "table_wise"): 12,
            ("dense", "column_wise"): 9,
            ("dense", "auto"): 11,
            ("fused", "row_wise"): 9,
            ("fused", "table_wise"): 9,
            ("fused", "column_wise"): 6,
            ("fused", "auto"): 8,
        }[kernel, sharding]
    )


@pytest.mark.parametrize(("saved", "loaded"), [("adagrad", "rowwise_adagrad"), ("adagrad", "adam"), ("sgd", "adagrad")])
def test_the_state_of_another_optimizer_is_refused_and_not_lost(ranks, saved, loaded, tmp_path):
    ranks(2, train_and_save, case_of("dense", "row_wise", saved), tmp_path)
    with pytest.raises(
        RanksFailed, match=r"UserError: .*does not fit this configuration \((Missing key|Size mismatch)"
    ):
        ranks(2, load_and_train, case_of("dense", "row_wise", loaded), tmp_path)
