"""What this machine has, as far as its processes may use it."""

import contextlib
import os
import random
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from infodcl_dist.base.errors import Unavailable

GIB = 2**30
MEMORY_SHARE = "INFODCL_DIST_MEMORY_SHARE"  # 0 to 1: for a group that is not alone on its hosts, such as a trial's
OWN_CGROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes of one process by where they lie: in its host's memory, and in its GPU's."""

    host: int = 0
    gpu: int = 0


NOTHING_HELD = Memory()

FIRST_PORT = 20_000  # above those of Ray's workers
ANY_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def most_of(processes: Iterable[Memory]) -> Memory:
    """On either side that of the process with the most there; of one at least."""
    each = list(processes)
    return Memory(host=max(memory.host for memory in each), gpu=max(memory.gpu for memory in each))


def cores() -> int:
    """Of this host, those that its processes may use: a batch job or `taskset` leaves them some alone, and a container
    may have the time of some."""
    return max(1, int(min([len(os.sched_getaffinity(0)), *_cpu_quotas()])))


def free_port() -> int:
    """A port that nobody listens on here, and that the system gives nobody else before its owner listens on it.

    So it lies below those that whoever asks for any port is given, if there is room.
    """
    # (A sandbox may not tell its range; then any port must do.)
    first_of_any = int(ANY_PORTS.read_text().split()[0]) if ANY_PORTS.is_file() else FIRST_PORT
    below = range(FIRST_PORT, max(FIRST_PORT, first_of_any))
    for port in (*random.SystemRandom().sample(below, len(below)), 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found: int = probe.getsockname()[1]
            return found
    raise Unavailable("no port is free here, which a process group listens on")


def memory_bytes() -> int:
    """Of this host, what its processes may have: all physical memory, or a container's or a batch job's limit; of that
    the part which `MEMORY_SHARE` leaves to this process group."""
    of_host = min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_memory_limits()])
    return int(of_host * float(os.environ.get(MEMORY_SHARE, "1")))


def has_share_of_memory() -> bool:
    """Whether this process group shares its hosts' memory with others, as a sweep's trials do."""
    return float(os.environ.get(MEMORY_SHARE, "1")) < 1


def _memory_limits() -> Iterator[int]:
    """Of the control groups that this process is in, bytes; of version 1 a huge number where there is none."""
    for folder, version in _cgroups("memory"):
        text = _text(folder / ("memory.limit_in_bytes" if version == 1 else "memory.max"))
        if text.isdigit():  # "max": none
            yield int(text)


def _cpu_quotas() -> Iterator[float]:
    """Of the control groups that this process is in, cores' worth of time."""
    for folder, version in _cgroups("cpu"):
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if version == 1 else ("cpu.max",)
        quota, _, period = " ".join(_text(folder / file) for file in files).partition(" ")
        if quota.isdigit() and period.isdigit():  # "max", or −1: none
            yield int(quota) / int(period)


def _cgroups(controller: str) -> Iterator[tuple[Path, int]]:
    """This process's control groups of a kind, and those above them: their folders, and of which version they are."""
    for line in _text(OWN_CGROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounted, version = (CGROUPS / controller, 1) if controllers else (CGROUPS, 2)
        own = mounted / path.lstrip("/")
        # In a container the path may be the host's name for what is mounted here; then the mount itself has the limit.
        for folder in (own, *own.parents):
            if folder.is_relative_to(mounted):
                yield folder, version


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""
