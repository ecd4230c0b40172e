"""What a bench is given, and the training that several of them measure."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from infodcl_dist.base.array_file import create_mapped
from infodcl_dist.base.files import writing
from infodcl_dist.bench.machine import timed
from infodcl_dist.bench.step_model import StepShape
from infodcl_dist.bench.step_shape import step_shape
from infodcl_dist.data.batches import Batch, Batches
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.data.item_rows import ItemRows
from infodcl_dist.data.side_information import MADE_CHANNELS
from infodcl_dist.graph.bipartite import training_graph
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.metadata import feature_rows
from infodcl_dist.recipe.model import (
    Evaluator,
    build_batches,
    build_evaluator,
    build_step,
    build_tables,
    build_trained_channels,
)
from infodcl_dist.train.step import Step

ROWS_AT_ONCE = 65_536  # random ones that are drawn: 16 MiB of width 64


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run's configuration and data in this process group, and how often something is repeated."""

    config: RunConfig
    dataset: Dataset
    group: Group
    repeats: int
    warm_up: int
    max_steps: int  # of an epoch that are measured

    @cached_property
    def metadata(self) -> dict[str, ItemRows]:
        """Rows [N, F] by channel; of channels that are made random ones, for time does not depend on what they hold.

        (It does on NaN, so features are what `train` makes of them.) All ranks ask for it.
        """
        generator = np.random.default_rng(0)
        made = {*MADE_CHANNELS, *self.dataset.manifest.item_graphs}
        shape = (self.dataset.items, self.config.metadata.dim)
        return {
            name: ItemRows(_random_rows(shape, generator))
            if name in made
            else feature_rows(self.config, self.dataset, name, self.group)
            for name in self.config.model.trained_channels
        }

    def timed(self, work: Callable[[], object]) -> tuple[float, ...]:
        """Seconds of each repeat of `work`."""
        return timed(work, repeats=self.repeats, warm_up=self.warm_up, device=self.group.device)

    @property
    def shape(self) -> StepShape:
        """The sizes of a step."""
        return step_shape(self.config, self.dataset.manifest, self.group.world_size)


def _random_rows(shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Rows in a file that loses its name: mapped, as those of `train` are, and so no memory of the process's own."""
    with tempfile.TemporaryDirectory() as folder, writing(Path(folder)):
        rows = create_mapped(Path(folder) / "rows.npy", shape)
    for start in range(0, shape[0], ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        part[:] = generator.standard_normal(part.shape, np.float32)
    return rows


def build_bench_evaluator(setting: Setting) -> Evaluator:
    """Evaluates fresh tables as `train` would in training, without a step's metadata and channels."""
    config, dataset, group = setting.config, setting.dataset, setting.group
    graph = training_graph(dataset, group.device)
    return build_evaluator(config, build_tables(config, dataset, group), dataset, graph, group, in_training=True)


class Training:
    """A training as `train` builds it, without a run folder."""

    def __init__(self, setting: Setting) -> None:
        config, group, metadata = setting.config, setting.group, setting.metadata
        self.setting = setting
        self.tables = build_tables(config, setting.dataset, group)
        self.batches: Batches = build_batches(config, setting.dataset, metadata, group)
        self.step: Step = build_step(
            config,
            tables=self.tables,
            channels=build_trained_channels(config, metadata),
            graph=training_graph(setting.dataset, group.device),
            batch_per_rank=self.batches.per_rank,
            group=group,
        )
        self.steps = min(self.batches.steps, setting.max_steps)
        self._epochs = itertools.count(1)

    @property
    def examples(self) -> int:
        """Of all ranks in the steps that are measured."""
        return sum(self.batches.examples(step) for step in range(self.steps))

    def run(self, most: int | None = None) -> int:
        """Trains on those steps of a fresh epoch that are measured, but on no more than `most`; gives how many."""
        steps = self.steps if most is None else min(most, self.steps)
        return sum(1 for _ in self.step.run(self._first(steps)))

    def _first(self, steps: int) -> Iterator[Batch]:
        return itertools.islice(self.batches.epoch(next(self._epochs)), steps)
