"""Waits for other ranks are seen, whoever waits."""

import time

import torch
import torch.distributed as dist

from infodcl_dist.parallel.collectives import sum_over_ranks
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.waits import Waits

LATE_S = 1.0


def wait_for_a_late_rank(group: Group) -> tuple[float, int]:
    before = dist.Work.wait
    dist.barrier()  # both are here before one is late
    with Waits() as waits:
        if group.rank == 1:
            time.sleep(LATE_S)
        sum_over_ranks(torch.ones(3))
        dist.all_reduce(torch.ones(3), async_op=True).wait()
    assert dist.Work.wait is before
    return waits.seconds, waits.count


def test_the_rank_that_waits_says_so(ranks):
    (early, late) = ranks(2, wait_for_a_late_rank)
    assert early[1] == late[1] == 2
    assert early[0] > LATE_S / 2
    assert late[0] < early[0]
