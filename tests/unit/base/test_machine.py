"""Memory that this host's processes may have, and a port."""

import socket
from pathlib import Path

import pytest

from infodcl_dist.base import machine
from infodcl_dist.base.machine import GIB, MEMORY_SHARE, cores, memory_bytes

SMALL, SMALLER = GIB // 2, GIB // 4  # less than any machine that runs this has
HUGE = 9223372036854771712  # of version 1: no limit


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        # A container: its group is the root of what is mounted.
        ("0::/\n", {"memory.max": f"{SMALL}\n"}, SMALL),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("5:cpu:/a\n4:memory:/\n0::/\n", {"memory/memory.limit_in_bytes": f"{SMALL}\n"}, SMALL),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{HUGE}\n"}, None),
        # A container without a namespace of its own: the path is the host's.
        ("4:cpu,memory:/docker/ab\n", {"memory/memory.limit_in_bytes": f"{SMALL}\n"}, SMALL),
        # A batch job: of its own group and those above it the smallest counts.
        ("0::/job/step\n", {"job/memory.max": f"{SMALLER}\n", "job/step/memory.max": f"{SMALL}\n"}, SMALLER),
        ("0::/job/step\n", {"job/memory.max": "max\n", "job/step/memory.max": f"{SMALL}\n"}, SMALL),
        ("0::/job\n", {"other/memory.max": f"{SMALL}\n"}, None),
        ("0::/\n", {}, None),
        (None, {}, None),
    ],
)
def test_a_container_has_what_its_control_groups_allow(
    own: str | None, files: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "absent")
    physical = memory_bytes()
    if own is not None:
        put_into_groups(own, files, tmp_path, monkeypatch)
    assert memory_bytes() == (physical if expected is None else expected)
    assert physical > SMALL


def put_into_groups(own: str, files: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "OWN_CGROUPS", folder / "cgroup")
    (folder / "cgroup").write_text(own)
    monkeypatch.setattr(machine, "CGROUPS", folder / "mounted")
    for name, text in files.items():
        (folder / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mounted" / name).write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000\n", "job/step/cpu.max": "max 100000\n"}, 3),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_a_container_has_as_many_cores_as_its_time_is_worth(
    own: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(64))
    put_into_groups(own, files, tmp_path, monkeypatch)
    assert cores() == expected


def test_a_port_is_none_that_the_system_may_give_to_another_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first_of_any = int(machine.ANY_PORTS.read_text().split()[0])
    assert machine.FIRST_PORT <= machine.free_port() < first_of_any
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(machine, "FIRST_PORT", port)
        monkeypatch.setattr(machine, "ANY_PORTS", tmp_path / "range")
        (tmp_path / "range").write_text(f"{port + 1}\t60999\n")
        assert machine.free_port() not in (0, port), "the one that is left is in use"
    (tmp_path / "range").unlink()
    assert machine.free_port() > 0


def test_a_group_that_is_not_alone_on_its_host_has_a_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory_bytes()
    monkeypatch.setenv(MEMORY_SHARE, "0.25")
    assert memory_bytes() == whole // 4
