"""TorchRec's side of the tables: the collection, where each table's shards go, and the kernel that holds them.

Ids are looked up as bags of one through an EmbeddingBagCollection. (An EmbeddingCollection with the `dense` kernel does
not run on CPU in these versions.) A `dense` kernel's local shard is an ordinary autograd parameter; a fused kernel's is
updated inside TorchRec's backward pass and never gets a gradient that anyone sees.
"""

from typing import Any, Literal

import torch
import torchrec
from torch import nn
from torch.distributed._shard.sharding_spec import ShardMetadata
from torch.distributed.remote_device import _remote_device
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.batched_embedding_kernel import BatchedDenseEmbeddingBag, BatchedFusedEmbeddingBag
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.sharding_plan import column_wise, construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.machine import memory_bytes
from infodcl_dist.parallel.collectives import gather_objects
from infodcl_dist.parallel.folders import on_rank_zero
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import NOTHING, Block, Layout, Span

Kernel = Literal["dense", "fused", "fused_uvm_caching"]
Sharding = Literal["row_wise", "table_wise", "column_wise", "auto"]

# FBGEMM's vectors: the width of a column shard, and of any table in a fused kernel, is a multiple of this.
VECTOR = 4
# What the planner may choose between. By columns it would put several shards of one table on a rank.
AUTO = ("row_wise", "table_wise")
# Share of memory left to everything else when the planner chooses; TorchRec's own default.
RESERVED = 0.15


def shard_tables(
    sizes: dict[str, int],
    features: dict[str, list[str]],
    dim: int,
    *,
    kernel: Kernel,
    sharding: Sharding,
    fused_params: dict[str, Any] | None,
    copies: int,
    group: Group,
) -> tuple[DistributedModelParallel, dict[str, str]]:
    """The sharded tables, and by table which sharding it has.

    Args:
        sizes: rows by table.
        features: what each table is looked up by.
        dim: width D.
        kernel, sharding: see `TablesConfig`.
        fused_params: FBGEMM's optimizer of a fused kernel; None for the dense kernel.
        copies: arrays of a table's size that training holds: weights, gradient, what the optimizer keeps.
        group: this process's place.

    Raises:
        UserError: the planner finds no place for the tables.
    """
    module = _Lookup(_collection(sizes, features, dim))
    sharder = EmbeddingBagCollectionSharder(fused_params=fused_params)
    if sharding == "auto":
        plan = on_rank_zero(lambda: _planned(module, sharder, kernel, copies, group))
    else:
        plan = _named(module.tables, sharder, kernel, sharding, group)
    _place(plan, gather_objects(str(group.device)))
    taken = {name: str(placed.sharding_type) for name, placed in plan.plan["tables"].items()}
    kernels = {name: placed.compute_kernel for name, placed in plan.plan["tables"].items()}
    if set(kernels.values()) != {kernel}:
        raise RuntimeError(f"TorchRec planned the kernels {kernels}, not {kernel}")
    sharded = DistributedModelParallel(
        module,
        env=ShardingEnv.from_process_group(torch.distributed.group.WORLD),
        device=group.device,
        plan=plan,
        sharders=[sharder],
        init_data_parallel=False,
    )
    _check_kernels(sharded, kernel)
    return sharded, taken


def planned_layouts(
    sizes: dict[str, int], dim: int, *, kernel: Kernel, sharding: Sharding, copies: int, group: Group
) -> dict[str, tuple[str, Layout]]:
    """By table the sharding it would have in such a group, and every rank's block. Nothing is allocated.

    Raises:
        UserError: the planner finds no place for the tables.
    """
    module = _Lookup(_collection(sizes, {name: [name] for name in sizes}, dim))
    sharder = EmbeddingBagCollectionSharder()
    if sharding == "auto":
        plan = _planned(module, sharder, kernel, copies, group)
    else:
        plan = _named(module.tables, sharder, kernel, sharding, group)
    return {
        name: (str(placed.sharding_type), layout_of(placed.sharding_spec.shards, group.world_size))
        for name, placed in plan.plan["tables"].items()
    }


def layout_of(shards: list[ShardMetadata], world_size: int) -> Layout:
    """Every rank's block of a table, by TorchRec's own account of where its shards lie.

    Raises:
        RuntimeError: a shard lies nowhere, or two on one rank, which no sharding of ours makes.
    """
    layout = [NOTHING] * world_size
    for shard in shards:
        (row, column), (rows, columns) = shard.shard_offsets, shard.shard_sizes
        rank = rank_of(shard)
        if layout[rank] != NOTHING:
            raise RuntimeError(f"rank {rank} holds two shards of one table")
        layout[rank] = Block(Span(row, row + rows), Span(column, column + columns))
    return layout


def rank_of(shard: ShardMetadata) -> int:
    """On which rank a shard lies.

    Raises:
        RuntimeError: on none.
    """
    if shard.placement is None or (rank := shard.placement.rank()) is None:
        raise RuntimeError(f"{shard} lies on no rank")
    return int(rank)


