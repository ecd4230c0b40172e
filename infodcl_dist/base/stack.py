"""Which versions fit together, and what this machine offers.

torch fixes the minor version of fbgemm and torchrec, and a mismatch does not stop an import: symbols are missing later.
So the versions are compared before anything heavy is imported.
"""

import importlib.metadata
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from infodcl_dist.base.machine import GIB, cores, memory_bytes

PAIRS = {"2.13": "1.8", "2.12": "1.7", "2.11": "1.6"}
"""For each minor version of torch, the one of fbgemm and torchrec that is built for it; the first is installed here."""

PINS = {
    "deepspeed": "0.19.8",
    "pyarrow": "26.*",
    "pyre-extensions": "*",  # this and the next two: torchrec is installed without its own dependencies
    "tensordict": "*",
    "torchmetrics": "1.0.3",
}
OPTIONAL_PINS = {"ray": "2.60.*"}
FBGEMM_BUILDS = {"cpu": "fbgemm-gpu-cpu", "cuda": "fbgemm-gpu"}
MISSING = "missing"
DRIVER = "nvidia-driver"
_OPERATOR = "import torch, fbgemm_gpu; torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2]))"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One package against what the stack needs of it."""

    package: str
    found: str
    """The installed version, or `missing`."""
    needed: str
    """The version pattern that fits, with the reason in words where there is one."""
    ok: bool
    remedy: str
    """The command that mends it; empty when `ok`."""


def check_versions(versions: Mapping[str, str]) -> list[Finding]:
    """Judges a set of versions; pure.

    Args:
        versions: package name (with hyphens) to version; what is not installed is absent. `python` is the
            interpreter's and `nvidia-driver` the driver's version.

    Returns:
        A finding a package, those that fit too, in the order in which they should be mended.
    """
    torch, partner = _torch(versions)
    findings = [_python(versions["python"]), torch, *_fbgemm(versions, partner)]
    findings.append(_pinned(versions, "torchrec", f"{partner}.*", options="--no-deps "))
    findings += [_pinned(versions, package, pattern) for package, pattern in PINS.items()]
    findings += [_pinned(versions, package, pattern, optional=True) for package, pattern in OPTIONAL_PINS.items()]
    return findings


def _python(found: str) -> Finding:
    ok = tuple(int(part) for part in re.findall(r"\d+", found)[:2]) >= (3, 11)
    remedy = "" if ok else "rm -rf .venv && PYTHON=/path/to/python3.11 launch/setup.sh"
    return Finding(package="python", found=found, needed=">=3.11", ok=ok, remedy=remedy)


def _torch(versions: Mapping[str, str]) -> tuple[Finding, str]:
    """Judges torch; with it, the minor version that fbgemm and torchrec must have beside it."""
    newest, minor = next(iter(PAIRS)), _minor(versions.get("torch", MISSING))
    finding = Finding(
        package="torch",
        found=versions.get("torch", MISSING),
        needed=f"{newest}.* (or {', '.join(list(PAIRS)[1:])})",
        ok=minor in PAIRS,
        remedy="" if minor in PAIRS else f"pip install torch=={newest}.0",
    )
    return finding, PAIRS.get(minor, PAIRS[newest])


def _fbgemm(versions: Mapping[str, str], partner: str) -> Iterator[Finding]:
    """Exactly one build of fbgemm must be there: the two share a module folder, the later overwrites the earlier."""
    installed = [name for name in FBGEMM_BUILDS.values() if name in versions]
    cpu_torch = versions.get("torch", "").endswith("+cpu")
    wanted = FBGEMM_BUILDS["cpu" if cpu_torch or DRIVER not in versions else "cuda"]
    replace = f"pip uninstall -y {' '.join(installed)} && " if installed else ""
    remedy = f"{replace}pip install --no-deps {wanted}=={partner}.0"
    if len(installed) != 1:
        found = " and ".join(f"{name} {versions[name]}" for name in installed) or MISSING
        needed = f"{wanted} {partner}.* alone (they share a module folder)" if installed else f"{partner}.*"
        yield Finding(package="fbgemm" if installed else wanted, found=found, needed=needed, ok=False, remedy=remedy)
        return
    (name,) = installed
    needed, ok = f"{partner}.* (built for torch {_torch_of(partner)})", _minor(versions[name]) == partner
    if name == FBGEMM_BUILDS["cuda"] and cpu_torch:
        needed, ok = f"{wanted} {partner}.*, as torch is a CPU build", False
    elif name != wanted and DRIVER in versions:  # (without a driver the tables lie on the CPU, whatever torch can do)
        needed, ok = f"{wanted} {partner}.*, as torch is a CUDA build and there is a driver", False
    yield Finding(package=name, found=versions[name], needed=needed, ok=ok, remedy="" if ok else remedy)


def _pinned(
    versions: Mapping[str, str], package: str, pattern: str, *, options: str = "", optional: bool = False
) -> Finding:
    found = versions.get(package, MISSING)
    ok = optional if found == MISSING else fnmatch(_public(found), pattern)
    requirement = package if pattern == "*" else f"{package}=={pattern}"
    remedy = "" if ok else f"pip install {options}'{requirement}'"
    needed = "any version" if pattern == "*" else f"{pattern} (for `tune` alone)" if optional else pattern
    return Finding(package=package, found=found, needed=needed, ok=ok, remedy=remedy)


def _public(version: str) -> str:
    return version.partition("+")[0]


def _minor(version: str) -> str:
    return ".".join(_public(version).split(".")[:2])


def _torch_of(partner: str) -> str:
    return next(torch for torch, its_partner in PAIRS.items() if its_partner == partner)


def installed_versions() -> dict[str, str]:
    """The versions in this environment, as `check_versions` takes them."""
    versions = {"python": platform.python_version()}
    if driver := nvidia_driver():
        versions[DRIVER] = driver
    for package in ["torch", *FBGEMM_BUILDS.values(), "torchrec", *PINS, *OPTIONAL_PINS]:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def nvidia_driver() -> str:
    """The NVIDIA driver's version, or an empty string where there is none."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        return next(iter(re.findall(r"\b\d+\.\d+(?:\.\d+)?\b", text)), "unknown")
    except OSError:
        pass
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def try_operator() -> str:
    """Calls one fbgemm operator in a process of its own, since a mismatch may crash it.

    Returns:
        Why it fails, in a line, or an empty string when it works.
    """
    done = subprocess.run([sys.executable, "-c", _OPERATOR], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"the process ended with status {done.returncode}"])[-1]


def describe_machine() -> dict[str, str]:
    """What there is to compute with, in words; imports torch."""
    facts = {
        "cores": str(cores()),
        "memory": f"{memory_bytes() / GIB:.1f} GiB",
        "NVIDIA driver": nvidia_driver() or "none",
    }
    try:
        import torch
    except (ImportError, OSError) as error:
        return facts | {"devices": f"unknown: torch does not import ({error})"}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts["devices"] = f"{len(gpus)} CUDA: {', '.join(gpus)}" if gpus else "CPU"
    distributed = torch.distributed
    ends = {"gloo": distributed.is_gloo_available, "nccl": distributed.is_nccl_available}
    facts["back ends"] = ", ".join(name for name, is_there in ends.items() if is_there()) or "none"
    return facts
