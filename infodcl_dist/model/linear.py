"""A linear layer of a concatenation whose parts are not all as long as the batch.

B batch rows, D width of the output, P width of a part.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import embedding, linear


class Picked(NamedTuple):
    """A part [B, P] with few different rows."""

    rows: Tensor  # [T, P]
    which: Tensor  # int64 [B], in [0, T)


class LinearOfParts(nn.Linear):
    """`Linear` of parts that stand side by side, without the concatenation.

    W [a ‖ b] = W_a a + W_b b. A row that many rows of the batch share is multiplied once, and in the backward pass
    their gradients are summed before the products. Weights and their names are those of `nn.Linear`.
    """

    def forward(self, parts: tuple[Tensor | Picked, ...]) -> Tensor:  # type: ignore[override]
        """[B, D] of parts [B, P], or [1, P] which all rows share; their widths together are the layer's inputs."""
        widths = [(part.rows if isinstance(part, Picked) else part).shape[1] for part in parts]
        weights = self.weight.split(widths, dim=1)
        total = _product(parts[0], weights[0], self.bias)
        for part, weight in zip(parts[1:], weights[1:], strict=True):
            total = total + _product(part, weight, None)
        return total


def _product(part: Tensor | Picked, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(part, Picked):
        return embedding(part.which, linear(part.rows, weight, bias))
    return linear(part, weight, bias)
