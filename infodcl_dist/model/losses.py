"""The loss terms of Eq. 10-15, unweighted.

B rows of this rank's batch, D width. Every rank passes `shares` [B]: an example's weight times world size over the
global batch's number of examples, 0 for padding. Then the *mean over ranks* of a term is its mean over the global
batch, which is what TorchRec and DeepSpeed, both averaging gradients over ranks, optimize; and a term does not depend
on how the batch is split.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from infodcl_dist.base.config import Config

MeanOverRanks = Callable[[Tensor], Tensor]


class LossConfig(Config):
    """Weights of L = Σ_channels [(1 − λ_b) L_r + λ_c L_con + λ_l L_c] + λ_b L_bpr + λ_g L_reg (Eq. 14), and choices.

    With λ_u L_user, a term of our own, added where its weight is not 0.
    """

    bpr: float = Field(default=0.6, ge=0, description="λ_b, weight of the BPR term")
    reconstruction: float | None = Field(default=None, ge=0, description="weight of L_r; null is Eq. 14's 1 − λ_b")
    contrastive: float = Field(
        default=0.01, ge=0, description="λ_c, weight of the contrastive term, a mean over the batch"
    )
    contrastive_warmup_epochs: int = Field(
        default=0,
        ge=0,
        description="W: the weight of the contrastive term is 0 in epoch 1 and rises in equal steps to λ_c, which it "
        "has from epoch W + 1 on; 0: λ_c at once",
    )
    contrastive_gradient: Literal["both", "views", "table"] = Field(
        default="both",
        description="where the contrastive term's gradient goes: both sides (paper); views: ê alone, the item rows "
        "that it is compared with count as constants; table: those rows alone, ê counts as a constant",
    )
    user_contrastive: float = Field(
        default=0.0,
        ge=0,
        description="λ_u, weight of a contrastive term that the paper has not: −ln softmax over the same items of "
        "cos(u, e_j) / τ_u, the pair's item in the numerator; a mean over the batch, of infodcl alone",
    )
    user_temperature: float = Field(default=0.2, gt=0.01, le=10, description="τ_u of that term")
    balance: float = Field(default=5e-5, ge=0, description="λ_l, weight of the collaboration balance term")
    regularization: float = Field(default=0.003, ge=0, description="λ_g, weight of the L2 term on the batch's rows")
    temperature: float = Field(default=0.5, gt=0.01, le=10, description="τ of the contrastive term")
    balance_norm: Literal["l2", "l2_squared"] = Field(
        default="l2", description="‖Ê‖_F / B (paper) or ‖Ê‖_F² / B (release)"
    )
    negatives: Literal["catalogue", "sampled"] = Field(
        default="catalogue",
        description="denominator of the contrastive terms: all N items, or an estimate from uniform samples (biased: "
        "the logarithm of a mean; the fewer samples, the smaller the estimate)",
    )
    samples_per_example: int = Field(
        default=1, ge=1, le=256, description="items drawn for each example of the global batch, when sampled"
    )

    @property
    def reconstruction_weight(self) -> float:
        """Weight of L_r: the given one, or 1 − λ_b."""
        return max(0.0, 1.0 - self.bpr) if self.reconstruction is None else self.reconstruction

    def contrastive_weight(self, epoch: int) -> float:
        """Weight of L_con in an epoch, counted from 1: λ_c, or its share while the term is warmed up."""
        warmup = self.contrastive_warmup_epochs
        return self.contrastive * min(1.0, (epoch - 1) / warmup) if warmup > 0 else self.contrastive


def bpr(users: Tensor, positives: Tensor, negatives: Tensor, shares: Tensor) -> Tensor:
    """L_bpr: −ln σ(ŷ_ui − ŷ_uj) of inner products (Eq. 12). Inputs [B, D] and [B], result a scalar."""
    margin = (users * (positives - negatives)).sum(dim=1)
    return (shares * softplus(-margin)).sum()


def reconstruction(embeddings: Tensor, generated: Tensor, shares: Tensor) -> Tensor:
    """L_r: squared error between e and ê, mean over D (Eq. 10). The gradient flows into both."""
    return (shares * (embeddings - generated).square().mean(dim=1)).sum()


def balance(
    generated: Sequence[Tensor], shares: Tensor, norm: str, global_examples: int, mean_over_ranks: MeanOverRanks
) -> Tensor:
    """L_c: ‖Ê‖_F / B over the global batch (Eq. 13), or ‖Ê‖_F² / B; summed over the channels, in one message."""
    mean_squares = torch.stack([(shares * views.square().sum(dim=1)).sum() for views in generated])
    if norm == "l2_squared":
        return mean_squares.sum()
    global_mean_squares = mean_over_ranks(mean_squares)
    return torch.sqrt((global_mean_squares / global_examples).clamp(min=torch.finfo(shares.dtype).tiny)).sum()


def regularization(users: Tensor, items: Tensor, shares: Tensor) -> Tensor:
    """L_reg: ½ (‖u‖² + ‖e_i‖²) of the batch's table rows (Eq. 15)."""
    return 0.5 * (shares * (users.square().sum(dim=1) + items.square().sum(dim=1))).sum()
