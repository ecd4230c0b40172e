"""The machine that a figure was measured on: what it is, and the best it does, measured in the same run."""

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from infodcl_dist.base.stack import describe_machine, installed_versions
from infodcl_dist.parallel.softmax_sweep import prefers_bfloat16

TRIES = 5


class Sizes(NamedTuple):
    """Large enough to be limited by arithmetic, or by memory, and done in well under a second."""

    gemm_side: int
    copy_bytes: int


SIZES = {"cpu": Sizes(1024, 64 * 2**20), "cuda": Sizes(8192, 2**30)}


@dataclass(frozen=True)
class Roofline:
    """What the device of this process reaches while all ranks measure at once."""

    flops_per_s: float  # a square matrix product, of float32 or what `matmul_precision` lets it be rounded to
    bytes_per_s: float  # a copy, read and written bytes counted


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], *, repeats: int, warm_up: int, device: torch.device) -> tuple[float, ...]:
    """Seconds of each repeat, after `warm_up` that do not count."""
    seconds = []
    for _ in range(warm_up + repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return tuple(seconds[warm_up:])


def measure_roofline(device: torch.device) -> Roofline:
    """The best of some tries of a matrix product, at torch's present precision, and of a copy."""
    kind = torch.bfloat16 if prefers_bfloat16(device) else torch.float32
    side, copied = SIZES[device.type]
    a, b = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
    source = torch.zeros(copied // 4, device=device)
    target = torch.empty_like(source)
    product = torch.empty_like(a)
    multiplied = timed(lambda: torch.mm(a, b, out=product), repeats=TRIES, warm_up=1, device=device)
    moved = timed(lambda: target.copy_(source), repeats=TRIES, warm_up=1, device=device)
    return Roofline(flops_per_s=2 * side**3 / min(multiplied), bytes_per_s=2 * copied / min(moved))


def describe() -> dict[str, Any]:
    """Hardware, versions and commit."""
    return {
        "processor": _processor(),
        "threads a process": torch.get_num_threads(),
        **describe_machine(),
        "versions": {**installed_versions(), "infodcl-dist": importlib.metadata.version("infodcl-dist")},
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    """The commit of the source, with `-dirty` behind it when files differ; `unknown` outside a clone."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
