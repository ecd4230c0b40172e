"""Builds what a run trains, and what its results are computed with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from infodcl_dist.base.console import log
from infodcl_dist.base.machine import Memory
from infodcl_dist.base.random import key_for
from infodcl_dist.data.batches import Batches
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.data.item_rows import ItemRows
from infodcl_dist.graph.bipartite import Bipartite, Rows, tensor_rows
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.evaluation import Evaluation, EvaluationConfig, evaluate
from infodcl_dist.inference.propagation import propagated
from infodcl_dist.model.channels import Channels, build_channels
from infodcl_dist.parallel.collectives import sum_over_ranks
from infodcl_dist.parallel.dense import build_engine
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.tables import Tables
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.device import check_device
from infodcl_dist.train.objective import Objective
from infodcl_dist.train.step import Step


def build_tables(config: RunConfig, dataset: Dataset, group: Group) -> Tables:
    """The run's sharded tables, initialized by its seed.

    Raises:
        UserError: see `check_device`.
    """
    check_device(config, group.device)
    return Tables(
        users=dataset.users,
        items=dataset.items,
        dim=config.model.dim,
        config=config.tables,
        seed=config.run.seed,
        group=group,
        samples_per_example=config.samples_per_example,
    )


def build_batches(config: RunConfig, dataset: Dataset, metadata: Mapping[str, ItemRows], group: Group) -> Batches:
    """This rank's training batches."""
    return Batches(
        dataset.items_of_users("train"),
        items=dataset.items,
        global_batch_size=config.train.global_batch_size,
        seed=config.run.seed,
        metadata=metadata,
        rank=group.rank,
        world_size=group.world_size,
    )


def build_trained_channels(config: RunConfig, metadata: Mapping[str, ItemRows]) -> Channels | None:
    """The channels, equal on all ranks; None for a model without channels."""
    if not metadata:
        return None
    gaps = {name: rows.missing for name, rows in metadata.items() if rows.missing}
    for name, count in gaps.items():
        log.info(
            "channel %s: %s of %s items have no row; a learned one stands in for them",
            *(name, f"{count:,}", f"{metadata[name].shape[0]:,}"),
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_for(config.run.seed, "channels"))
        return build_channels(
            metadata_dims={name: rows.shape[1] for name, rows in metadata.items()},
            dim=config.model.dim,
            timesteps=config.model.timesteps,
            psnet=config.model.psnet,
            diffusion=config.model.diffusion,
            ablation=config.ablation,
            with_gaps=gaps.keys(),
            sum_over_ranks=sum_over_ranks,
        )


def build_step(
    config: RunConfig,
    *,
    tables: Tables,
    channels: nn.Module | None,
    graph: Bipartite,
    batch_per_rank: int,
    group: Group,
) -> Step:
    """One training step with its optimizers: TorchRec's tables, and DeepSpeed's engine around the channels."""
    engine = None
    if channels is not None:
        engine = build_engine(
            channels,
            config=config.dense,
            learning_rate=config.train.learning_rate,
            batch_per_rank=batch_per_rank,
            group=group,
        )
    loss = config.loss
    if "balance_loss" in config.ablation:
        loss = loss.model_copy(update={"balance": 0.0})
    objective = Objective(
        tables=tables,
        engine=engine,
        graph=graph if config.model.training_layers > 0 else None,
        layers=config.model.training_layers,
        timesteps=config.model.timesteps,
        unconditional=config.model.diffusion.unconditional,
        loss=loss,
        seed=config.run.seed,
        world_size=group.world_size,
    )
    return Step(objective, learning_rate=config.train.learning_rate, matmul_precision=config.train.matmul_precision)


@dataclass(frozen=True)
class Evaluator:
    """Evaluates tables on a split: the GCN pass, then the all-ranking metrics."""

    config: RunConfig
    tables: Tables
    dataset: Dataset
    graph: Bipartite  # of training pairs
    valid: Rows
    test: Rows
    group: Group
    held: Memory  # by the tables and what trains them

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        """The tables as they are now, propagated."""
        return propagated(
            self.tables,
            self.dataset,
            self.graph,
            self.config.model.gcn_layers,
            config=self.config.propagation,
            group=self.group,
            scratch=self.config.run.path,
            held=self.held,
        )

    def __call__(self, split: str) -> dict[str, float]:
        """The run's metrics on `valid` or `test`, as `metric@k`."""
        return self.measure(split, self.config.evaluation).means

    def measure(self, split: str, config: EvaluationConfig, *, by_group: bool = False) -> Evaluation:
        """Any metrics on `valid` or `test`; training items are masked, validation items too if `mask_valid` says so."""
        masks = [self.graph.items_of_user]
        if split == "test" and config.mask_valid:
            masks.append(self.valid)
        return evaluate(
            self.embeddings(),
            truth=self.valid if split == "valid" else self.test,
            masks=masks,
            train=self.graph,
            config=config,
            group=self.group,
            by_group=by_group,
        )


def build_evaluator(
    config: RunConfig, tables: Tables, dataset: Dataset, graph: Bipartite, group: Group, *, in_training: bool
) -> Evaluator:
    """The evaluator of a run's tables; `in_training` beside their gradients and optimizer state."""
    valid, test = (tensor_rows(dataset.items_of_users(split)).to(group.device) for split in ("valid", "test"))
    return Evaluator(
        config=config,
        tables=tables,
        dataset=dataset,
        graph=graph,
        valid=valid,
        test=test,
        group=group,
        held=tables.held(in_training=in_training),
    )
