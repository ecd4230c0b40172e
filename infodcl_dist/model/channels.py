"""The channels: for each kind of metadata a PSNet and a diffusion process. This is the module DeepSpeed wraps."""

from typing import NamedTuple

from torch import Tensor, nn

from infodcl_dist.base.spans import span
from infodcl_dist.model.diffusion import Diffusion, DiffusionConfig
from infodcl_dist.model.psnet import PSNet, PSNetConfig, SumOverRanks

ABLATIONS = ("spectral_rectification", "contextual_reencoding", "psnet", "balance_loss")


class ChannelInputs(NamedTuple):
    """What one channel is fed for a batch of B items."""

    metadata: Tensor  # [B, F]
    noise: Tensor  # [B, D], standard normal
    steps: Tensor  # int64 [B], in [0, T)


class Channel(nn.Module):
    """Metadata → informative noise → generated item embeddings. Without PSNet the noise stays Gaussian (ablation)."""

    def __init__(self, psnet: PSNet | None, diffusion: Diffusion) -> None:
        super().__init__()
        self.psnet = psnet
        self.diffusion = diffusion

    def forward(self, embeddings: Tensor, inputs: ChannelInputs, weights: Tensor) -> Tensor:
        """Generated embeddings ê [B, D] for item embeddings e [B, D]; weights [B] mark padding rows with 0."""
        noise = inputs.noise
        if self.psnet is not None:
            with span("psnet"):
                noise = self.psnet(noise, inputs.metadata, weights)
        # Under autocast the last product is bf16; the losses are not to be.
        with span("diffusion"):
            return self.diffusion(embeddings, noise, inputs.steps).to(embeddings.dtype)


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
) -> Channels:
    """One channel for each entry of `metadata_dims` (name → width F), less what `ablation` takes out."""
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
        channels[name] = Channel(network, Diffusion(dim=dim, timesteps=timesteps, config=diffusion))
    return channels
