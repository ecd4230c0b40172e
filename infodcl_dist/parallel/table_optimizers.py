"""The optimizers of the tables by name: plain ones over local shards, and FBGEMM's, inside the backward pass.

n_r rows and d_r columns of a table that rank r holds.

One name is one algorithm in both: same ε, same sums, so that dense and fused tables can be compared. The exception is
Adam, whose fused form is lazy: it moves, and decays the moments of, the rows of the batch alone.
"""

from typing import Any, Literal

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, nn
from torchrec.optim import RowWiseAdagrad

from infodcl_dist.base.machine import Memory
from infodcl_dist.parallel.adam import MOMENTS, fused_adam, initialize_adam
from infodcl_dist.parallel.ownership import Block
from infodcl_dist.parallel.table_plan import Kernel

OptimizerName = Literal["adam", "adagrad", "rowwise_adagrad", "sgd"]

EPSILON = 1e-8  # FBGEMM's default, and Adam's in torch
CACHED_SHARE = 0.2  # of the weights, what FBGEMM caches of a managed table on the GPU; its default
# What each keeps for a row, in FBGEMM's order: [n_r, d_r], of row-wise Adagrad [n_r, 1].
STATES = {"adam": MOMENTS, "adagrad": ("sum",), "rowwise_adagrad": ("sum",), "sgd": ()}
_FUSED = {
    "adam": EmbOptimType.ADAM,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "sgd": EmbOptimType.EXACT_SGD,
}


def table_copies(name: OptimizerName, *, is_fused: bool) -> int:
    """Arrays of a table's size that training holds: weights, with the dense kernel their gradient, and the state."""
    kept = 0 if name == "rowwise_adagrad" else len(STATES[name])
    return 1 + kept + (not is_fused)


def training_bytes(blocks: list[Block], name: OptimizerName, *, is_fused: bool) -> int:
    """What training holds of such blocks of tables, float32: weights, the dense kernel's gradient, optimizer state."""
    copies, kept_a_row = table_copies(name, is_fused=is_fused), name == "rowwise_adagrad"
    return sum(4 * block.rows.size * (copies * block.columns.size + kept_a_row) for block in blocks)


def memory_of_tables(blocks: list[Block], kernel: Kernel, optimizer: OptimizerName | None, *, on_gpu: bool) -> Memory:
    """Where the bytes of such blocks lie on a rank; `optimizer` None: of weights that nothing trains."""
    weights = 4 * sum(block.rows.size * block.columns.size for block in blocks)
    held = weights if optimizer is None else training_bytes(blocks, optimizer, is_fused=kernel != "dense")
    if not on_gpu:
        return Memory(host=held)
    if kernel != "fused_uvm_caching":
        return Memory(gpu=held)
    # FBGEMM keeps the weights, and state as wide as they are, in the host's memory; a number a row and a cache of the
    # weights on the GPU.
    numbers = 4 * sum(block.rows.size for block in blocks) if optimizer == "rowwise_adagrad" else 0
    return Memory(host=held - numbers, gpu=numbers + int(CACHED_SHARE * weights))


def dense_optimizer(name: OptimizerName, shards: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """An optimizer over local shards that are autograd parameters; its state exists from the start.

    (So a checkpoint has the same keys before the first step as after it.)
    """
    if name == "adam":
        adam = fused_adam(shards, learning_rate, EPSILON)
        initialize_adam(adam, shards)
        return adam
    if name == "adagrad":
        return torch.optim.Adagrad(shards, lr=learning_rate, eps=EPSILON)
    if name == "rowwise_adagrad":
        return RowWiseAdagrad(shards, lr=learning_rate, eps=EPSILON)
    return torch.optim.SGD(shards, lr=learning_rate)


def fused_params(name: OptimizerName) -> dict[str, Any]:
    """FBGEMM's settings. The learning rate is 0 until `fused_optimizer` sets one: opened tables train nothing."""
    return {"optimizer": _FUSED[name], "learning_rate": 0.0, "eps": EPSILON}


def fused_optimizer(module: Any, learning_rate: float) -> torch.optim.Optimizer:
    """TorchRec's view of the optimizers inside the kernels; its `step` only hands them the learning rate."""
    optimizer: torch.optim.Optimizer = module.fused_optimizer
    set_learning_rate(optimizer, learning_rate)
    optimizer.step()
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Of the steps to come; a fused kernel hears of it at its optimizer's next `step`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def fused_state(optimizer: Any, weight: str, name: OptimizerName) -> dict[str, Tensor]:
    """What a fused kernel keeps for the local shard of a table, by the names of `STATES`: views into the kernel."""
    # FBGEMM calls the first one momentum1 whatever it is.
    kept = optimizer.state_dict()["state"].get(weight, {}).values()
    local = [shard.tensor for tensor in kept for shard in tensor.local_shards()]
    return dict(zip(STATES[name], local, strict=True)) if local else {}
