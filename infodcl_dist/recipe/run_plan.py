"""What a run would hold on every rank, before anything is allocated: arithmetic over its configuration and a manifest.

M users, N items, E training pairs, D width, B examples of a global batch, S samples an example, F width of a channel's
rows, W ranks.

A run that must first pre-train for its made channels has a plan of that, too: it is a run of its own, on dense tables.

Bytes are those of the rank with the most. They leave out what grows with neither the data nor the batch: the channels'
weights and the tiles of the contrastive terms.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.machine import GIB, Memory, most_of
from infodcl_dist.data.dataset import Dataset, Manifest
from infodcl_dist.data.side_information import MADE_CHANNELS
from infodcl_dist.graph.propagation_plan import (
    NUMBER_BYTES,
    PROCESS_BYTES,
    Estimate,
    Plan,
    PropagationConfig,
    Ranks,
    Workload,
    choose,
    estimates,
    memory_of_rank,
)
from infodcl_dist.inference.propagation import ranks_of, workload
from infodcl_dist.parallel.group import Group, memory_of_gpu
from infodcl_dist.parallel.ownership import Block
from infodcl_dist.parallel.table_optimizers import memory_of_tables, table_copies, training_bytes
from infodcl_dist.parallel.table_plan import planned_layouts
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.device import check_device, check_pretraining_device
from infodcl_dist.recipe.metadata import needs_pretraining

BATCHES_IN_FLIGHT = 3  # of TorchRec's pipeline: one is computed, one's ids travel, one is copied
ID_BYTES = 8
ANSWERS_OF_GLOO = 2  # its reduce-scatter sums a copy of what it is given
# Of a rank's columns of both tables while LightGCN propagates in training: layers, scaled rows, sums of neighbours,
# running sums, and gradients of two of them. Counted, not measured.
PROPAGATED_COPIES = 6
# Arrays [B/W, D] of a channel that a step keeps for its gradients, by the re-encoder of PSNet. Measured as what `bench
# epoch --max-steps 1` held at its peak beside all else that is counted here: 34 to 38 on ML-100K (40,000 and 79,926
# examples, D 64 and 128, one channel and two; 29 at D 32), 64 with a transformer. Without PSNet's parts it is less.
ARRAYS_KEPT_BY_CHANNEL = {"linear": 36, "transformer": 64}


@dataclass(frozen=True)
class TablePart:
    """One table on the rank that holds most of it."""

    name: str
    sharding: str
    rows: int
    columns: int
    weight_bytes: int
    training_bytes: int  # weights, gradient, optimizer state


@dataclass(frozen=True)
class RunPlan:
    """A run on so many ranks."""

    world_size: int
    local_world_size: int
    memory_bytes: int  # a rank may take of its host's memory
    gpu_bytes: int | None  # and of its GPU's; None: it has none
    tables: list[TablePart]
    training: dict[str, Memory]  # by what takes it
    propagation: list[Estimate]  # of the GCN pass of inference, beside the tables
    propagation_plan: Plan | None  # what the run takes; None: nothing fits
    pretraining: "RunPlan | None" = None  # for the made channels; None: there is none to be done

    @property
    def training_bytes(self) -> Memory:
        """All that training holds."""
        parts = self.training.values()
        return Memory(sum(part.host for part in parts), sum(part.gpu for part in parts))

    @property
    def fits(self) -> bool:
        """Whether training and the pass fit into memory, and those of pre-training before them."""
        return self.itself_fits and (self.pretraining is None or self.pretraining.fits)

    @property
    def itself_fits(self) -> bool:
        """Whether training and the pass fit into memory."""
        training = self.training_bytes
        training_fits = training.host <= self.memory_bytes and training.gpu <= (self.gpu_bytes or 0)
        return training_fits and any(
            estimate.fits for estimate in self.propagation if estimate.plan == self.propagation_plan
        )

    def as_values(self) -> dict[str, Any]:
        """All figures, as JSON."""
        passes = [asdict(estimate) | {"seconds": estimate.seconds} for estimate in self.propagation]
        return asdict(self) | {
            "propagation": passes,
            "pretraining": self.pretraining and self.pretraining.as_values(),
            "training_bytes": asdict(self.training_bytes),
            "fits": self.fits,
        }


def plan_run(
    config: RunConfig,
    manifest: Manifest,
    *,
    world_size: int,
    local_world_size: int,
    memory_gb: float | None,
    gpu_memory_gb: float | None = None,
) -> RunPlan:
    """The plan of a run on so many ranks, and of its pre-training unless that was done beforehand.

    Args:
        config, manifest: the run, and its dataset.
        world_size, local_world_size: ranks, and those of one host.
        memory_gb: GiB that a host gives its ranks; None: `SHARE_OF_MEMORY` of this machine's.
        gpu_memory_gb: GiB that a GPU gives its rank; None: the same share of this machine's, if it has one.

    Raises:
        UserError: the tables find no place, or do not work on such devices, or the configuration names a channel that
            the data set has not.
    """
    group = _group(world_size, local_world_size, gpu_memory_gb)
    found = _planned(config, manifest, group, memory_gb, gpu_memory_gb)
    if needs_pretraining(config, Dataset(config.data.path, manifest)):
        check_pretraining_device(config, group.device)
        pretraining = config.pretraining(config.run.path)
        return replace(found, pretraining=_planned(pretraining, manifest, group, memory_gb, gpu_memory_gb))
    return found


def _group(world_size: int, local_world_size: int, gpu_memory_gb: float | None) -> Group:
    """A rank, whose GPU need not be here."""
    if gpu_memory_gb is not None:
        return Group(0, world_size, local_world_size, torch.device("cuda"), int(gpu_memory_gb * GIB))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Group(0, world_size, local_world_size, device, memory_of_gpu(device))


def _planned(
    config: RunConfig, manifest: Manifest, group: Group, memory_gb: float | None, gpu_memory_gb: float | None
) -> RunPlan:
    """The plan of one training."""
    _check_device(config, group.device)
    layouts = planned_layouts(
        {"user": manifest.users, "item": manifest.items},
        config.model.dim,
        kernel=config.tables.kernel,
        sharding=config.tables.sharding,
        copies=table_copies(config.tables.optimizer, is_fused=config.tables.is_fused),
        group=group,
    )
    ranks = ranks_of(group, config.propagation.max_memory_gb or memory_gb)
    if gpu_memory_gb is not None:
        ranks = replace(ranks, gpu_bytes=int(gpu_memory_gb * GIB))
    of_ranks = [[layout[rank] for _, layout in layouts.values()] for rank in range(group.world_size)]
    ranks = replace(ranks, held=_tables_memory(of_ranks, config, on_gpu=ranks.gpu_bytes is not None))
    work = workload(manifest, config.model.dim, config.model.gcn_layers, config.propagation, loads_results=True)
    return RunPlan(
        world_size=group.world_size,
        local_world_size=group.local_world_size,
        memory_bytes=memory_of_rank(memory_gb, group.local_world_size),
        gpu_bytes=ranks.gpu_bytes,
        tables=[_largest(name, sharding, layout, config) for name, (sharding, layout) in layouts.items()],
        training=_training(config, manifest, work, of_ranks, ranks),
        propagation=estimates(work, ranks),
        propagation_plan=_chosen(config.propagation, work, ranks),
    )


def _check_device(config: RunConfig, device: torch.device) -> None:
    try:
        check_device(config, device)
    except UserError as problem:
        remedy = ", or give --gpu-memory-gb to plan for GPUs" if device.type == "cpu" else ""
        raise UserError(f"{problem}{remedy}") from None


def _tables_memory(of_ranks: list[list[Block]], config: RunConfig, *, on_gpu: bool) -> Memory:
    """Where tables lie while they are trained, on either side of the rank with the most there."""
    kernel, optimizer = config.tables.kernel, config.tables.optimizer
    return most_of(memory_of_tables(blocks, kernel, optimizer, on_gpu=on_gpu) for blocks in of_ranks)


def _largest(name: str, sharding: str, layout: list[Block], config: RunConfig) -> TablePart:
    block = max(layout, key=lambda held: held.rows.size * held.columns.size)
    rows, columns = block.shape
    return TablePart(name, sharding, rows, columns, rows * columns * NUMBER_BYTES, _training_bytes([block], config))


def _training_bytes(blocks: list[Block], config: RunConfig) -> int:
    return training_bytes(blocks, config.tables.optimizer, is_fused=config.tables.is_fused)


def _training(
    config: RunConfig, manifest: Manifest, work: Workload, of_ranks: list[list[Block]], ranks: Ranks
) -> dict[str, Memory]:
    """A rank's memory while it trains, by what takes it."""
    table_bytes = max(_training_bytes(blocks, config) for blocks in of_ranks)
    batch = -(-config.train.global_batch_size // ranks.world_size)
    is_fused = config.tables.is_fused
    copies = table_copies(config.tables.optimizer, is_fused=is_fused)
    looked_up = 3 + config.samples_per_example
    widths = sum(channel_width(name, config, manifest) for name in config.model.trained_channels)
    on_gpu = ranks.gpu_bytes is not None
    # Rows as they are looked up, and their gradients; ids and metadata of every batch in flight.
    answered = (1 if on_gpu else ANSWERS_OF_GLOO) * _answered(config, of_ranks)
    rows_bytes = (2 * batch * looked_up * work.width + answered) * NUMBER_BYTES
    waiting_bytes = BATCHES_IN_FLIGHT * batch * (looked_up * ID_BYTES + widths * NUMBER_BYTES)
    computed_with = {"batches": rows_bytes + waiting_bytes}
    if config.model.trained_channels:
        arrays = ARRAYS_KEPT_BY_CHANNEL[config.model.psnet.reencoder] * len(config.model.trained_channels)
        computed_with["what the channels keep for gradients"] = arrays * batch * work.width * NUMBER_BYTES
    if (views := config.views_per_example * config.train.global_batch_size) > 0:
        # Of all ranks, with their gradients: item rows, or views where these are fewer or items are sampled.
        gathered = views if config.samples_per_example > 0 else min(views, work.items)
        computed_with["gathered for contrastive terms"] = 2 * gathered * work.width * NUMBER_BYTES
    is_compared_with_all = config.views_per_example > 0 and config.samples_per_example == 0
    if not is_fused and (is_compared_with_all or config.model.training_layers > 0):
        computed_with["a gradient of whole tables, before it is added"] = table_bytes // copies
    if config.model.training_layers > 0:
        columns = -(-work.width // ranks.world_size)
        propagated = PROPAGATED_COPIES * (work.users + work.items) * columns * NUMBER_BYTES
        computed_with["propagation in training"] = propagated
    graph = Memory(gpu=work.index_bytes) if on_gpu else Memory(host=work.index_bytes // ranks.local_world_size)
    return {
        "Python and libraries": Memory(host=PROCESS_BYTES, gpu=PROCESS_BYTES if on_gpu else 0),
        "tables, gradients, optimizer state": ranks.held,
        "a checkpoint's copy, while it is written": Memory(host=table_bytes * (copies - (not is_fused)) // copies),
        "graph (all of it on a GPU)" if on_gpu else "graph (mapped, shared by a host's ranks)": graph,
    } | {name: Memory(gpu=size) if on_gpu else Memory(host=size) for name, size in computed_with.items()}


def _answered(config: RunConfig, of_ranks: list[list[Block]]) -> int:
    """Numbers that the rank with the most looks up for all ranks, and later their gradients.

    By rows it answers every example of the global batch, with zeros where the row lies elsewhere: TorchRec adds the
    answers up. A rank alone answers nobody.
    """
    columns = (user.columns.size + (2 + config.samples_per_example) * item.columns.size for user, item in of_ranks)
    return config.train.global_batch_size * max(columns) if len(of_ranks) > 1 else 0


def channel_width(channel: str, config: RunConfig, manifest: Manifest) -> int:
    """F of a channel's rows.

    Raises:
        UserError: the data set has neither a feature nor a graph of that name.
    """
    if channel in MADE_CHANNELS or channel in manifest.item_graphs:
        return config.metadata.dim
    if channel not in manifest.features:
        raise UserError(f"model.channels: {manifest.name} has no item feature or graph {channel!r}; prepare takes it")
    return manifest.features[channel].width


def _chosen(config: PropagationConfig, work: Workload, ranks: Ranks) -> Plan | None:
    try:
        return choose(config, work, ranks)
    except UserError:  # no plan fits, which is the answer
        return None
