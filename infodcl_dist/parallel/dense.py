"""The channels' DeepSpeed engine: data-parallel, around the channels and around nothing else.

`deepspeed.initialize` broadcasts every parameter of the module it is given from rank 0: a table shard inside would be
overwritten without an error. So the tables stay outside, and only the loss connects the two.

What ZeRO spreads over ranks is put together again by `whole_weights` and `whole_moments`, so that what is saved does
not know the stage or the world size it came from.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from infodcl_dist.base.config import Config
from infodcl_dist.parallel.adam import MOMENTS, fused_adam, initialize_adam
from infodcl_dist.parallel.collectives import place, wait_as_all_ranks
from infodcl_dist.parallel.group import Group


class DenseConfig(Config):
    """How the channels (the dense part) are trained by DeepSpeed.

    At D = 64 two channels have 141,446 weights, 1.7 MB with Adam's moments: ZeRO saves nothing measurable there and
    only adds communication. It earns its place with wide feature channels (F of 768 to 4,096) and deeper denoisers.
    """

    zero_stage: int = Field(
        default=0,
        ge=0,
        le=3,
        description="what DeepSpeed ZeRO spreads over ranks: 0 nothing, 1 Adam's moments, 2 gradients too, 3 weights "
        "too; at D = 64 the channels are small and this saves nothing measurable",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="arithmetic of the channels; bf16: their matrix products, while weights, moments, tables, losses "
        "and the Gram matrix of the SVD keep fp32 or more",
    )
    whole_below: int = Field(
        default=100_000, ge=0, description="zero_stage 3: a weight of fewer numbers stays whole on every rank"
    )


def build_engine(
    channels: nn.Module, *, config: DenseConfig, learning_rate: float, batch_per_rank: int, group: Group
) -> Any:
    """A DeepSpeed engine with Adam around the channels. Needs an existing process group."""
    deepspeed = _import_deepspeed()
    optimizer = fused_adam(channels.parameters(), learning_rate)
    # DeepSpeed allocates its buckets whole, 5e8 numbers each by default; these hold every gradient at once.
    bucket = max(sum(parameter.numel() for parameter in channels.parameters()), 1)
    engine, *_ = deepspeed.initialize(
        model=channels.to(group.device),
        optimizer=optimizer,
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": batch_per_rank,
            "gradient_accumulation_steps": 1,
            "zero_optimization": {
                "stage": config.zero_stage,
                "reduce_bucket_size": bucket,
                "allgather_bucket_size": bucket,
                "stage3_prefetch_bucket_size": bucket,
                "stage3_param_persistence_threshold": config.whole_below,
                # A second stream gains nothing at this size, and the CPU has none.
                "overlap_comm": False,
            },
            "zero_allow_untested_optimizer": True,
            "torch_autocast": {
                "enabled": config.precision == "bf16",
                "dtype": "bfloat16",
                # The modules whose gradients would travel in bf16: none, so that sums over ranks keep fp32.
                "lower_precision_safe_modules": [],
            },
            # Left out, DeepSpeed 0.19 clips the gradient at norm 1.
            "gradient_clipping": 0.0,
            "steps_per_print": 2**31,
            # On, it waits for the whole GPU twice a step.
            "timers": {"throughput": {"enabled": False}},
        },
    )
    # A clone of the group of all ranks, which DeepSpeed makes without a time-out.
    wait_as_all_ranks(engine.data_parallel_group, group.device)
    return engine


def initialize_engine(engine: Any) -> None:
    """Makes the state of an engine's Adam, which ZeRO too would leave to the first step."""
    initialize_adam(engine.optimizer, _optimized(engine))
    if engine.zero_optimization_stage() in (1, 2):
        # How a weight finds its part of the flat moments; public functions look them up through it.
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def whole_weights(channels: nn.Module) -> dict[str, Tensor]:
    """Each weight of the channels by name, whole, fp32, on every rank. A collective when ZeRO has spread them."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, parameter in channels.named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        weights[name] = parameter.detach() if whole is None else whole.detach().view(_shape(parameter))
    return weights


def load_weights(channels: nn.Module, weights: dict[str, Tensor]) -> None:
    """Sets the channels' weights, and the copies that ZeRO updates, from whole ones. A collective."""
    from deepspeed import zero

    parameters = dict(channels.named_parameters())
    with torch.no_grad(), zero.GatheredParameters(list(parameters.values()), modifier_rank=0):
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for name, parameter in parameters.items():
        _set_optimized(parameter, weights[name], None)


def whole_moments(engine: Any) -> dict[str, dict[str, Tensor]]:
    """Adam's moments by a weight's name, each whole on every rank. A collective when ZeRO has spread them."""
    from deepspeed.utils import safe_get_full_optimizer_state

    moments = {}
    for name, parameter in engine.module.named_parameters():
        if engine.zero_optimization_stage() == 0:
            moments[name] = {kind: engine.optimizer.state[parameter][kind] for kind in MOMENTS}
        else:
            whole = {kind: safe_get_full_optimizer_state(parameter, kind) for kind in MOMENTS}
            moments[name] = {kind: value.view(_shape(parameter)) for kind, value in whole.items()}
    return moments


def load_moments(engine: Any, moments: dict[str, dict[str, Tensor]], steps_done: int) -> None:
    """Sets Adam's state from whole moments."""
    for name, parameter in engine.module.named_parameters():
        for kind in MOMENTS:
            if engine.zero_optimization_stage() == 0:
                engine.optimizer.state[parameter][kind].copy_(moments[name][kind])
            else:
                _set_optimized(parameter, moments[name][kind], kind)
    for parameter in _optimized(engine):
        engine.optimizer.state[parameter]["step"].fill_(steps_done)


def _set_optimized(parameter: nn.Parameter, whole: Tensor, kind: str | None) -> None:
    """Sets this rank's part of a weight's fp32 copy (`kind` None) or of a moment; without ZeRO there is no copy."""
    from deepspeed import utils

    if hasattr(parameter, "ds_tensor"):
        # Stage 3 pads a weight to equal parts; DeepSpeed's setters of whole values (0.19.8) fail where it does.
        rank, world_size = place()
        part = parameter.ds_tensor.numel()
        flat = whole.to(parameter.ds_tensor.device).flatten()
        own = nn.functional.pad(flat, (0, part * world_size - flat.numel()))[rank * part : (rank + 1) * part]
        if kind is None:
            utils.safe_set_local_fp32_param(parameter, own)
        else:
            utils.safe_set_local_optimizer_state(parameter, own, kind)
    elif kind is None:
        utils.safe_set_full_fp32_param(parameter, whole)
    else:
        utils.safe_set_full_optimizer_state(parameter, whole, kind)


def _optimized(engine: Any) -> Iterator[Tensor]:
    """The tensors that Adam updates: the weights, or under ZeRO this rank's flat fp32 parts of them."""
    stage = engine.zero_optimization_stage()
    if stage == 3:
        return iter(engine.optimizer.fp32_partitioned_groups_flat)
    return (parameter for group in engine.optimizer.param_groups for parameter in group["params"])


def _shape(parameter: nn.Parameter) -> torch.Size:
    """The whole weight's shape; stage 3 keeps it aside."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _import_deepspeed() -> Any:
    import deepspeed

    if not torch.cuda.is_available():
        from deepspeed.ops import __compatible_ops__

        # It would compile a shared-memory all-reduce at its first start (105 s measured); gloo does that work.
        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
