"""Plots of a sweep, as PNG: the metric against each hyperparameter, parallel coordinates, importance."""

import json
import logging
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed

import matplotlib.pyplot as plt
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from infodcl_dist.base.files import new_folder
from infodcl_dist.train.state import SELECTING
from infodcl_dist.tune.space import Dimension, Space
from infodcl_dist.tune.study import Study, Trial

LABEL = f"{SELECTING} (validation)"
BINS = 6  # of a continuum, for the line of best values
COLUMNS = 3
LEAST_FOR_IMPORTANCE = 4  # done trials; with fewer there is nothing to tell apart


def draw_plots(study: Study, space: Space, trials: list[Trial], folder: Path) -> None:
    """Writes `hyperparameters.png` (as the paper's Figure 9), `parallel.png` and `importance.png`."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    values = {trial.number: study.value(trial.number) for trial in trials if study.evaluations(trial.number)}
    shown = [trial for trial in trials if trial.number in values]
    metric = np.array([values[trial.number] for trial in shown])
    places = {key: np.array([_place(of, trial.parameters[key]) for trial in shown]) for key, of in space.items()}
    with new_folder(folder, replace=True) as building:
        _draw_hyperparameters(space, places, metric, building / "hyperparameters.png")
        _draw_parallel(space, places, metric, building / "parallel.png")
        if len(shown) >= LEAST_FOR_IMPORTANCE:
            _draw_importance(importances(space, shown, metric), building / "importance.png")


def importances(space: Space, trials: list[Trial], metric: np.ndarray) -> dict[str, float]:
    """PED-ANOVA's share of each key (Watanabe et al., 2023) in being among the better trials; largest first."""
    study = optuna.create_study(direction="maximize")
    distributions = {key: dimension.distribution() for key, dimension in space.items()}
    for trial, value in zip(trials, metric.tolist(), strict=True):
        internal = {key: space[key].encode(found) for key, found in trial.parameters.items()}
        study.add_trial(create_trial(params=internal, distributions=distributions, value=value))
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def _place(dimension: Dimension, value: Any) -> float:
    """A value's place on an axis; a choice's is its number."""
    return float(dimension.encode(value) if dimension.choice is not None else value)


def _draw_hyperparameters(space: Space, places: dict[str, np.ndarray], metric: np.ndarray, file: Path) -> None:
    columns = min(COLUMNS, len(space))
    rows = -(-len(space) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.5 * columns, 3.2 * rows), squeeze=False, sharey=True)
    for axis, (key, dimension) in zip(axes.flat, space.items(), strict=False):
        axis.scatter(places[key], metric, s=18, alpha=0.6)
        axis.plot(*_best_by_place(dimension, places[key], metric), color="tab:red", linewidth=1.2, label="best")
        _set_scale(axis, dimension)
        axis.set_xlabel(key)
    for axis in axes.flat[len(space) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel(LABEL)
    axes[0, 0].legend()
    _save(figure, file)


def _best_by_place(dimension: Dimension, places: np.ndarray, metric: np.ndarray) -> tuple[list[float], list[float]]:
    """The best metric at each place; of a continuum, in each of some bins of equal width on its scale."""
    if dimension.grid is not None:
        groups = places
    else:
        scaled = np.log(places) if dimension.is_logarithmic else places
        low, high = scaled.min(), scaled.max()
        groups = np.minimum((scaled - low) / max(high - low, 1e-12) * BINS, BINS - 1).astype(int)
    best = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    chosen = [members[metric[members].argmax()] for members in best]
    return places[chosen].tolist(), metric[chosen].tolist()


def _set_scale(axis: Axes, dimension: Dimension) -> None:
    if dimension.is_logarithmic:
        axis.set_xscale("log")
    if dimension.integer is not None:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if dimension.choice is not None:
        axis.set_xticks(range(len(dimension.choice)), [_name(choice) for choice in dimension.choice], rotation=20)


def _name(choice: Any) -> str:
    return choice if isinstance(choice, str) else json.dumps(choice)


def _draw_parallel(space: Space, places: dict[str, np.ndarray], metric: np.ndarray, file: Path) -> None:
    """A line a trial through its place on every axis, each axis from its low to its high end; the best on top."""
    figure, axis = plt.subplots(figsize=(1.8 * (len(space) + 1) + 2, 4.5))
    scaled = [_scaled(dimension, places[key]) for key, dimension in space.items()]
    lines = np.stack([*scaled, _unit(metric, metric.min(), metric.max())], axis=1)
    colours = mpl.colormaps["viridis"](lines[:, -1])
    for number in metric.argsort():
        axis.plot(lines[number], color=colours[number], alpha=0.75, linewidth=1.2)
    axis.set_xticks(range(lines.shape[1]), [*space, LABEL], rotation=20, ha="right")
    for number, ends in enumerate([*map(_ends, space.values()), (f"{metric.min():.4f}", f"{metric.max():.4f}")]):
        axis.text(number, -0.03, ends[0], ha="center", va="top", fontsize=8)
        axis.text(number, 1.03, ends[1], ha="center", va="bottom", fontsize=8)
        axis.axvline(number, color="grey", linewidth=0.6)
    axis.set_yticks([])
    axis.set_ylim(-0.1, 1.1)
    _save(figure, file)


def _scaled(dimension: Dimension, places: np.ndarray) -> np.ndarray:
    if dimension.choice is not None:
        return _unit(places, 0, len(dimension.choice) - 1)
    low, high = dimension.ends
    if dimension.is_logarithmic:
        return _unit(np.log(places), np.log(low), np.log(high))
    return _unit(places, low, high)


def _unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values - low) / max(high - low, 1e-12)


def _ends(dimension: Dimension) -> tuple[str, str]:
    low, *_, high = dimension.ends if len(dimension.ends) > 1 else dimension.ends * 2
    return (_name(low), _name(high)) if dimension.choice is not None else (f"{low:g}", f"{high:g}")


def _draw_importance(shares: dict[str, float], file: Path) -> None:
    figure, axis = plt.subplots(figsize=(6, 0.4 * len(shares) + 1.2))
    axis.barh(list(shares)[::-1], list(shares.values())[::-1])
    axis.set_xlabel("importance (PED-ANOVA)")
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
