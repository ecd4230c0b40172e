"""Names for the parts of a step, which a profiler shows and `bench step` adds up."""

from contextlib import AbstractContextManager, nullcontext

import torch

# The parts of a step, in its order. Some lie in others: psnet and diffusion in channels, communication in many.
SPANS = (
    *("data", "tables", "noise", "channels", "psnet", "diffusion", "contrastive", "bpr", "backward"),
    *("optimizer of tables", "optimizer of channels", "communication"),
)


def span(name: str) -> AbstractContextManager[object]:
    """What is done in this block is shown under `name`, one of `SPANS`. Without a profiler it costs next to nothing."""
    if name not in SPANS:
        raise ValueError(f"span {name!r} is none of {SPANS}")
    if not torch.autograd._profiler_enabled():
        return nullcontext()
    return torch.profiler.record_function(name)
