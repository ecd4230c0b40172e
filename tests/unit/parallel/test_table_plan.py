"""What TorchRec's planner is told of the hardware."""

import pytest
import torch

from infodcl_dist.parallel import table_plan
from infodcl_dist.parallel.group import Group


def test_the_planner_is_offered_what_the_host_may_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_plan, "memory_bytes", lambda: 2400)
    offered = table_plan._topology(3, Group(0, 4, 0, 2, torch.device("cpu")))
    assert {device.storage.ddr for device in offered.devices} == {2400 // 2 // 3}
    assert len(offered.devices) == 4
