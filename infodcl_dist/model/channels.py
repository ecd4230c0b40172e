"""The channels: for each kind of metadata a PSNet and a diffusion process. This is the module DeepSpeed wraps."""

from collections.abc import Container
from typing import NamedTuple

import torch
from torch import Tensor, nn

from infodcl_dist.base.spans import span
from infodcl_dist.model.diffusion import Diffusion, DiffusionConfig
from infodcl_dist.model.psnet import PSNet, PSNetConfig, SumOverRanks


class ChannelInputs(NamedTuple):
    """What one channel is fed for a batch of B items."""

    metadata: Tensor  # [B, F]; a row that is NaN throughout is none
    noise: Tensor  # [B, D], standard normal
    steps: Tensor  # int64 [B], in [0, T)
    is_conditioned: Tensor | None = None  # bool [B], whose metadata the denoiser sees; None: nobody's


class Channel(nn.Module):
    """Metadata → informative noise → generated item embeddings. Without PSNet the noise stays Gaussian (ablation).

    Args:
        psnet: what turns noise into informative noise, or None.
        diffusion: the diffusion process.
        missing_row: what stands in for rows that are missing, learned [F]; None where none is.
    """

    def __init__(self, psnet: PSNet | None, diffusion: Diffusion, missing_row: nn.Parameter | None = None) -> None:
        super().__init__()
        self.psnet = psnet
        self.diffusion = diffusion
        self.missing_row = missing_row

    def forward(self, embeddings: Tensor, inputs: ChannelInputs, weights: Tensor) -> Tensor:
        """Generated embeddings ê [B, D] for item embeddings e [B, D]; weights [B] mark padding rows with 0."""
        noise, condition, metadata = inputs.noise, None, self.filled(inputs.metadata)
        if self.psnet is not None:
            with span("psnet"):
                noise = self.psnet(noise, metadata, weights)
        with span("diffusion"):
            if inputs.is_conditioned is not None:
                condition = self.diffusion.conditions(metadata, inputs.is_conditioned)
            # Under autocast the last product is bf16; the losses are not to be.
            return self.diffusion(embeddings, noise, inputs.steps, condition).to(embeddings.dtype)

    def filled(self, metadata: Tensor) -> Tensor:
        """Metadata [B, F] with the learned row for those that are missing, before NaN could reach a product."""
        if self.missing_row is None:
            return metadata
        return torch.where(torch.isnan(metadata[:, :1]), self.missing_row, metadata)


class Channels(nn.ModuleDict):
    """All channels, by name."""

    def forward(self, embeddings: Tensor, inputs: dict[str, ChannelInputs], weights: Tensor) -> dict[str, Tensor]:
        """Generated embeddings [B, D] of each channel."""
        return {name: channel(embeddings, inputs[name], weights) for name, channel in self.items()}


def build_channels(
    *,
    metadata_dims: dict[str, int],
    dim: int,
    timesteps: int,
    psnet: PSNetConfig,
    diffusion: DiffusionConfig,
    ablation: tuple[str, ...],
    sum_over_ranks: SumOverRanks,
    with_gaps: Container[str] = (),
) -> Channels:
    """One channel for each entry of `metadata_dims` (name → width F), less what `ablation` takes out.

    Those of `with_gaps` lack rows of some items; the row that they learn starts at 0, so that other weights start as
    they would without it.
    """
    channels = Channels()
    for name, metadata_dim in metadata_dims.items():
        network = None
        if "psnet" not in ablation:
            network = PSNet(
                dim=dim,
                metadata_dim=metadata_dim,
                config=psnet,
                sum_over_ranks=sum_over_ranks,
                spectral_rectification="spectral_rectification" not in ablation,
                contextual_reencoding="contextual_reencoding" not in ablation,
            )
        # Where nothing reads metadata, the row would be a weight that no loss reaches.
        has_missing_row = name in with_gaps and (network is not None or diffusion.is_conditioned)
        missing_row = nn.Parameter(torch.zeros(metadata_dim)) if has_missing_row else None
        process = Diffusion(dim=dim, timesteps=timesteps, config=diffusion, metadata_dim=metadata_dim)
        channels[name] = Channel(network, process, missing_row)
    return channels
