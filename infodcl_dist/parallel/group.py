"""The process group: made once a run, for one process as for many, with a time-out and a device for each rank."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

from infodcl_dist.base.console import is_error_told, tells_error
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.machine import free_port
from infodcl_dist.parallel.quiet import quiet_libraries


@dataclass(frozen=True)
class Group:
    """This process's place among all."""

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device
    gpu_bytes: int | None  # all memory of this rank's GPU; None where it computes on the host's processors


def memory_of_gpu(device: torch.device) -> int | None:
    """All of it; None for the host's processors."""
    return int(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else None


@contextmanager
def process_group(timeout_s: float) -> Iterator[Group]:
    """Joins the group that torchrun describes in the environment; without torchrun, a group of this process alone.

    NCCL on CUDA devices, gloo elsewhere. Processes that torchrun started end with it, by kill -9 too, so that none
    writes beside those of the same command, run again. A collective that waits longer than `timeout_s` raises on gloo;
    NCCL's watchdog ends the process. An exception that a peer's end or silence caused leaves this block with a note
    that says so, or as a `UserError` where the peer has one to tell.

    Raises:
        UserError: the environment has RANK but no LOCAL_RANK, or there are fewer GPUs than local ranks.
    """
    quiet_libraries()
    if dist.is_torchelastic_launched():
        _prctl_pr_set_pdeathsig(signal.SIGKILL)
    made = {} if "RANK" in os.environ else _alone()
    os.environ.update(made)
    group = _join(timeout_s)
    is_over = False
    try:
        yield group
        is_over = True
    except UserError:
        tells_error()  # noted before the others lose this rank
        raise
    except RuntimeError as error:
        if _is_lost_peer(error):
            if is_error_told():
                raise UserError("another rank ended, and says why") from None
            error.add_note(_loss(group, timeout_s))
        raise
    finally:
        _leave(is_over=is_over)
        for name in made:
            os.environ.pop(name, None)


def _join(timeout_s: float) -> Group:
    """Takes this process's place, on its device."""
    if "LOCAL_RANK" not in os.environ:
        raise UserError("the environment has RANK but no LOCAL_RANK; launch with torchrun, or set it")
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.is_available()
    if on_gpu and local_rank >= (count := torch.cuda.device_count()):
        raise UserError(f"local rank {local_rank} has no GPU of its own, there are {count}; start {count} processes")
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_s)
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    # After a restart torchrun's agent still serves the store of the last attempt, with its dead ranks' addresses.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt-{attempt}", store)
    backend = "nccl" if on_gpu else "gloo"
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    group = Group(rank, world_size, local_world_size, device, memory_of_gpu(device))
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    except RuntimeError as error:
        if _is_lost_peer(error):
            error.add_note(_loss(group, timeout_s))
        raise
    return group


def _loss(group: Group, timeout_s: float) -> str:
    """What to do where communication failed."""
    said = (
        f"Rank {group.rank} of {group.world_size} lost another one: it died, its machine went, or it was silent for "
        f"more than {timeout_s:g} s. Look at the other ranks' output; the same command, run again, goes on from "
        "the last checkpoint."
    )
    if group.world_size > group.local_world_size:
        # Debian gives a host's own name the address 127.0.1.1, which gloo then tells to the others.
        said += (
            " If hosts never find each other, their names may be addresses that others cannot reach: set "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network interface between them."
        )
    return said


def _leave(*, is_over: bool) -> None:
    """Ends the group. NCCL's orderly end waits for all ranks, which may wait in a collective for one that failed."""
    if is_over or dist.get_backend() != "nccl":
        dist.destroy_process_group()
    else:
        dist.distributed_c10d._abort_process_group()


def _is_lost_peer(error: RuntimeError) -> bool:
    """Whether communication failed. Gloo raises RuntimeErrors that their text alone tells from others."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "Timed out waiting" in str(error)


def _alone() -> dict[str, str]:
    return {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
