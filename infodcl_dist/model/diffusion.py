"""The diffusion process over item embeddings (Eq. 9, 10): noise schedules, the forward process and the denoiser.

B batch rows, D width, F width of the metadata, T diffusion steps.
"""

import math
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from infodcl_dist.base.config import Config
from infodcl_dist.base.shapes import check_shape
from infodcl_dist.model.linear import LinearOfParts, Picked

# The exponential schedule's ends (release), and the cosine schedule's offset and cap (Nichol and Dhariwal, 2021).
EXP_START, EXP_END = 0.1, 10.0
COSINE_OFFSET, COSINE_MAX_BETA = 0.008, 0.999
Schedule = Literal["exp", "linear", "cosine", "sqrt"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


class DiffusionConfig(Config):
    """Choices of the diffusion process."""

    schedule: Schedule = Field(default="exp", description="noise schedule: exp, linear, cosine or sqrt")
    denoiser: Literal["mlp1", "mlp2"] = Field(
        default="mlp1",
        description="μ_θ: one linear layer 3D → D, or one hidden layer of width 2D",
    )
    unconditional: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="p of classifier-free guidance: the share of examples whose condition is the learned 'no "
        "condition' vector; the others' is their metadata row through a linear layer. 1: nothing is conditioned",
    )

    @property
    def is_conditioned(self) -> bool:
        """Whether the denoiser ever sees metadata."""
        return self.unconditional < 1


def signal_levels(schedule: str, timesteps: int) -> Tensor:
    """ᾱ_t of Eq. 9, float32 [T], decreasing: the share of variance that is signal after t + 1 steps of noise."""
    steps = torch.arange(1, timesteps + 1, dtype=torch.float64)
    if schedule == "exp":
        x = torch.linspace(1, 2 * timesteps + 1, timesteps, dtype=torch.float64)
        betas = 1 - torch.exp(-EXP_START / timesteps - x * (EXP_END - EXP_START) / (2 * timesteps**2))
    elif schedule == "linear":
        # Ho et al. (2020): 1e-4 to 0.02 over 1,000 steps, stretched to T steps so that the end stays noise.
        scale = 1000 / timesteps
        betas = torch.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=torch.float64).clamp(max=0.999)
    elif schedule == "cosine":
        angle = torch.cos(
            (torch.arange(timesteps + 1).double() / timesteps + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2
        )
        betas = (1 - (angle[1:] / angle[:-1]) ** 2).clamp(max=COSINE_MAX_BETA)
    elif schedule == "sqrt":
        # Li et al. (2022), Diffusion-LM: ᾱ_t = 1 − sqrt(t/T + s).
        return (1 - torch.sqrt(steps / timesteps + 1e-4)).clamp(min=1e-4).float()
    else:
        raise ValueError(f"schedule {schedule!r} is none of {SCHEDULES}")
    return torch.cumprod(1 - betas, dim=0).float()


class Diffusion(nn.Module):
    """One step of generation: noises item embeddings to step t and predicts them back.

    Args:
        dim: width D.
        timesteps: T.
        config: choices of the process.
        metadata_dim: width F of a metadata row, which a conditioned denoiser is given.
    """

    signal: Tensor

    def __init__(self, *, dim: int, timesteps: int, config: DiffusionConfig, metadata_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("signal", signal_levels(config.schedule, timesteps), persistent=False)
        self.no_condition = nn.Parameter(torch.zeros(dim))
        self.time_embedding = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        if config.denoiser == "mlp1":
            self.denoiser: nn.Module = LinearOfParts(3 * dim, dim)
        else:
            self.denoiser = nn.Sequential(LinearOfParts(3 * dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        # A map of its own: PSNet's φ is absent where PSNet is ablated. Last, so that other weights start as without it.
        self.condition = nn.Linear(metadata_dim, dim) if config.is_conditioned else None

    def forward(self, embeddings: Tensor, noise: Tensor, steps: Tensor, condition: Tensor | None = None) -> Tensor:
        """Generated embeddings ê [B, D] from e [B, D], (informative) noise [B, D] and steps t int64 [B] in [0, T)."""
        check_shape("embeddings", embeddings, None, self.dim)
        check_shape("noise", noise, *embeddings.shape)
        level = self.signal[steps][:, None]
        return self.denoise(torch.sqrt(level) * embeddings + torch.sqrt(1 - level) * noise, steps, condition)

    def conditions(self, metadata: Tensor, is_conditioned: Tensor) -> Tensor:
        """h [B, D]: of metadata [B, F] where `is_conditioned`, bool [B], says so, else the "no condition" vector.

        Raises:
            ValueError: the denoiser was built without conditions.
        """
        if self.condition is None:
            raise ValueError("a denoiser with model.diffusion.unconditional=1 takes no condition")
        check_shape("metadata", metadata, None, self.condition.in_features)
        check_shape("is_conditioned", is_conditioned, metadata.shape[0])
        return torch.where(is_conditioned[:, None], self.condition(metadata), self.no_condition)

    def denoise(self, noised: Tensor, steps: Tensor, condition: Tensor | None = None) -> Tensor:
        """μ_θ: the embeddings ê [B, D] that it sees in z_t [B, D], at steps t int64 [B] in [0, T), under the condition
        h [B, D]; without one under the "no condition" vector."""
        # Of T steps, not of B rows: there are fewer of them.
        every_step = torch.arange(self.signal.shape[0], device=steps.device)
        time = self.time_embedding(sinusoidal_embedding(every_step, self.dim)).to(noised.dtype)
        return self.denoiser((noised, self.no_condition[None] if condition is None else condition, Picked(time, steps)))


def sinusoidal_embedding(steps: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding [B, D] of diffusion steps int64 [B] (Vaswani et al., 2017): cosines, then sines."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, device=steps.device) / max(half, 1))
    angles = steps[:, None].float() * frequencies
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    return nn.functional.pad(embedding, (0, dim - embedding.shape[1]))
