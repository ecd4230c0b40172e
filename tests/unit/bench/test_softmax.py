"""The products that the contrastive term is measured beside: the same work, a block at a time."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from infodcl_dist.bench import softmax
from infodcl_dist.bench.softmax import scores_of_block, three_products


class LargestOutput(TorchDispatchMode):
    """Numbers of the largest tensor that an operation gave."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        self.numbers = max(self.numbers, *(x.numel() for x in tree_leaves(found)))
        return found


@pytest.mark.parametrize(("rows", "block"), [(100, 32), (96, 32), (20, 20)])
def test_the_three_products_are_whole_and_hold_a_block(rows: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "BLOCK_BYTES", 32 * 4 * 64)
    views, items = torch.randn(64, 8), torch.randn(rows, 8)
    with LargestOutput() as largest, FlopCounterMode(display=False) as flops:
        scores = scores_of_block(views, items)
        three_products(views, items, scores)
    assert scores.shape == (64, block)
    assert largest.numbers == 64 * block
    assert flops.get_total_flops() == 3 * 2 * 64 * rows * 8
