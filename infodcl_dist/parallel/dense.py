"""The channels' DeepSpeed engine: data-parallel, around the channels and around nothing else.

`deepspeed.initialize` broadcasts every parameter of the module it is given from rank 0: a table shard inside would be
overwritten without an error. So the tables stay outside, and only the loss connects the two.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from infodcl_dist.base.config import Config
from infodcl_dist.parallel.group import Group


class DenseConfig(Config):
    """How the channels (the dense part) are trained by DeepSpeed."""

    zero_stage: int = Field(
        default=0,
        ge=0,
        le=0,
        description="DeepSpeed ZeRO stage; at D = 64 the channels are small and sharding them saves nothing measurable",
    )
    precision: Literal["fp32"] = Field(default="fp32", description="arithmetic of the channels")


def build_engine(
    channels: nn.Module, *, config: DenseConfig, learning_rate: float, batch_per_rank: int, group: Group
) -> Any:
    """A DeepSpeed engine with Adam around the channels. Needs an existing process group."""
    deepspeed = _import_deepspeed()
    optimizer = torch.optim.Adam(channels.parameters(), lr=learning_rate)
    engine, *_ = deepspeed.initialize(
        model=channels.to(group.device),
        optimizer=optimizer,
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": batch_per_rank,
            "gradient_accumulation_steps": 1,
            "zero_optimization": {"stage": config.zero_stage},
            "zero_allow_untested_optimizer": True,
            # Left out, DeepSpeed 0.19 clips the gradient at norm 1.
            "gradient_clipping": 0.0,
            "steps_per_print": 2**31,
        },
    )
    return engine


def _import_deepspeed() -> Any:
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # The CPU build would compile a shared-memory all-reduce at its first start (105 s measured); gloo does that work.
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
