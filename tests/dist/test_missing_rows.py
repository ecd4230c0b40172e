"""The row that a channel learns for items without one. Its values and gradients stand in test_steps.py, "with gaps"."""

import math
from typing import Any

import pytest
import torch
from reference.weights import scatter_weights
from test_steps import BATCH, CASES, ITEMS, METADATA, SEED, USERS, batches, examples, metadata, run_config

from infodcl_dist.parallel.dense import DenseConfig, whole_moments, whole_weights
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.tables import Tables
from infodcl_dist.recipe.model import build_step, build_trained_channels

GAPS = CASES["infodcl with gaps"]
NAME = "image.missing_row"


def train(group: Group, stage: int) -> dict[str, Any]:
    config = run_config(GAPS)
    tables = Tables(users=USERS, items=ITEMS, dim=config.model.dim, config=config.tables, seed=SEED, group=group)
    channels = build_trained_channels(config, metadata(GAPS))
    assert channels is not None
    scatter_weights(channels, seed=4)
    made = batches(GAPS, group.rank, group.world_size)
    step = build_step(
        config.model_copy(update={"dense": DenseConfig(zero_stage=stage, whole_below=0)}),
        tables=tables,
        channels=channels,
        graph=None,  # type: ignore
        batch_per_rank=made.per_rank,
        group=group,
    )
    before = {name: value.clone() for name, value in whole_weights(step.engine.module).items()}
    terms = [next(step.run([batch]))["loss"].item() for batch in made.epoch(1)]
    return {
        "terms": terms,
        "before": before,
        "after": whole_weights(step.engine.module),
        "moments": whole_moments(step.engine)[NAME],
    }


def test_a_channel_without_gaps_starts_and_is_saved_as_ever():
    plain, gappy = (build_trained_channels(run_config(case), metadata(case)) for case in (CASES["infodcl"], GAPS))
    before, after = dict(plain.named_parameters()), dict(gappy.named_parameters())
    assert set(after) - set(before) == {NAME}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(after[NAME], torch.zeros(METADATA["image"]))
    without = run_config(GAPS).model_copy(update={"ablation": ("psnet",)})
    assert NAME not in dict(build_trained_channels(without, metadata(GAPS)).named_parameters())


@pytest.mark.parametrize("world_size", [1, 2])
def test_it_moves_with_every_stage_and_nothing_is_nan(ranks, world_size):
    lacking = [int(item) in GAPS.gaps for item in examples(GAPS, 0).positives]
    assert 1 < sum(lacking) < BATCH, "rows of both kinds"
    (plain,) = ranks(1, train, 0)
    for stage in (0, 3):
        for result in ranks(world_size, train, stage):
            assert all(
                torch.isfinite(value).all() for value in [*result["after"].values(), *result["moments"].values()]
            )
            assert (result["after"][NAME] != result["before"][NAME]).all()
            # Sums of gradients in another order, divided by Adam; see CHANNELS in test_steps.py.
            torch.testing.assert_close(result["after"][NAME], plain["after"][NAME], rtol=0, atol=1e-4)
    assert not any(math.isnan(value) for value in plain["terms"])
