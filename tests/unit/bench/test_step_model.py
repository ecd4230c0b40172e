"""The cost of a step: sizes that can be counted elsewhere, and how costs go with world size."""

from dataclasses import replace

import pytest

from infodcl_dist.bench.step_model import Rates, StepShape, _channel_weights, predict, step_costs
from infodcl_dist.model.channels import build_channels
from infodcl_dist.model.diffusion import DiffusionConfig
from infodcl_dist.model.psnet import PSNetConfig

OFFICE = StepShape(users=4905, items=2420, pairs=40877, global_batch=2000)
RATES = Rates(flops_per_s=1e11, bytes_per_s=1e10, network_bytes_per_s=1e9, message_s=1e-4, step_s=0.01)


@pytest.mark.parametrize(("dim", "metadata_dim"), [(64, 64), (32, 128)])
def test_weights_of_the_channels_are_those_of_the_module(dim, metadata_dim):
    made = build_channels(
        metadata_dims={"a": metadata_dim, "b": metadata_dim},
        dim=dim,
        timesteps=20,
        psnet=PSNetConfig(),
        diffusion=DiffusionConfig(),
        ablation=(),
        sum_over_ranks=lambda x: x,
    )
    shape = replace(OFFICE, dim=dim, metadata_dims=(metadata_dim, metadata_dim))
    assert _channel_weights(shape) == sum(parameter.numel() for parameter in made.parameters())


def test_the_softmax_is_three_products_whatever_the_world_size():
    one = step_costs(OFFICE)["contrastive"]
    assert one.flops == 3 * 2 * (2 * 2000) * 2420 * 64
    for world_size in (2, 4, 10):
        share = step_costs(replace(OFFICE, world_size=world_size))["contrastive"]
        assert share.flops == pytest.approx(one.flops / world_size, rel=0.01), "views of all, rows of one"


def test_the_smaller_of_items_and_views_travels():
    two = replace(OFFICE, world_size=2)
    sent = {items: step_costs(replace(two, items=items))["contrastive"] for items in (1000, 4000, 4001, 10**6)}
    assert sent[1000].message_bytes == 3 * 0.5 * 1000 * 64 * 4
    assert sent[4000].message_bytes < sent[4001].message_bytes == sent[10**6].message_bytes
    assert sent[4000].messages == 2 < sent[4001].messages


def test_a_rank_answers_the_global_batch():
    """At two processes 6.2 and 4.0 ms for 8,000 × 192 were measured (benchmarks/results/2026-11-25)."""
    of_all = 3 * 8000 * 64 * 4
    for ranks in (2, 4, 8):
        shape = replace(OFFICE, global_batch=8000, world_size=ranks)
        found = step_costs(shape)["tables"]
        assert found.message_bytes == pytest.approx(2 * of_all * (ranks - 1) / ranks)
        by_columns = step_costs(replace(shape, answered_share=1 / ranks))["tables"]
        assert by_columns.message_bytes == pytest.approx(found.message_bytes / ranks)
        assert by_columns.bytes < found.bytes


def test_lightgcn_pays_for_its_layers_both_ways():
    assert "propagation" not in step_costs(OFFICE)
    three = replace(OFFICE, metadata_dims=(), views_per_example=0, training_layers=3)
    one = step_costs(three)["propagation"]
    assert one.flops == 2 * 3 * (2 * 40877) * 64
    assert one.messages == one.message_bytes == 0
    share = step_costs(replace(three, world_size=4))["propagation"]
    assert share.flops == one.flops / 4, "each rank has its columns of all nodes"
    rows = 4905 // 4 + 1 + 2420 // 4 + 3 * 500
    assert share.message_bytes == 2 * rows * 64 * 4 * 3 / 4 + 3 * 3 * 500 * 8
    assert predict(three, RATES).step_s > predict(replace(three, training_layers=0), RATES).step_s


def test_one_process_sends_nothing_and_more_send_more():
    assert all(cost.messages == 0 and cost.message_bytes == 0 for cost in step_costs(OFFICE).values())
    sent = [
        sum(cost.message_bytes for cost in step_costs(replace(OFFICE, world_size=ranks)).values())
        for ranks in (2, 4, 8)
    ]
    assert 0 < sent[0] < sent[1] < sent[2]


def test_a_fused_optimizer_does_not_pay_for_rows_that_are_not_in_the_batch():
    large = replace(OFFICE, users=10**6, items=10**6, views_per_example=0)
    dense, fused = (step_costs(replace(large, is_fused=kind)) for kind in (False, True))
    assert fused["optimizer"].bytes < dense["optimizer"].bytes / 50
    assert fused["tables"].bytes < dense["tables"].bytes


def test_prediction_adds_parts_and_messages():
    alone, many = (predict(replace(OFFICE, world_size=ranks), RATES) for ranks in (1, 8))
    assert alone.communication_share == 0
    assert alone.step_s == pytest.approx(sum(alone.seconds.values()))
    assert alone.epoch_s == pytest.approx(21 * alone.step_s)
    assert 0 < many.communication_share < 1
    assert many.step_s - many.communication_s < alone.step_s
