"""What a rank may take, and where."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
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
    gpu_bytes = 80 * GIB if device == "cuda" else None
    found = ranks_of(Group(1, 8, 4, torch.device(device), gpu_bytes), max_memory_gb, HELD)
    assert found == Ranks(8, host_gib * GIB, 4, None if gpu_gib is None else gpu_gib * GIB, HELD)
    assert found.host_left == (host_gib - 1) * GIB
    assert found.in_memory_left == ((host_gib - 1) if gpu_gib is None else (gpu_gib - 2)) * GIB


def asked_of_plans(group: Group, held: list[Memory], folder: Path) -> list[tuple[bool, Memory]]:
    """What a run, holding so much by rank, and `propagate` ask for; both are stopped where they choose a plan."""
    asked = []

    def note(work: Any, config: Any, ranks: Ranks) -> None:
        asked.append((work.loads_results, ranks.held))
        raise InterruptedError

    tables: Any = SimpleNamespace(dim=8)
    dataset: Any = SimpleNamespace(manifest=SimpleNamespace(users=5, items=3, counts={"train": 9}))
    graph: Any = None
    own, config = held[group.rank], PropagationConfig()
    with pytest.MonkeyPatch.context() as patch:
        for module in (propagation, stored_tables):
            patch.setattr(module, "plan_of", note)
        with pytest.raises(InterruptedError):
            propagated(tables, dataset, graph, 2, config=config, group=group, scratch=folder, held=own)
        with pytest.raises(InterruptedError):
            propagate_stored(tables, dataset, 2, config=config, group=group, out=folder)
    return asked


def test_a_run_loads_the_results_and_propagate_leaves_files(ranks: harness.Ranks, tmp_path: Path) -> None:
    assert ranks(1, asked_of_plans, [HELD], tmp_path) == [[(True, HELD), (False, Memory())]]


def test_the_rank_that_holds_most_counts(ranks: harness.Ranks, tmp_path: Path) -> None:
    """A table of one rank alone, say; on either side another one's."""
    found = ranks(2, asked_of_plans, [Memory(gpu=GIB), Memory(host=2 * GIB)], tmp_path)
    assert found == [[(True, Memory(host=2 * GIB, gpu=GIB)), (False, Memory())]] * 2
