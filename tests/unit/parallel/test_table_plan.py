"""What TorchRec's planner is told of the hardware."""

import pytest
import torch
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

from infodcl_dist.parallel import table_plan
from infodcl_dist.parallel.group import Group


def test_the_planner_is_offered_what_the_host_may_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_plan, "memory_bytes", lambda: 2400)
    offered = table_plan._topology(3, Group(0, 4, 2, torch.device("cpu"), None))
    assert {device.storage.ddr for device in offered.devices} == {2400 // 2 // 3}
    assert len(offered.devices) == 4


@pytest.mark.parametrize("sharding", ["row_wise", "column_wise", "table_wise"])
def test_shards_lie_where_their_ranks_are_on_hosts_of_unequal_size(sharding: table_plan.Sharding) -> None:
    """Three ranks on one host and two on another; each plans by its own host's number."""
    devices = [f"cuda:{number}" for number in (0, 1, 2, 0, 1)]
    tables = table_plan._collection({"user": 50, "item": 20}, {"user": ["u"], "item": ["i"]}, 40)
    visited = 0
    for local_world_size in (3, 2):
        group = Group(0, 5, local_world_size, torch.device("cuda", 0), None)
        plan = table_plan._named(tables, EmbeddingBagCollectionSharder(), "dense", sharding, group)
        table_plan._place(plan, devices)
        for placed in plan.plan["tables"].values():
            for part in placed.sharding_spec.shards:
                assert str(part.placement.device()) == devices[part.placement.rank()]
                visited += 1
    assert visited == (4 if sharding == "table_wise" else 20)
