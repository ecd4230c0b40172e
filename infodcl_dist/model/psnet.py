"""PSNet: turns Gaussian noise and item metadata into informative noise (Eq. 1-8).

B rows of this rank's batch, D width of an embedding, F width of the metadata, R rank kept of the SVD.

The singular value decomposition is that of the *global* batch: Y = A Σ Vᵀ. It comes from the D × D Gram matrix YᵀY,
summed over ranks in float64, so it costs one small all-reduce and does not depend on how the batch is split.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from infodcl_dist.base.config import Config
from infodcl_dist.base.shapes import check_shape
from infodcl_dist.model.linear import LinearOfParts

# Relative to the largest eigenvalue. Below the gap floor, two eigenvectors are not told apart by float32 input, and the
# exact gradient 1/gap would only amplify rounding; it is held at 1/floor. Below the value floor, a direction is absent.
EIGENVALUE_GAP_FLOOR = 1e-6
EIGENVALUE_FLOOR = 1e-12

HEADS = 4  # of the release's transformer encoder

SumOverRanks = Callable[[Tensor], Tensor]


class PSNetConfig(Config):
    """Choices inside PSNet."""

    rank: int | None = Field(default=None, ge=1, description="singular directions kept, R; null keeps all D")
    reencoder: Literal["linear", "transformer"] = Field(
        default="linear",
        description="Ψ of Eq. 6: the paper's linear map, or the release's 2-layer transformer encoder on one token",
    )
    residual: Literal["paper", "release"] = Field(
        default="paper",
        description="weight of the metadata residual in Eq. 8: σ(η₁ − 1), or the release's 2σ(η₁) − 1",
    )


class PSNet(nn.Module):
    """Informative noise of one channel.

    Args:
        dim: width D of noise and output.
        metadata_dim: width F of a metadata row.
        config: choices inside PSNet.
        sum_over_ranks: differentiable sum of a tensor over all ranks; the identity in a single process.
        spectral_rectification, contextual_reencoding: whether the part is kept (ablations "w/o SR" and "w/o CR").
    """

    def __init__(
        self,
        *,
        dim: int,
        metadata_dim: int,
        config: PSNetConfig,
        sum_over_ranks: SumOverRanks,
        spectral_rectification: bool = True,
        contextual_reencoding: bool = True,
    ) -> None:
        super().__init__()
        self.sum_over_ranks = sum_over_ranks
        self.residual = config.residual
        self.project = nn.Linear(metadata_dim, dim)
        self.rectify = SpectralRectification(dim, min(config.rank or dim, dim)) if spectral_rectification else None
        self.reencode = ContextualReencoding(dim, config.reencoder) if contextual_reencoding else None
        self.eta0 = nn.Parameter(torch.ones(1))
        self.eta1 = nn.Parameter(torch.ones(1))

    def forward(self, noise: Tensor, metadata: Tensor, weights: Tensor) -> Tensor:
        """Informative noise [B, D] from noise [B, D], metadata [B, F] and weights [B] (0 marks padding rows)."""
        check_shape("noise", noise, weights.shape[0], self.project.out_features)
        check_shape("metadata", metadata, weights.shape[0], self.project.in_features)
        projected = self.project(metadata)
        mixed = noise + projected
        scale = torch.sigmoid(self.eta1 - 1) if self.residual == "paper" else 2 * torch.sigmoid(self.eta1) - 1
        informative = scale * projected
        if self.rectify is not None:
            informative = informative + self.rectify(mixed, weights, self.sum_over_ranks)
        if self.reencode is not None:
            informative = informative + self.eta0 * self.reencode(noise, mixed)
        return informative


class SpectralRectification(nn.Module):
    """S = Y + tanh(α) ⊙ Φ([MLP_u(A_row) ‖ MLP_v(v₁) ‖ MLP_s(diag Σ)]) (Eq. 2-4)."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.left = _mlp(rank, dim)
        self.right = _mlp(dim, dim)
        self.values = _mlp(rank, dim)
        self.merge = nn.Sequential(LinearOfParts(3 * dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.alpha = nn.Parameter(torch.zeros(dim))

    def forward(self, mixed: Tensor, weights: Tensor, sum_over_ranks: SumOverRanks) -> Tensor:
        """Rectified signal [B, D] of Y = mixed [B, D]; rows of weight 0 take no part in the decomposition."""
        left, values, right = global_svd(mixed, weights, sum_over_ranks)
        of_rows = self.left(left[:, : self.rank])
        of_batch = self.right(right[None, :, 0]), self.values(values[None, : self.rank])
        return mixed + torch.tanh(self.alpha) * self.merge((of_rows, *of_batch))


class ContextualReencoding(nn.Module):
    """C = ε + σ(ρ) · LayerNorm(Ψ(ε + p)) (Eq. 5-7), or the release's transformer encoder in place of Ψ and the norm."""

    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        if kind == "linear":
            self.encode: nn.Module = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        else:
            layer = nn.TransformerEncoderLayer(dim, nhead=HEADS, dim_feedforward=4 * dim, dropout=0.0, batch_first=True)
            self.encode = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.one_token = kind == "transformer"
        self.rho = nn.Parameter(torch.zeros(1))

    def forward(self, noise: Tensor, mixed: Tensor) -> Tensor:
        """Re-encoded noise [B, D] from ε [B, D] and ε + p [B, D]."""
        encoded = self.encode(mixed[:, None])[:, 0] if self.one_token else self.encode(mixed)
        return noise + torch.sigmoid(self.rho) * encoded


def global_svd(rows: Tensor, weights: Tensor, sum_over_ranks: SumOverRanks) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of the matrix whose rows are spread over ranks.

    Args:
        rows: this rank's rows [B, D].
        weights: [B]; rows of weight 0 are left out of the matrix (their left vectors are still returned).
        sum_over_ranks: differentiable sum over ranks.

    Returns:
        Left vectors of this rank's rows [B, D], singular values [D] in descending order, right vectors [D, D] in
        columns, the component of largest magnitude of each being positive. Where the matrix has a rank below D the
        remaining values, and the left vectors that belong to them, are zero.
    """
    gram = sum_over_ranks(_Gram.apply(rows * (weights > 0).to(rows.dtype)[:, None]))
    eigenvalues, right = _SymmetricEigen.apply(gram)
    present = eigenvalues > EIGENVALUE_FLOOR * eigenvalues[0].detach().clamp(min=torch.finfo(torch.float32).tiny)
    values = torch.sqrt(torch.where(present, eigenvalues, 1.0)) * present
    inverse = torch.where(present, 1.0 / torch.where(present, values, 1.0), 0.0)
    left = _Projected.apply(rows, right * inverse)
    return left, values.to(rows.dtype), right.to(rows.dtype)


class _Gram(torch.autograd.Function):
    """YᵀY [D, D] in float64 of Y [B, D]; the gradient in one product, since YᵀY is symmetric."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        exact = rows.double()
        return exact.T @ exact

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        gradient = gradients[0] + gradients[0].T
        # Divided by the gaps of a matrix near zero it is beyond float32: its size is put aside until after the product.
        size = gradient.abs().max().clamp(min=torch.finfo(gradient.dtype).tiny)
        return ((rows @ (gradient / size).to(rows.dtype)).double() * size).to(rows.dtype)


class _Projected(torch.autograd.Function):
    """Y M of Y [B, D] and a float64 M [D, D], in Y's type; the gradient of M, a sum over B, in float64."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(rows, matrix)
        with torch.autocast(rows.device.type, enabled=False):
            return rows @ matrix.to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        rows, matrix = ctx.saved_tensors
        return gradients[0] @ matrix.to(rows.dtype).T, rows.double().T @ gradients[0].double()


class _SymmetricEigen(torch.autograd.Function):
    """Eigenvalues (descending) and sign-fixed eigenvectors of a symmetric matrix, with a bounded gradient."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> tuple[Tensor, Tensor]:
        # eigh raises on NaN; a diverged model is to reach the loss, where it is reported with the term and the step.
        finite_or_nan = (matrix * 0.0).sum()
        values, vectors = torch.linalg.eigh(torch.nan_to_num(matrix, posinf=0.0, neginf=0.0))
        values, vectors = values.flip(0) + finite_or_nan, vectors.flip(1)
        largest = vectors.abs().argmax(dim=0, keepdim=True)
        vectors = vectors * torch.sign(vectors.gather(0, largest))
        ctx.save_for_backward(values, vectors)
        return values, vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        grad_values, grad_vectors = gradients
        values, vectors = ctx.saved_tensors
        gaps = values[None, :] - values[:, None]
        floor = EIGENVALUE_GAP_FLOOR * values[0].abs().clamp(min=torch.finfo(torch.float32).tiny)
        inverse_gaps = torch.where(gaps.abs() > floor, 1.0 / gaps, gaps / floor**2)
        inner = inverse_gaps * (vectors.T @ grad_vectors)
        gradient = vectors @ (inner + torch.diag(grad_values)) @ vectors.T
        return 0.5 * (gradient + gradient.T)


def _mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.SiLU(), nn.Linear(outputs, outputs))
