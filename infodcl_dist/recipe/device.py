"""What tables cannot do on the device that trains them: asked on the ranks, since others read a configuration too.

(A sweep's driver and `plan` may be on machines without the GPUs that they speak of.)
"""

import torch

from infodcl_dist.base.errors import UserError
from infodcl_dist.parallel.table_plan import VECTOR
from infodcl_dist.recipe.config import RunConfig


def check_device(config: RunConfig, device: torch.device) -> None:
    """Whether the run's tables can be trained, or read, on such a device.

    Raises:
        UserError: they cannot; names the key, and the nearest choice that works.
    """
    problem = _problem_on_gpu(config) if device.type == "cuda" else _problem_on_cpu(config)
    if problem is not None:
        raise UserError(problem)


def check_reading_device(config: RunConfig, device: torch.device) -> None:
    """Whether a finished run's tables, which `read_trained_config` describes, can be read on such a device.

    Raises:
        UserError: they cannot; says how else.
    """
    dim = config.model.dim
    if device.type == "cuda" and dim % VECTOR != 0:
        raise UserError(
            f"{config.run.path}: a GPU reads rows in vectors of {VECTOR}, and its model.dim={dim} is no multiple; "
            "open it with CUDA_VISIBLE_DEVICES= on the CPU, as it was trained"
        )


def check_pretraining_device(config: RunConfig, device: torch.device) -> None:
    """Whether the tables of pre-training can be trained on such a device.

    Raises:
        UserError: they cannot; names the key, and the nearest choice that works.
    """
    if device.type == "cuda" and config.metadata.dim % VECTOR != 0:
        raise UserError(_of_whole_vectors("metadata.dim", config.metadata.dim))


def _problem_on_gpu(config: RunConfig) -> str | None:
    dim = config.model.dim
    return _of_whole_vectors("model.dim", dim) if config.tables.kernel == "dense" and dim % VECTOR != 0 else None


def _problem_on_cpu(config: RunConfig) -> str | None:
    kernel = config.tables.kernel
    if kernel == "fused_uvm_caching":
        return "tables.kernel: fused_uvm_caching needs a CUDA device, and there is none; set tables.kernel=fused"
    if kernel == "fused" and config.tables.optimizer == "adam":
        return (
            f"tables.optimizer: adam has no {kernel} kernel on a CPU; "
            "set tables.optimizer=adagrad or tables.kernel=dense"
        )
    return None


def _of_whole_vectors(key: str, dim: int) -> str:
    near = -(-dim // VECTOR) * VECTOR
    return f"{key}: a GPU reads rows in vectors of {VECTOR}, and {dim} is no multiple; set {key}={near}"
