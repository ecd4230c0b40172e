"""Groups of runs against a yardstick: means and deviations over seeds, and paired tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

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
        mean, deviation: over seeds; NaN for no seed; the deviation is the sample's, NaN for one seed.
        seeds: how many.
        p: of a two-sided paired t-test against the yardstick over common seeds; None where there is none: for the
            yardstick itself, fewer than two common seeds, or a metric that is not tested.
    """

    mean: float
    deviation: float
    seeds: int
    p: float | None = None

    def __str__(self) -> str:
        if not self.seeds:
            return "–"
        spread = "" if math.isnan(self.deviation) else f" ± {self.deviation:.4f}"
        return f"{self.mean:.4f}{spread}" + ("" if self.p is None else f" (p {self.p:.2g})")


@dataclass(frozen=True)
class Fixed:
    """A yardstick without a seed, such as a closed form: its metrics by name."""

    dataset: str
    checksum: str  # of the data set's contents
    label: str
    valid: dict[str, float]
    test: dict[str, float]


Yardstick: TypeAlias = Group | Fixed


def compare(
    groups: list[Group], fixed: Sequence[Fixed] = (), yardsticks: Sequence[str] = ()
) -> list[tuple[Group, dict[str, Cell]]]:
    """Test metrics of each group, tested against the best yardstick of its data set where some are named.

    Raises:
        UserError: one of `yardsticks` is no label, and none begins with it.
    """
    known: list[Yardstick] = [*groups, *fixed]
    for name in yardsticks:
        if not _named(known, name):
            labels = ", ".join(sorted({one.label for one in known}))
            raise UserError(f"--yardstick {name}: no runs of that name; there are: {labels}")
    return [(group, _cells(group, best_yardstick(group.dataset, known, yardsticks))) for group in groups]


def best_yardstick(dataset: str, known: Sequence[Yardstick], names: Sequence[str]) -> Yardstick | None:
    """Of those of a data set that go by a name, the best by (mean) validation Recall@20."""
    of_dataset = [one for one in known if one.dataset == dataset]
    return max((one for name in names for one in _named(of_dataset, name)), key=_valid_recall, default=None)


def _named(known: Sequence[Yardstick], name: str) -> list[Yardstick]:
    """Those labelled so, or where there is none, those whose labels begin so."""
    return [one for one in known if one.label == name] or [one for one in known if one.label.startswith(name)]


def _valid_recall(one: Yardstick) -> float:
    return one.valid["recall@20"] if isinstance(one, Fixed) else _mean(one, "valid", "recall@20")


def _mean(group: Group, split: str, metric: str) -> float:
    values = list(group.values(split, metric).values())
    return float(np.mean(values)) if values else math.nan


def _cells(group: Group, yardstick: Yardstick | None) -> dict[str, Cell]:
    found = {}
    for metric in METRICS:
        values = group.values("test", metric)
        deviation = float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else math.nan
        is_tested = yardstick is not None and yardstick is not group and metric in TESTED
        p = _p_against(yardstick, values, metric) if is_tested and yardstick is not None else None
        found[metric] = Cell(_mean(group, "test", metric), deviation, len(values), p)
    return found


def _p_against(yardstick: Yardstick, ours: dict[int, float], metric: str) -> float | None:
    """Against a constant the paired test is that of one sample."""
    if isinstance(yardstick, Fixed):
        return paired_p(ours, dict.fromkeys(ours, yardstick.test[metric]))
    return paired_p(ours, yardstick.values("test", metric))


def paired_p(ours: dict[int, float], theirs: dict[int, float]) -> float | None:
    """Two-sided p of Student's paired test over common seeds; None for fewer than two, or where nothing differs."""
    seeds = sorted(ours.keys() & theirs.keys())
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    if len(seeds) < 2 or not differences.any():
        return None
    if np.ptp(differences) == 0:
        return 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)
