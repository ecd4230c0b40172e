"""Means and deviations of a feature's columns, each rank reading its own rows.

N items, F width. Sums are float64 and all-reduced, so that the same comes out at any world size.
"""

from collections.abc import Iterator

import numpy as np
import torch

from infodcl_dist.base.console import log
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.item_rows import Scaling
from infodcl_dist.parallel.collectives import sum_over_ranks
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import row_span

CHUNK_NUMBERS = 1 << 22  # some 32 MB in float64; assumption
# Equal numbers miss their own mean by float64's rounding, some 1e-16 of it; float32 tells numbers apart that differ by
# 6e-8 of their size. What lies between is no variation.
SMALLEST_DEVIATION = 1e-8


def fit_scaling(name: str, matrix: np.ndarray, seen: np.ndarray, group: Group) -> Scaling:
    """What standardizes each column of a feature over the items that were seen in training and have a row.

    Args:
        name: of the channel, for messages.
        matrix: [N, F], perhaps mapped; a row that is NaN throughout is none.
        seen: which items occur in train, bool [N].
        group: this process's place. All ranks call this together.

    Raises:
        UserError: no item seen in training has a row, on every rank.
    """
    width = matrix.shape[1]
    sums = np.zeros(1 + width)
    for block in _own_blocks(matrix, seen, group):
        sums[0] += len(block)
        sums[1:] += block.sum(axis=0)
    count, *totals = _over_ranks(sums, group)
    if count == 0:
        raise UserError(
            f"model.standardize: no item seen in training has a row in {name}, so there is nothing to fit a scale on; "
            "set model.standardize=none or take the channel out"
        )
    mean = np.array(totals) / count
    squares = np.zeros(width)
    for block in _own_blocks(matrix, seen, group):
        squares += np.square(block - mean).sum(axis=0)
    deviation = np.sqrt(_over_ranks(squares, group) / count)
    constant = deviation <= SMALLEST_DEVIATION * np.abs(mean)
    log.info(
        "channel %s: standardized on %s items; %s of %s columns are constant and become 0",
        *(name, f"{int(count):,}", int(constant.sum()), width),
    )
    return Scaling(mean, np.where(constant, 1.0, deviation))


def _own_blocks(matrix: np.ndarray, seen: np.ndarray, group: Group) -> Iterator[np.ndarray]:
    """Of this rank's rows those to be counted, float64, some at a time."""
    own = row_span(len(matrix), group.rank, group.world_size)
    step = max(1, CHUNK_NUMBERS // matrix.shape[1])
    for start in range(own.start, own.stop, step):
        rows = slice(start, min(start + step, own.stop))
        block = np.asarray(matrix[rows], np.float64)
        yield block[seen[rows] & ~np.isnan(block[:, 0])]


def _over_ranks(sums: np.ndarray, group: Group) -> np.ndarray:
    total: np.ndarray = sum_over_ranks(torch.from_numpy(sums).to(group.device)).cpu().numpy()
    return total
