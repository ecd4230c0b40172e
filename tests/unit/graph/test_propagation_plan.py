"""What the plans take, and which one is chosen: arithmetic, without a process."""

from dataclasses import replace

import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.machine import Memory
from infodcl_dist.graph.propagation_plan import (
    GIB,
    PLANS,
    PROCESS_BYTES,
    Estimate,
    PropagationConfig,
    Ranks,
    Workload,
    choose,
    estimates,
    memory_of_rank,
    most_columns,
    slicing,
)

LARGE = Workload(users=10_000_000, items=10_000_000, pairs=200_000_000, width=64, layers=3)
OFFICE = Workload(users=4905, items=2420, pairs=40_877, width=64, layers=2)


def by_plan(work: Workload, ranks: Ranks) -> dict[str, Estimate]:
    found = estimates(work, ranks)
    assert [estimate.plan for estimate in found] == list(PLANS)
    return {estimate.plan: estimate for estimate in found}


def test_the_figures_of_a_small_pass_by_hand() -> None:
    found = by_plan(Workload(users=100, items=60, pairs=500, width=8, layers=2), Ranks(2, 2 * GIB, 2))
    columns, rows, out = (found[plan] for plan in PLANS)
    assert columns.edges == 2 * 500 * 2
    assert columns.edge_bytes == 4 * 4
    assert columns.rank_bytes == PROCESS_BYTES + (2 * 160 + 2 * 100) * 4 * 4 + 2 * 500 * 4 // 2
    assert columns.sent_bytes == (160 + 100) * 4 * 4 // 2
    assert rows.edges == 2 * 500 * 2 // 2
    assert rows.edge_bytes == 8 * 4
    assert rows.sent_bytes == 2 * (50 + 30) * 8 * 4
    assert out.edges == 2 * 500 * 2
    assert out.sent_bytes == 0 < out.disk_bytes
    assert columns.disk_bytes == rows.disk_bytes == 0


def test_more_ranks_hold_less_each_and_sum_less_each() -> None:
    before = None
    for world_size in (1, 2, 4, 8):
        found = by_plan(LARGE, Ranks(world_size, 64 * GIB))
        if before is not None:
            assert found["by_dimension"].rank_bytes < before["by_dimension"].rank_bytes
            assert found["by_row"].rank_bytes < before["by_row"].rank_bytes
            assert found["by_row"].edges == before["by_row"].edges / 2
            assert found["by_dimension"].edges == before["by_dimension"].edges
        before = found


def test_bfloat16_rows_halve_what_is_gathered_and_what_travels() -> None:
    ranks = Ranks(4, 64 * GIB)
    wide, narrow = (
        by_plan(Workload(1000, 1000, 9000, 64, 3, precision), ranks) for precision in ("float32", "bfloat16")
    )
    for plan in PLANS:
        assert narrow[plan].edge_bytes == wide[plan].edge_bytes / 2
    assert narrow["by_row"].sent_bytes == wide["by_row"].sent_bytes / 2


@pytest.mark.parametrize(
    ("work", "ranks", "plan"),
    [
        (OFFICE, Ranks(1, 8 * GIB), "by_dimension"),
        (OFFICE, Ranks(4, 2 * GIB, 4), "by_dimension"),
        (LARGE, Ranks(1, 14 * GIB), "out_of_core"),
        (LARGE, Ranks(2, 7 * GIB, 2), "out_of_core"),
        (LARGE, Ranks(1, 64 * GIB), "by_dimension"),
        # Edges on every rank do not fit, rows and their edges do.
        (Workload(1_000_000, 1_000_000, 2_000_000_000, 64, 3), Ranks(8, 8 * GIB), "by_row"),
        # All would fit, and summing all edges for one column each takes too long.
        (Workload(1_000_000, 1_000_000, 500_000_000, 64, 3), Ranks(64, 64 * GIB), "by_row"),
    ],
)
def test_the_plan_that_is_chosen(work: Workload, ranks: Ranks, plan: str) -> None:
    assert choose(PropagationConfig(), work, ranks) == plan
    for named in PLANS:
        assert choose(PropagationConfig(plan=named), work, ranks) == named


