"""What a rank may take, and where."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from infodcl_dist.base.machine import GIB, Memory
from infodcl_dist.graph import propagation_plan
from infodcl_dist.graph.propagation_plan import PropagationConfig, Ranks
from infodcl_dist.inference import propagation, stored_tables
from infodcl_dist.inference.propagation import propagated, ranks_of
from infodcl_dist.inference.stored_tables import propagate_stored
from infodcl_dist.parallel.group import Group

HELD = Memory(host=GIB, gpu=2 * GIB)


@pytest.mark.parametrize(
    ("device", "max_memory_gb", "host_gib", "gpu_gib"),
    [("cpu", None, 20, None), ("cpu", 8.0, 2, None), ("cuda", None, 20, 64), ("cuda", 8.0, 2, 64)],
)
def test_a_limit_is_the_hosts_and_a_gpu_has_its_own(
    device: str, max_memory_gb: float | None, host_gib: int, gpu_gib: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(propagation_plan, "memory_bytes", lambda: 100 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 80 * GIB))
    found = ranks_of(Group(1, 8, 1, 4, torch.device(device)), max_memory_gb, HELD)
    assert found == Ranks(8, host_gib * GIB, 4, None if gpu_gib is None else gpu_gib * GIB, HELD)
    assert found.host_left == (host_gib - 1) * GIB
    assert found.in_memory_left == ((host_gib - 1) if gpu_gib is None else (gpu_gib - 2)) * GIB


def test_a_run_loads_the_results_and_propagate_leaves_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both are stopped where they choose a plan."""
    asked = []

    def note(work: Any, config: Any, ranks: Ranks) -> None:
        asked.append((work.loads_results, ranks.held))
        raise InterruptedError

    for module in (propagation, stored_tables):
        monkeypatch.setattr(module, "plan_of", note)
    tables: Any = SimpleNamespace(dim=8)
    dataset: Any = SimpleNamespace(manifest=SimpleNamespace(users=5, items=3, counts={"train": 9}))
    graph: Any = None
    group, config = Group(0, 1, 0, 1, torch.device("cpu")), PropagationConfig()
    with pytest.raises(InterruptedError):
        propagated(tables, dataset, graph, 2, config=config, group=group, scratch=tmp_path, held=HELD)
    with pytest.raises(InterruptedError):
        propagate_stored(tables, dataset, 2, config=config, group=group, out=tmp_path)
    assert asked == [(True, HELD), (False, Memory())]
