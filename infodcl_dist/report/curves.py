"""Curves of training, as PNG: the loss and its terms, and validation metrics, a line a group."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from infodcl_dist.report.runs import Group

CURVES = {
    "loss": ("loss", "loss/bpr", "loss/reconstruction", "loss/contrastive"),
    "validation": ("valid/recall@20", "valid/ndcg@20"),
}


def draw_curves(groups: list[Group], folder: Path) -> dict[str, list[str]]:
    """Writes the curves of each data set that has any; file names by data set, in `folder`.

    A line is the mean over a group's seeds in the epochs that all of them reached, the band from their least to their
    largest value.
    """
    files: dict[str, list[str]] = {}
    for number, dataset in enumerate(sorted({group.dataset for group in groups})):
        files[dataset] = []
        members = [group for group in groups if group.dataset == dataset]
        for kind, names in CURVES.items():
            shown = [name for name in names if any(_curve(group, name)[0].size for group in members)]
            if not shown:
                continue
            figure, axes = plt.subplots(1, len(shown), figsize=(4.6 * len(shown), 3.6), squeeze=False)
            for axis, name in zip(axes.flat, shown, strict=True):
                _draw(axis, name, members)
            file = f"{number}-{kind}.png"
            _save(figure, axes[0, 0], folder / file)
            files[dataset].append(file)
    return files


def _draw(axis: Axes, name: str, groups: list[Group]) -> None:
    for number, group in enumerate(groups):
        epochs, values = _curve(group, name)
        if not epochs.size:
            continue
        color = f"C{number}"  # the same on all axes, which share a legend, though some lack the group
        axis.plot(epochs, values.mean(axis=0), label=group.label, linewidth=1.2, color=color)
        axis.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)
    axis.set_xlabel("epoch")
    axis.set_title(name, fontsize=10)


def _curve(group: Group, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs [E] in which every run has the number, and its values [runs, E]; terms that stay 0 have none."""
    of_runs = [{record["epoch"]: record[name] for record in run.records if name in record} for run in group.runs]
    epochs = sorted(set.intersection(*(set(values) for values in of_runs)))
    values = np.array([[values[epoch] for epoch in epochs] for values in of_runs])
    return (np.array(epochs), values) if values.any() else (np.array([]), values)


def _save(figure: Any, first: Axes, file: Path) -> None:
    handles, labels = first.get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
