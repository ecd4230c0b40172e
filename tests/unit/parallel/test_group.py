import pytest
import torch

from infodcl_dist.base.errors import UserError
from infodcl_dist.parallel.group import process_group


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
