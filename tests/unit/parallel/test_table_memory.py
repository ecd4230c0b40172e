"""Where the bytes of a table lie, by its kernel: 10 rows of 8 columns are 320 bytes, a number a row 40."""

import pytest

from infodcl_dist.base.machine import Memory
from infodcl_dist.parallel.ownership import NOTHING, Block, Span
from infodcl_dist.parallel.table_optimizers import OptimizerName, memory_of_tables, training_bytes
from infodcl_dist.parallel.table_plan import Kernel

BLOCKS = [Block(Span(5, 15), Span(0, 8)), NOTHING]


@pytest.mark.parametrize(
    ("kernel", "optimizer", "on_gpu", "expected"),
    [
        ("dense", None, False, Memory(host=320)),
        ("dense", "adam", False, Memory(host=4 * 320)),
        ("fused", "adagrad", False, Memory(host=2 * 320)),
        ("dense", None, True, Memory(gpu=320)),
        ("dense", "adam", True, Memory(gpu=4 * 320)),
        ("fused", "rowwise_adagrad", True, Memory(gpu=320 + 40)),
        # A fifth of the weights is cached.
        ("fused_uvm_caching", "sgd", True, Memory(host=320, gpu=64)),
        ("fused_uvm_caching", "adam", True, Memory(host=3 * 320, gpu=64)),
        ("fused_uvm_caching", "rowwise_adagrad", True, Memory(host=320, gpu=64 + 40)),
    ],
)
def test_bytes_count_where_they_lie(
    kernel: Kernel, optimizer: OptimizerName | None, on_gpu: bool, expected: Memory
) -> None:
    assert memory_of_tables(BLOCKS, kernel, optimizer, on_gpu=on_gpu) == expected
    if optimizer is not None and kernel != "fused_uvm_caching":
        assert expected.host + expected.gpu == training_bytes(BLOCKS, optimizer, is_fused=kernel != "dense")
