"""Groups of runs against a yardstick: means and deviations over seeds, and paired tests."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from infodcl_dist.base.errors import UserError
from infodcl_dist.report.runs import Group

METRICS = ("recall@20", "recall@50", "ndcg@20", "ndcg@50")
TESTED = ("recall@20", "ndcg@20")


@dataclass(frozen=True)
class Cell:
    """A metric of a group on a split.

    Attributes:
        mean, deviation: over seeds; the deviation is the sample's, NaN for one seed.
        seeds: how many.
        p: of a two-sided paired t-test against the yardstick over common seeds; None where there is none: for the
            yardstick itself, fewer than two common seeds, or a metric that is not tested.
    """

    mean: float
    deviation: float
    seeds: int
    p: float | None = None

    def __str__(self) -> str:
        spread = "" if math.isnan(self.deviation) else f" ± {self.deviation:.4f}"
        return f"{self.mean:.4f}{spread}" + ("" if self.p is None else f" (p {self.p:.2g})")


def compare(groups: list[Group], yardstick: str | None) -> list[tuple[Group, dict[str, Cell]]]:
    """Test metrics of each group, tested against the yardstick of its data set where one is named.

    Raises:
        UserError: no group's label begins with `yardstick`.
    """
    if yardstick is not None and not any(group.label.startswith(yardstick) for group in groups):
        labels = ", ".join(sorted({group.label for group in groups}))
        raise UserError(f"--yardstick {yardstick}: no runs of that name; there are: {labels}")
    return [(group, _cells(group, _yardstick_of(group, groups, yardstick))) for group in groups]


def _yardstick_of(group: Group, groups: list[Group], name: str | None) -> Group | None:
    """Of several that fit the name, the best by mean validation Recall@20."""
    fitting = [other for other in groups if other.dataset == group.dataset and name and other.label.startswith(name)]
    return max(fitting, key=lambda other: _mean(other, "valid", "recall@20"), default=None)


def _mean(group: Group, split: str, metric: str) -> float:
    return float(np.mean(list(group.values(split, metric).values())))


def _cells(group: Group, yardstick: Group | None) -> dict[str, Cell]:
    found = {}
    for metric in METRICS:
        values = group.values("test", metric)
        deviation = float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else math.nan
        is_tested = yardstick is not None and yardstick is not group and metric in TESTED
        p = paired_p(values, yardstick.values("test", metric)) if is_tested and yardstick is not None else None
        found[metric] = Cell(_mean(group, "test", metric), deviation, len(values), p)
    return found


def paired_p(ours: dict[int, float], theirs: dict[int, float]) -> float | None:
    """Two-sided p of Student's paired test over common seeds; None for fewer than two, or where nothing differs."""
    seeds = sorted(ours.keys() & theirs.keys())
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    if len(seeds) < 2 or not differences.any():
        return None
    if np.ptp(differences) == 0:
        return 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)