def fused_kernels(module: nn.Module) -> list[Any]:
    """FBGEMM's fused kernels on this rank; none for the dense kernel, or where no table lies."""
    return [part.emb_module for part in module.modules() if isinstance(part, BatchedFusedEmbeddingBag)]


class _Lookup(nn.Module):
    """A module around the collection, since TorchRec replaces children and not the root."""

    def __init__(self, tables: torchrec.EmbeddingBagCollection) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, ids: torchrec.KeyedJaggedTensor) -> torchrec.KeyedTensor:
        return self.tables(ids)


def _collection(sizes: dict[str, int], features: dict[str, list[str]], dim: int) -> torchrec.EmbeddingBagCollection:
    return torchrec.EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            torchrec.EmbeddingBagConfig(
                name=name,
                num_embeddings=rows,
                embedding_dim=dim,
                feature_names=features[name],
                pooling=torchrec.PoolingType.SUM,
            )
            for name, rows in sizes.items()
        ],
    )


def _named(
    tables: torchrec.EmbeddingBagCollection,
    sharder: EmbeddingBagCollectionSharder,
    kernel: Kernel,
    sharding: Sharding,
    group: Group,
) -> ShardingPlan:
    """The plan of one named sharding for every table."""
    configs = tables.embedding_bag_configs()
    shards = column_shards(configs[0].embedding_dim, group.world_size)
    generators = {
        "row_wise": lambda number: row_wise(compute_kernel=kernel),
        "table_wise": lambda number: table_wise(rank=number % group.world_size, compute_kernel=kernel),
        "column_wise": lambda number: column_wise(ranks=list(range(shards)), compute_kernel=kernel),
    }
    of_tables = construct_module_sharding_plan(
        tables,
        # Without an explicit kernel TorchRec would choose one by how the optimizer was attached.
        per_param_sharding={table.name: generators[sharding](number) for number, table in enumerate(configs)},
        sharder=sharder,
        world_size=group.world_size,
        local_size=group.local_world_size,
        device_type=group.device.type,
    )
    return ShardingPlan({"tables": of_tables})


def _place(plan: ShardingPlan, devices: list[str]) -> None:
    """Puts each shard on the device that its rank has.

    TorchRec takes rank r's to be GPU r modulo the GPUs of a host; where hosts have unequal numbers of ranks, as 3 and
    2, it is not, and building the tables would fail.
    """
    for placed in plan.plan["tables"].values():
        for part in placed.sharding_spec.shards:
            rank = rank_of(part)
            part.placement = _remote_device(f"rank:{rank}/{devices[rank]}")


def column_shards(dim: int, world_size: int) -> int:
    """How many equal shards of whole vectors a table of width `dim` is cut into: at least one, at most one a rank."""
    return max((count for count in range(2, world_size + 1) if dim % (count * VECTOR) == 0), default=1)


def _planned(
    module: _Lookup, sharder: EmbeddingBagCollectionSharder, kernel: Kernel, copies: int, group: Group
) -> ShardingPlan:
    """What TorchRec's planner finds best on this hardware.

    It counts the weights' memory alone, so it is offered what the gradient and the optimizer leave. And it refuses to
    plan a dense kernel for tables that are not replicated, so such tables are planned as fused ones.
    """
    planned_as = EmbeddingComputeKernel.FUSED.value if kernel == "dense" else kernel
    constraint = ParameterConstraints(sharding_types=list(AUTO), compute_kernels=[planned_as])
    planner = EmbeddingShardingPlanner(
        topology=_topology(copies, group),
        constraints={table.name: constraint for table in module.tables.embedding_bag_configs()},
        storage_reservation=FixedPercentageStorageReservation(RESERVED),
    )
    plan = _plan_or_refusal(planner, module, sharder)
    for placed in plan.plan["tables"].values():
        placed.compute_kernel = kernel
    return plan


def _plan_or_refusal(
    planner: EmbeddingShardingPlanner, module: _Lookup, sharder: EmbeddingBagCollectionSharder
) -> ShardingPlan:
    try:
        return planner.plan(module, [sharder])
    except PlannerError as error:
        first = str(error).strip().splitlines()[0].strip()
        raise UserError(f"tables.sharding: auto finds no plan ({first}); use more ranks, or a smaller dim") from error


def _topology(copies: int, group: Group) -> Topology:
    """The hardware of a rank, as if every rank's were this one's."""
    return Topology(
        world_size=group.world_size,
        local_world_size=group.local_world_size,
        compute_device=group.device.type,
        hbm_cap=(group.gpu_bytes or 0) // copies,
        ddr_cap=memory_bytes() // group.local_world_size // copies,
    )


def _check_kernels(sharded: nn.Module, kernel: Kernel) -> None:
    """What was built, not what was planned: a dense kernel would pass a fused optimizer over in silence."""
    unwanted = BatchedFusedEmbeddingBag if kernel == "dense" else BatchedDenseEmbeddingBag
    found = [type(part).__name__ for part in sharded.modules() if isinstance(part, unwanted)]
    if found:
        raise RuntimeError(f"TorchRec built {found[0]} for tables.kernel={kernel}")
