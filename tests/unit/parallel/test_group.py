import pytest
import torch
import torch.distributed as dist

from infodcl_dist.base.errors import UserError
from infodcl_dist.parallel.group import memory_of_gpu, process_group


def test_a_rank_without_a_local_rank_is_told(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UserError, match="RANK but no LOCAL_RANK"), process_group(1):
        pass


def test_more_local_ranks_than_gpus_are_told(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="start 1 processes"), process_group(1):
        pass


def test_a_gpus_memory_is_all_of_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 80 if device.index == 1 else 0))
    assert memory_of_gpu(torch.device("cuda", 1)) == 80
    assert memory_of_gpu(torch.device("cpu")) is None


@pytest.mark.parametrize(("local_world_size", "is_told"), [("1", True), ("2", False)])
def test_hosts_that_cannot_reach_each_other_are_told_of_interfaces(monkeypatch, local_world_size, is_told):
    """As where Debian gives a host's own name the address 127.0.1.1."""

    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Gloo connectFullMesh failed with: timed out connecting")

    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": local_world_size}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(dist.HashStore(), 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", fail)
    with pytest.raises(RuntimeError) as raised, process_group(1):
        pass
    (note,) = raised.value.__notes__
    assert note.startswith("Rank 0 of 2 lost another one")
    assert ("set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME" in note) == is_told
