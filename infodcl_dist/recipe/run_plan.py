"""What a run would hold on every rank, before anything is allocated: arithmetic over its configuration and a manifest.

M users, N items, E training pairs, D width, B examples of a global batch, S samples an example, F width of a channel's
rows, W ranks.

Bytes are those of the rank with the most. They leave out what grows with neither the data nor the batch: the channels'
weights and the tiles of the contrastive terms.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import Manifest
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
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import Block
from infodcl_dist.parallel.table_optimizers import table_copies, training_bytes
from infodcl_dist.parallel.table_plan import planned_layouts
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.metadata_config import MADE_CHANNELS

BATCHES_IN_FLIGHT = 3  # of TorchRec's pipeline: one is computed, one's ids travel, one is copied
ID_BYTES = 8
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
    memory_bytes: int  # a rank may take
    tables: list[TablePart]
    training: dict[str, int]  # bytes, by what takes them
    propagation: list[Estimate]  # of the GCN pass of inference, beside the tables
    propagation_plan: Plan | None  # what the run takes; None: nothing fits

    @property
    def training_bytes(self) -> int:
        """All that training holds."""
        return sum(self.training.values())

    @property
    def fits(self) -> bool:
        """Whether training and the pass fit into memory."""
        return self.training_bytes <= self.memory_bytes and any(
            estimate.fits for estimate in self.propagation if estimate.plan == self.propagation_plan
        )

    def as_values(self) -> dict[str, Any]:
        """All figures, as JSON."""
        passes = [asdict(estimate) | {"seconds": estimate.seconds} for estimate in self.propagation]
        return asdict(self) | {"propagation": passes, "training_bytes": self.training_bytes, "fits": self.fits}


def plan_run(
    config: RunConfig, manifest: Manifest, *, world_size: int, local_world_size: int, memory_gb: float | None
) -> RunPlan:
    """The plan of a run on `world_size` ranks, `local_world_size` of them on a host that gives them `memory_gb` GiB
    (None: `SHARE_OF_MEMORY` of this machine's).

    Raises:
        UserError: the tables find no place, or the configuration names a channel that the data set has not.
    """
    group = Group(0, world_size, 0, local_world_size, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    layouts = planned_layouts(
        {"user": manifest.users, "item": manifest.items},
        config.model.dim,
        kernel=config.tables.kernel,
        sharding=config.tables.sharding,
        copies=table_copies(config.tables.optimizer, is_fused=config.tables.kernel != "dense"),
        group=group,
    )
    table_bytes = max(
        _training_bytes([layout[rank] for _, layout in layouts.values()], config) for rank in range(world_size)
    )
    memory_bytes = memory_of_rank(memory_gb, local_world_size)
    limit_bytes = memory_of_rank(config.propagation.max_memory_gb or memory_gb, local_world_size)
    work = Workload(
        users=manifest.users,
        items=manifest.items,
        pairs=manifest.counts["train"],
        width=config.model.dim,
        layers=config.model.gcn_layers,
        precision=config.propagation.precision,
    )
    ranks = Ranks(world_size, max(0, limit_bytes - table_bytes), local_world_size)
    return RunPlan(
        world_size=world_size,
        local_world_size=local_world_size,
        memory_bytes=memory_bytes,
        tables=[_largest(name, sharding, layout, config) for name, (sharding, layout) in layouts.items()],
        training=_training(config, manifest, work, table_bytes, ranks),
        propagation=estimates(work, ranks),
        propagation_plan=_chosen(config.propagation, work, ranks),
    )


def _largest(name: str, sharding: str, layout: list[Block], config: RunConfig) -> TablePart:
    block = max(layout, key=lambda held: held.rows.size * held.columns.size)
    rows, columns = block.shape
    return TablePart(name, sharding, rows, columns, rows * columns * NUMBER_BYTES, _training_bytes([block], config))


def _training_bytes(blocks: list[Block], config: RunConfig) -> int:
    return training_bytes(blocks, config.tables.optimizer, is_fused=config.tables.kernel != "dense")


def _training(config: RunConfig, manifest: Manifest, work: Workload, table_bytes: int, ranks: Ranks) -> dict[str, int]:
    """Bytes of a rank while it trains, by what takes them."""
    batch = -(-config.train.global_batch_size // ranks.world_size)
    is_fused = config.tables.kernel != "dense"
    copies = table_copies(config.tables.optimizer, is_fused=is_fused)
    looked_up = 3 + config.samples_per_example
    widths = sum(channel_width(name, config, manifest) for name in config.model.trained_channels)
    # Rows as they are looked up, and their gradients; ids and metadata of every batch in flight.
    rows_bytes = 2 * batch * looked_up * work.width * NUMBER_BYTES
    waiting_bytes = BATCHES_IN_FLIGHT * batch * (looked_up * ID_BYTES + widths * NUMBER_BYTES)
    found = {
        "Python and libraries": PROCESS_BYTES,
        "tables, gradients, optimizer state": table_bytes,
        "a checkpoint's copy, while it is written": table_bytes * (copies - (not is_fused)) // copies,
        "graph (mapped, shared by a host's ranks)": work.index_bytes // ranks.local_world_size,
        "batches": rows_bytes + waiting_bytes,
    }
    if config.model.trained_channels:
        arrays = ARRAYS_KEPT_BY_CHANNEL[config.model.psnet.reencoder] * len(config.model.trained_channels)
        found["what the channels keep for gradients"] = arrays * batch * work.width * NUMBER_BYTES
    if (views := config.views_per_example * config.train.global_batch_size) > 0:
        # Of all ranks, with their gradients: item rows, or views where these are fewer or items are sampled.
        gathered = views if config.samples_per_example > 0 else min(views, work.items)
        found["gathered for contrastive terms"] = 2 * gathered * work.width * NUMBER_BYTES
    if config.model.training_layers > 0:
        columns = -(-work.width // ranks.world_size)
        found["propagation in training"] = PROPAGATED_COPIES * (work.users + work.items) * columns * NUMBER_BYTES
    return found


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