def test_too_little_memory_names_what_is_enough() -> None:
    with pytest.raises(UserError, match=r"give a host at least (\d+\.\d+) GiB") as caught:
        choose(PropagationConfig(), LARGE, Ranks(2, GIB // 4, 2))
    enough = float(str(caught.value).split("at least ")[1].split()[0])
    ranks = Ranks(2, memory_of_rank(enough, 2), 2)
    assert choose(PropagationConfig(), LARGE, ranks) == "out_of_core"
    with pytest.raises(UserError, match="too little"):
        slicing(LARGE, Ranks(2, GIB // 4, 2))
    # It is not much more than that, either.
    with pytest.raises(UserError, match="too little"):
        choose(PropagationConfig(), LARGE, Ranks(2, memory_of_rank(0.9 * enough, 2), 2))


def test_what_is_held_already_is_part_of_what_is_enough() -> None:
    held = Memory(host=3 * GIB)
    with pytest.raises(UserError, match=r"of which 3\.00 are taken, are too little") as caught:
        choose(PropagationConfig(), LARGE, Ranks(2, 3 * GIB, 2, held=held))
    enough = float(str(caught.value).split("at least ")[1].split()[0])
    assert choose(PropagationConfig(), LARGE, Ranks(2, memory_of_rank(enough, 2), 2, held=held)) == "out_of_core"
    assert slicing(LARGE, Ranks(2, memory_of_rank(enough, 2), 2, held=held)).slices == 64
    with pytest.raises(UserError, match="too little"):
        choose(PropagationConfig(), LARGE, Ranks(2, memory_of_rank(0.9 * enough, 2), 2, held=held))


def test_a_gpu_limits_what_is_summed_on_it_and_the_host_what_is_summed_from_files() -> None:
    roomy = by_plan(LARGE, Ranks(2, GIB // 4, 2, gpu_bytes=64 * GIB))
    assert [roomy[plan].fits for plan in PLANS] == [True, True, False]
    tight = by_plan(LARGE, Ranks(2, 64 * GIB, 2, gpu_bytes=GIB))
    assert [tight[plan].fits for plan in PLANS] == [False, False, True]
    for plan, ranks in (
        ("by_dimension", Ranks(2, GIB // 4, 2, gpu_bytes=64 * GIB)),
        ("out_of_core", Ranks(2, 64 * GIB, 2, gpu_bytes=GIB)),
    ):
        assert choose(PropagationConfig(), LARGE, ranks) == plan


def test_a_pass_out_of_core_leaves_room_for_results_that_are_loaded() -> None:
    loading = replace(LARGE, loads_results=True)
    of_rank = (10_000_000 + 10_000_000) * 64 * 4 // 2
    files = slicing(LARGE, Ranks(2, 2 * GIB, 2))
    assert 2 < files.slices < 64
    assert slicing(loading, Ranks(2, 2 * GIB + of_rank, 2)) == files
    assert slicing(loading, Ranks(2, 2 * GIB + of_rank - GIB // 2, 2)) != files
    before, after = (by_plan(work, Ranks(2, 16 * GIB, 2)) for work in (LARGE, loading))
    assert before["by_dimension"] == after["by_dimension"]
    assert before["by_row"] == after["by_row"]
    with pytest.raises(UserError, match="one column and load the results") as caught:
        choose(PropagationConfig(), loading, Ranks(2, of_rank, 2))
    enough = float(str(caught.value).split("at least ")[1].split()[0])
    assert choose(PropagationConfig(), loading, Ranks(2, memory_of_rank(enough, 2), 2)) == "out_of_core"


def test_what_is_held_counts_on_its_own_side() -> None:
    in_memory = by_plan(LARGE, Ranks(2, 64 * GIB, 2, gpu_bytes=64 * GIB))["by_dimension"].rank_bytes
    for held, fits in (
        (Memory(host=64 * GIB, gpu=64 * GIB - in_memory), [True, False, False]),
        (Memory(host=0, gpu=64 * GIB - in_memory + 1), [False, False, True]),
    ):
        found = by_plan(LARGE, Ranks(2, 64 * GIB, 2, gpu_bytes=64 * GIB, held=held))
        assert [found[plan].fits for plan in PLANS] == fits


def test_every_gpu_has_all_edges_and_a_host_maps_them_once() -> None:
    host, gpu = (by_plan(LARGE, Ranks(4, 64 * GIB, 4, gpu_bytes=size)) for size in (None, 64 * GIB))
    more = {plan: gpu[plan].rank_bytes - host[plan].rank_bytes for plan in PLANS}
    assert more == {"by_dimension": LARGE.index_bytes * 3 // 4, "by_row": LARGE.index_bytes, "out_of_core": 0}


def test_slices_are_as_wide_as_memory_allows_and_one_a_rank() -> None:
    assert slicing(LARGE, Ranks(1, 14 * GIB)).slices == 1
    assert slicing(LARGE, Ranks(4, 14 * GIB)).slices == 4
    visited = 0
    for gib in (2, 3, 4, 6):
        cut = slicing(LARGE, Ranks(1, gib * GIB))
        widest = -(-LARGE.width // cut.slices)
        assert widest <= most_columns(LARGE, gib * GIB, cut.tile_bytes) < 64 or cut.slices == 1
        assert by_plan(LARGE, Ranks(1, gib * GIB))["out_of_core"].rank_bytes <= gib * GIB
        visited += cut.slices > 1
    assert visited == 2


def test_a_limit_is_shared_by_a_hosts_processes() -> None:
    assert memory_of_rank(8.0, 4) == 2 * GIB
    assert 0 < memory_of_rank(None, 2) < memory_of_rank(None, 1)


def test_results_that_are_loaded_must_fit_onto_the_gpu() -> None:
    loading, config = replace(LARGE, loads_results=True), PropagationConfig()
    of_rank = (10_000_000 + 10_000_000) * 64 * 4 // 2
    held = Memory(gpu=GIB)
    enough = Ranks(2, 64 * GIB, 2, gpu_bytes=PROCESS_BYTES + of_rank + GIB, held=held)
    little = replace(enough, gpu_bytes=PROCESS_BYTES + of_rank + GIB - 1)
    assert [by_plan(loading, ranks)["out_of_core"].fits for ranks in (enough, little)] == [True, False]
    assert choose(config, loading, enough) == "out_of_core"
    assert choose(config, LARGE, little) == "out_of_core", "files are left where they are"
    named = PropagationConfig(plan="out_of_core")
    for refused in (lambda: choose(config, loading, little), lambda: slicing(loading, little)):
        with pytest.raises(
            UserError, match=r"the GPU's memory: 2\.97 GiB are left a process, .* 2\.38 GiB of propagated"
        ):
            refused()
    assert choose(named, loading, little) == "out_of_core", "it is refused where it begins"
