"""The reverse chain of the diffusion: embeddings made from noise in several steps.

For analysis, and for views of more than one step; training denoises once and never comes here.

B rows, D width, T diffusion steps.
"""

import torch
from torch import Tensor

from infodcl_dist.base.shapes import check_shape
from infodcl_dist.model.diffusion import Diffusion


@torch.no_grad()
def generate(
    diffusion: Diffusion,
    noise: Tensor,
    *,
    condition: Tensor | None = None,
    guidance: float = 0.0,
    steps: int | None = None,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Embeddings [B, D] from noise, by DDIM (Song et al., 2021) or DDPM's posterior (Ho et al., 2020).

    Args:
        diffusion: its denoiser and noise levels.
        noise: z at the last step [B, D]: PSNet's informative noise, or standard normal.
        condition: h [B, D] of `Diffusion.conditions`; None: the "no condition" vector.
        guidance: ω of classifier-free guidance (Eq. 25): every prediction is (1 + ω) times the one under the
            condition, less ω times the one without. (The rule is of predicted noise, of which an embedding predicted
            from the same z is an affine function; the weights add up to 1, so it is the same rule.)
        steps: denoising calls, evenly spread over T; None: all T.
        eta: η, what share of the posterior's deviation is drawn anew in a step: 0 is DDIM, 1 over all T steps DDPM.
        generator: of what is drawn.

    Raises:
        ValueError: `steps` is not in [1, T], or there is guidance and no condition.
    """
    check_shape("noise", noise, None, diffusion.dim)
    timesteps = diffusion.signal.shape[0]
    steps = timesteps if steps is None else steps
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps={steps} is not in [1, {timesteps}]")
    if guidance != 0 and condition is None:
        raise ValueError(f"guidance={guidance} needs a condition")
    visited = torch.linspace(timesteps - 1, 0, steps, device=noise.device).round().long()
    levels = [*diffusion.signal[visited], noise.new_ones(())]
    z = noise
    for step, level, earlier in zip(visited, levels, levels[1:], strict=False):
        at = step.expand(z.shape[0])
        predicted = diffusion.denoise(z, at, condition)
        if guidance != 0:
            predicted = (1 + guidance) * predicted - guidance * diffusion.denoise(z, at)
        drawn = torch.empty_like(z).normal_(generator=generator) if eta > 0 else torch.zeros_like(z)
        z = step_back(z, predicted, level, earlier, eta=eta, drawn=drawn)
    return z


def step_back(z: Tensor, predicted: Tensor, level: Tensor, earlier: Tensor, *, eta: float, drawn: Tensor) -> Tensor:
    """z_s [B, D] of an earlier step s from z_t [B, D] and the embeddings ê [B, D] predicted from it.

    z_s = √ᾱ_s ê + √(1 − ᾱ_s − σ²) ε̂ + σ ε, with ε̂ = (z_t − √ᾱ_t ê) / √(1 − ᾱ_t) and
    σ² = η² (1 − ᾱ_s) / (1 − ᾱ_t) (1 − ᾱ_t / ᾱ_s): Eq. 12 and 16 of Song et al. (2021).

    Args:
        level: ᾱ_t.
        earlier: ᾱ_s, the larger one; 1 at the chain's end, where z_s is ê.
        eta: η.
        drawn: ε, standard normal [B, D].
    """
    within = (z - torch.sqrt(level) * predicted) / torch.sqrt(1 - level)
    variance = eta**2 * (1 - earlier) / (1 - level) * (1 - level / earlier)
    kept = torch.sqrt((1 - earlier - variance).clamp(min=0.0))
    return torch.sqrt(earlier) * predicted + kept * within + torch.sqrt(variance) * drawn
