"""Random numbers that are functions of what they are for: a key and a counter, never of a rank or of what ran before.

Every draw is `hash(key, counter)`, the SplitMix64 generator (Steele, Lea and Flood, 2014) read at an arbitrary
position. The integers are the same on every device and at every world size, so any rank can make any example's numbers.
All functions take int64 counters of any shape and return a tensor of that shape on the counters' device.
"""

import hashlib
import math

import torch
from torch import Tensor

GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # SplitMix64's constants, as signed 64-bit integers
MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
MULTIPLIER_2 = 0x94D049BB133111EB - (1 << 64)
FEISTEL_ROUNDS = 6


def key_for(*purpose: str | int) -> int:
    """The key of a purpose, such as `key_for(seed, "noise", epoch)`: a signed 64-bit integer."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def bits(key: int, counters: Tensor) -> Tensor:
    """64 random bits a counter, as int64. Arithmetic wraps modulo 2⁶⁴ by design."""
    x = (counters * GOLDEN_GAMMA).add_(key)
    x.bitwise_xor_(_shift_right(x, 30)).mul_(MULTIPLIER_1)
    x.bitwise_xor_(_shift_right(x, 27)).mul_(MULTIPLIER_2)
    return x.bitwise_xor_(_shift_right(x, 31))


def uniform(key: int, counters: Tensor) -> Tensor:
    """Uniform float64 in [0, 1), from 53 random bits."""
    return _shift_right(bits(key, counters), 11).double() * 2.0**-53


def integers(key: int, counters: Tensor, bounds: Tensor | int) -> Tensor:
    """Uniform int64 in [0, bounds); `bounds` is a number or a tensor of the counters' shape, each between 1 and 2⁵³."""
    return (uniform(key, counters) * bounds).long()


def normal(key: int, rows: Tensor, width: int) -> Tensor:
    """Standard normal float32 [R, width]: row r is a function of (key, rows[r]) alone. Box-Muller on 32-bit halves."""
    half = (width + 1) // 2
    counters = rows[:, None] * half + torch.arange(half, device=rows.device)
    random_bits = bits(key, counters)
    # In float32: a half rounds to 24 of its 32 bits, far below what a test of the distribution can see.
    first = (_shift_right(random_bits, 32).float() + 0.5).mul_(2.0**-32)
    second = (random_bits.bitwise_and_(0xFFFFFFFF).float() + 0.5).mul_(2.0**-32)
    radius = first.log_().mul_(-2.0).sqrt_()
    angle = second.mul_(2.0 * math.pi)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :width]


def permuted(key: int, positions: Tensor, length: int) -> Tensor:
    """The elements at `positions` of a random permutation of 0 … length − 1, without storing the permutation.

    A Feistel network permutes the next power of four; values outside [0, length) walk on until they are inside
    (Black and Rogaway, 2002).
    """
    half_bits = half_bits_of(length)
    values = _feistel(key, positions, half_bits)
    outside = (values >= length).nonzero(as_tuple=True)
    while outside[0].numel() > 0:
        walked = _feistel(key, values[outside], half_bits)
        values[outside] = walked
        still = walked >= length
        outside = tuple(index[still] for index in outside)
    return values


def half_bits_of(length: int) -> int:
    """Half the bits of the numbers that are permuted so that 0 … length − 1 are."""
    return max(1, ((length - 1).bit_length() + 1) // 2)


def _feistel(key: int, values: Tensor, half_bits: int) -> Tensor:
    mask = (1 << half_bits) - 1
    left, right = values >> half_bits, values & mask
    for round_number in range(FEISTEL_ROUNDS):
        left, right = right, left ^ (bits(key + round_number, right) & mask)
    return (left << half_bits) | right


def _shift_right(x: Tensor, places: int) -> Tensor:
    """Logical shift: int64's own `>>` copies the sign bit."""
    return (x >> places).bitwise_and_((1 << (64 - places)) - 1)
