"""The user and item embedding tables, sharded over ranks by TorchRec.

M users, N items, D width, B rows of this rank's batch, n_r rows of a table that rank r holds.

Ids are looked up as bags of one through an EmbeddingBagCollection with the `dense` kernel, whose local shard is an
ordinary autograd parameter. (An EmbeddingCollection with that kernel does not run on CPU in these versions.) TorchRec
divides the gradients it brings back by the world size, so they are the mean over ranks, as DeepSpeed's are.
"""

import math
from typing import Literal, NamedTuple

import torch
import torchrec
from pydantic import Field
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan

from infodcl_dist.base.config import Config
from infodcl_dist.base.random import key_for, normal, uniform
from infodcl_dist.base.shapes import check_shape
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import Span, row_span

# Table names; "items" would collide with a method of the ModuleDict that TorchRec keeps its tables in.
TABLES = ("user", "item")
FEATURES = ("user", "positive", "negative")
INITIALIZATION_CHUNK_ROWS = 65_536


class TablesConfig(Config):
    """How the embedding tables are held and optimized."""

    kernel: Literal["dense"] = Field(
        default="dense",
        description="TorchRec compute kernel; dense: every row is an autograd parameter",
    )
    sharding: Literal["row_wise"] = Field(default="row_wise", description="sharding type; row_wise: blocks of rows")
    optimizer: Literal["adam"] = Field(default="adam", description="optimizer of the tables")
    initialization: Literal["xavier", "normal"] = Field(
        default="xavier", description="xavier (uniform; paper) or normal (release)"
    )
    initialization_std: float = Field(default=0.1, gt=0, description="standard deviation when initialization is normal")


class Lookup(NamedTuple):
    """Table rows of a batch, each [B, D]."""

    users: Tensor
    positives: Tensor
    negatives: Tensor


class Tables:
    """Row-wise sharded user and item tables.

    Attributes:
        module: TorchRec's distributed module.
        user_rows, item_rows: this rank's shard of each table, [n_r, D]; autograd parameters.
        user_span, item_span: which global rows they are.
    """

    def __init__(self, *, users: int, items: int, dim: int, config: TablesConfig, seed: int, group: Group) -> None:
        self.sizes = {"user": users, "item": items}
        self.dim = dim
        self.module = _shard(self.sizes, dim, group)
        shards = dict(self.module.named_parameters())
        self.user_rows, self.item_rows = (shards[f"tables.embedding_bags.{name}.weight"] for name in TABLES)
        self.user_span = row_span(users, group.rank, group.world_size)
        self.item_span = row_span(items, group.rank, group.world_size)
        self._check_sharded(group)
        for name, rows, span in zip(TABLES, self.parameters(), (self.user_span, self.item_span), strict=True):
            _initialize(rows, span, self.sizes[name], config, key_for(seed, "table", name))

    def parameters(self) -> list[nn.Parameter]:
        """The local shards, in the order of `TABLES`."""
        return [self.user_rows, self.item_rows]

    def lookup(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Lookup:
        """Rows of int64 ids, each [B] with B ≥ 1 on every rank: ids travel to the rows' owners, rows travel back."""
        check_shape("positives", positives, users.shape[0])
        check_shape("negatives", negatives, users.shape[0])
        ids = torchrec.KeyedJaggedTensor.from_lengths_sync(
            keys=list(FEATURES),
            values=torch.cat([users, positives, negatives]),
            lengths=torch.ones(len(FEATURES) * users.shape[0], dtype=torch.int64, device=users.device),
        )
        pooled = self.module(ids).to_dict()
        return Lookup(*(pooled[feature] for feature in FEATURES))

    def __str__(self) -> str:
        """Which part of each table is here."""
        parts = zip(self.sizes, self.parameters(), strict=True)
        return "rows on this rank: " + ", ".join(
            f"{name} {rows.shape[0]:,} of {self.sizes[name]:,}" for name, rows in parts
        )

    def _check_sharded(self, group: Group) -> None:
        for name, rows, span in zip(TABLES, self.parameters(), (self.user_span, self.item_span), strict=True):
            if tuple(rows.shape) != (span.size, self.dim):
                raise RuntimeError(f"table {name}: shard {tuple(rows.shape)}, planned {(span.size, self.dim)}")
            if group.world_size > 1 and rows.shape[0] >= self.sizes[name]:
                raise RuntimeError(f"table {name} is not sharded: {rows.shape[0]} of {self.sizes[name]} rows here")


class _Lookup(nn.Module):
    """A module around the collection, since TorchRec replaces children and not the root."""

    def __init__(self, tables: torchrec.EmbeddingBagCollection) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, ids: torchrec.KeyedJaggedTensor) -> torchrec.KeyedTensor:
        return self.tables(ids)


def _shard(sizes: dict[str, int], dim: int, group: Group) -> DistributedModelParallel:
    features = {"user": ["user"], "item": ["positive", "negative"]}
    collection = torchrec.EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            torchrec.EmbeddingBagConfig(
                name=name,
                num_embeddings=sizes[name],
                embedding_dim=dim,
                feature_names=features[name],
                pooling=torchrec.PoolingType.SUM,
            )
            for name in TABLES
        ],
    )
    sharder = EmbeddingBagCollectionSharder()
    plan = construct_module_sharding_plan(
        collection,
        # Without an explicit kernel TorchRec would choose one by how the optimizer was attached.
        per_param_sharding={name: row_wise(compute_kernel=EmbeddingComputeKernel.DENSE.value) for name in TABLES},
        sharder=sharder,
        world_size=group.world_size,
        local_size=group.local_world_size,
        device_type=group.device.type,
    )
    return DistributedModelParallel(
        _Lookup(collection),
        env=ShardingEnv.from_process_group(torch.distributed.group.WORLD),
        device=group.device,
        plan=ShardingPlan({"tables": plan}),
        sharders=[sharder],
        init_data_parallel=False,
    )


def _initialize(rows: Tensor, span: Span, table_rows: int, config: TablesConfig, key: int) -> None:
    """Fills a shard; a row's values depend on its global number alone. Xavier's fans are the whole table's sizes."""
    dim = rows.shape[1]
    bound = math.sqrt(6.0 / (table_rows + dim))
    with torch.no_grad():
        for start in range(0, span.size, INITIALIZATION_CHUNK_ROWS):
            stop = min(start + INITIALIZATION_CHUNK_ROWS, span.size)
            numbers = torch.arange(span.start + start, span.start + stop, device=rows.device)
            if config.initialization == "normal":
                values = config.initialization_std * normal(key, numbers, dim)
            else:
                counters = numbers[:, None] * dim + torch.arange(dim, device=rows.device)
                values = (bound * (2 * uniform(key, counters) - 1)).float()
            rows[start:stop] = values
