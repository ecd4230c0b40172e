"""Shape checks at public boundaries."""

from torch import Tensor


def check_shape(name: str, tensor: Tensor, *expected: int | None) -> None:
    """Checks a tensor's shape; None accepts any size.

    Raises:
        ValueError: the shape differs. It is a fault of the caller's code, not of the user's input.
    """
    shape = tuple(tensor.shape)
    fits = len(shape) == len(expected) and all(e is None or s == e for s, e in zip(shape, expected, strict=True))
    if not fits:
        raise ValueError(f"{name} has shape {shape}, expected {tuple('any' if e is None else e for e in expected)}")
