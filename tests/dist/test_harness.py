import os
import time

import pytest
import torch
import torch.distributed as dist
from harness import Pool, RanksFailed

from infodcl_dist.parallel.group import Group


def where(group: Group) -> tuple[int, int, str, int]:
    return group.rank, group.world_size, group.device.type, os.getpid()


def summed(group: Group, by_rank: list[float]) -> float:
    total = torch.tensor(by_rank[group.rank])
    dist.all_reduce(total)
    return float(total)


def raises_on(group: Group, rank: int) -> None:
    if group.rank == rank:
        raise ValueError("the fault itself")
    dist.barrier()  # the others wait for it in a collective


def exits_on(group: Group, rank: int) -> None:
    if group.rank == rank:
        os._exit(7)
    dist.barrier()


def hangs_on(group: Group, rank: int) -> None:
    if group.rank == rank:
        time.sleep(600)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_rank_answers_in_order_from_its_own_process(ranks, world_size):
    places = ranks(world_size, where)
    assert [place[:3] for place in places] == [(rank, world_size, "cpu") for rank in range(world_size)]
    assert len({place[3] for place in places} | {os.getpid()}) == world_size + 1
    assert ranks(world_size, where) == places, "a second call is served by the same processes"
    assert ranks(world_size, summed, [1.0, 2.0, 4.0, 8.0]) == [2.0**world_size - 1] * world_size


@pytest.fixture
def pool():
    made = Pool(2)
    yield made
    made.close()


def test_a_failing_rank_ends_all_and_its_traceback_is_shown(pool):
    pids = [place[3] for place in pool.call(where)]
    started = time.monotonic()
    with pytest.raises(RanksFailed, match=r"(?s)rank 1 of 2 failed.*in raises_on.*ValueError: the fault itself"):
        pool.call(raises_on, 1)
    assert time.monotonic() - started < 10, "the rank that waits in a collective is not waited for"
    assert not any(is_alive(pid) for pid in pids)
    assert pool.call(summed, [1.0, 2.0]) == [3.0, 3.0], "the next call has a working group"


def test_a_hung_rank_is_killed_after_the_time_out(pool):
    pids = [place[3] for place in pool.call(where)]
    with pytest.raises(RanksFailed, match=r"hangs_on: rank \[0(, 1)?\] of 2 did not return in 0.5 s"):
        pool.call(hangs_on, 0, timeout_s=0.5)
    assert not any(is_alive(pid) for pid in pids)


def test_a_dead_rank_is_reported(pool):
    pids = [place[3] for place in pool.call(where)]
    with pytest.raises(RanksFailed, match=r"rank 1 of 2 failed:\nits process ended with exit code 7"):
        pool.call(exits_on, 1)
    assert not any(is_alive(pid) for pid in pids)
