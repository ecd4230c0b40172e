"""Adam's state, made before its first step."""

from collections.abc import Iterable

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


def initialize_adam(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Makes the state that Adam would make at its first step, so that checkpoints have the same keys before it."""
    for parameter in parameters:
        zeros = {name: torch.zeros_like(parameter.detach()) for name in MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(0.0), **zeros}
