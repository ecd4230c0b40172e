import pytest
import torch

from infodcl_dist.base.errors import UserError
from infodcl_dist.parallel.group import Group, process_group


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
    assert Group(1, 2, 1, 2, torch.device("cuda", 1)).gpu_bytes == 80
    assert Group(1, 2, 1, 2, torch.device("cpu")).gpu_bytes is None
