"""The same weights on both sides of a comparison: set in the package's module, copied for the reference."""

import torch
from torch import Tensor, nn


def scatter_weights(module: nn.Module, seed: int) -> None:
    """Sets every parameter to normal values of scale 0.2, so that none is 0 or 1 and no term of an equation is mute.

    A fresh module starts with tanh(α) = 0 and h = 0, which would hide faults in what they multiply.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def copied_weights(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Float64 copies of a module's parameters, which require gradients."""
    return {
        prefix + name: parameter.detach().double().clone().requires_grad_()
        for name, parameter in module.named_parameters()
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest magnitude expected (or over 1e-6, where nothing is expected).

    Infinity where either side has anything not finite: a NaN would get lost in a `max` over several errors.
    """
    found, expected = found.detach().double(), expected.detach().double()
    if not (found.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    scale = max(float(expected.abs().max()), 1e-6)
    return float((found - expected).abs().max()) / scale
