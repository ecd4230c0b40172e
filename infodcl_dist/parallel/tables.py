"""The user and item embedding tables, sharded over ranks by TorchRec.

M users, N items, D width, B rows of this rank's batch, S samples of an example, n_r × d_r the block of a table that
rank r holds.

Lookups go through TorchRec, which divides the gradients it brings back by the world size, so that they are the mean
over ranks, as DeepSpeed's are. Whoever needs whole rows or columns instead (the catalogue softmax, propagation) asks
for `rows` or `columns`: one all-to-all brings them from any sharding.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
import torchrec
from pydantic import Field
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor, ShardedTensorMetadata
from torch.distributed._shard.sharding_spec import ShardMetadata
from torchrec.distributed.composable.table_batched_embedding_slice import TableBatchedEmbeddingSlice

from infodcl_dist.base.config import Config
from infodcl_dist.base.machine import Memory
from infodcl_dist.base.random import key_for, normal, uniform
from infodcl_dist.base.shapes import check_shape
from infodcl_dist.parallel.collectives import redistribute
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import NOTHING, Block, Layout, column_layout, row_layout
from infodcl_dist.parallel.table_optimizers import (
    STATES,
    OptimizerName,
    dense_optimizer,
    fused_optimizer,
    fused_params,
    fused_state,
    memory_of_tables,
    set_learning_rate,
    table_copies,
)
from infodcl_dist.parallel.table_plan import Kernel, Sharding, fused_kernels, layout_of, rank_of, shard_tables

# Table names; "items" would collide with a method of the ModuleDict that TorchRec keeps its tables in.
TABLES = ("user", "item")
FEATURES = ("user", "positive", "negative")
INITIALIZATION_CHUNK_ROWS = 65_536


class TablesConfig(Config):
    """How the embedding tables are held and optimized."""

    kernel: Kernel = Field(
        default="dense",
        description="TorchRec compute kernel; dense: every row is an autograd parameter; fused: the optimizer runs in "
        "the backward pass, on looked-up rows; fused_uvm_caching: fused, rows in host memory and cached on the GPU",
    )
    sharding: Sharding = Field(
        default="row_wise",
        description="row_wise: blocks of rows; table_wise: a table a rank; column_wise: blocks of columns; auto: "
        "TorchRec's planner chooses row_wise or table_wise. The catalogue softmax works on rows: with another sharding "
        "the item table travels through an all-to-all twice a step",
    )
    optimizer: OptimizerName = Field(
        default="adam",
        description="optimizer of the tables; a fused adam (CUDA only) is lazy: it moves looked-up rows alone, so it "
        "is another algorithm than the dense one. The others are the same in every kernel",
    )
    initialization: Literal["xavier", "normal"] = Field(
        default="xavier", description="xavier (uniform; paper) or normal (release)"
    )
    initialization_std: float = Field(default=0.1, gt=0, description="standard deviation when initialization is normal")

    @property
    def is_fused(self) -> bool:
        """Whether the optimizer runs in the backward pass."""
        return self.kernel != "dense"


class Lookup(NamedTuple):
    """Table rows of a batch, each [B, D]."""

    users: Tensor
    positives: Tensor
    negatives: Tensor
    samples: Tensor | None = None  # [B, S, D]


class Tables:
    """Sharded user and item tables.

    Attributes:
        module: TorchRec's distributed module.
        user_rows, item_rows: this rank's shard of each table, [n_r, d_r]; whole rows when sharded by rows. Autograd
            parameters; with a fused kernel no gradient ever reaches them.
        layouts: by table, which block each rank holds.
        shardings: by table, the sharding it has.
    """

    def __init__(
        self,
        *,
        users: int,
        items: int,
        dim: int,
        config: TablesConfig,
        seed: int,
        group: Group,
        samples_per_example: int = 0,
    ) -> None:
        self.sizes = {"user": users, "item": items}
        self.dim, self.config, self.samples_per_example = dim, config, samples_per_example
        self.is_fused = config.is_fused
        self._rank, self._world_size, self._device = group.rank, group.world_size, group.device
        self._features = [*FEATURES, *(f"sample {number}" for number in range(samples_per_example))]
        self.module, self.shardings = shard_tables(
            self.sizes,
            {"user": self._features[:1], "item": self._features[1:]},
            dim,
            kernel=config.kernel,
            sharding=config.sharding,
            fused_params=fused_params(config.optimizer) if self.is_fused else None,
            copies=table_copies(config.optimizer, is_fused=self.is_fused),
            group=group,
        )
        self.layouts = {
            name: layout_of(weight.metadata().shards_metadata, group.world_size)
            for name, weight in self.sharded_weights().items()
        }
        held = dict(self.module.named_parameters())
        self.user_rows, self.item_rows = (self._shard(name, held[_weight(name)]) for name in TABLES)
        self._check_sharded()
        for name, shard in zip(TABLES, self.parameters(), strict=True):
            _initialize(shard, self._block(name), (self.sizes[name], dim), config, key_for(seed, "table", name))

    def parameters(self) -> list[nn.Parameter]:
        """The local shards, in the order of `TABLES`; of a table that does not lie here, one without elements."""
        return [self.user_rows, self.item_rows]

    def held(self, *, in_training: bool) -> Memory:
        """What this rank's shards take where they lie: their weights, and in training what moves them."""
        optimizer = self.config.optimizer if in_training else None
        return memory_of_tables(self.own_blocks(), self.config.kernel, optimizer, on_gpu=self._device.type == "cuda")

    def own_blocks(self) -> list[Block]:
        """Which part of each table the local shard is, in the order of `TABLES`."""
        return [self._block(name) for name in TABLES]

    def ids(
        self, users: Tensor, positives: Tensor, negatives: Tensor, samples: Tensor | None = None
    ) -> torchrec.KeyedJaggedTensor:
        """What `module` is asked: int64 ids, each [B] with B ≥ 1 on every rank, and `samples` [B, S] when the tables
        have samples. Every table's bags hold one id."""
        check_shape("positives", positives, users.shape[0])
        check_shape("negatives", negatives, users.shape[0])
        columns: list[Tensor] = []
        if (samples is None) != (self.samples_per_example == 0):
            given = "no" if samples is None else "some"
            raise ValueError(f"{given} samples are given to tables that look {self.samples_per_example} an example up")
        if samples is not None:
            check_shape("samples", samples, users.shape[0], self.samples_per_example)
            columns = list(samples.unbind(dim=1))
        values = torch.cat([users, positives, negatives, *columns])
        return torchrec.KeyedJaggedTensor.from_lengths_sync(
            keys=self._features, values=values, lengths=torch.ones_like(values)
        )

    def rows_of(self, pooled: torchrec.KeyedTensor) -> Lookup:
        """The rows in the answer of `module`, by what asked for them."""
        by_feature = pooled.to_dict()
        found = [by_feature[feature] for feature in self._features]
        sampled = torch.stack(found[len(FEATURES) :], dim=1) if self.samples_per_example > 0 else None
        return Lookup(found[0], found[1], found[2], sampled)

    def lookup(self, users: Tensor, positives: Tensor, negatives: Tensor, samples: Tensor | None = None) -> Lookup:
        """Rows of ids, see `ids`: ids travel to the rows' owners, rows travel back."""
        return self.rows_of(self.module(self.ids(users, positives, negatives, samples)))

    def rows(self, name: str) -> Tensor:
        """This rank's whole rows [n_r, D], those of `row_span`: the shard itself when sharded by rows, else by one
        all-to-all. Differentiable with the dense kernel; with a fused one only to be read, under `no_grad`."""
        return self._redistributed(name, row_layout(self.sizes[name], self.dim, self._world_size))

    def columns(self, name: str) -> Tensor:
        """This rank's whole columns [N, d_r], those of `column_span`, by one all-to-all; else as `rows`."""
        return self._redistributed(name, column_layout(self.sizes[name], self.dim, self._world_size))

    def make_optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """The optimizer that the configuration names. Of a fused kernel it is a view of what the kernel does anyway."""
        if self.is_fused:
            return fused_optimizer(self.module, learning_rate)
        return dense_optimizer(self.config.optimizer, self.parameters(), learning_rate)

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
        """Of the steps to come, of the optimizer that `make_optimizer` gave."""
        set_learning_rate(optimizer, learning_rate)
        if self.is_fused:
            optimizer.step()  # tells the kernels, which update inside the backward pass

    def sharded_weights(self) -> dict[str, ShardedTensor]:
        """The tables as they are saved: by table a ShardedTensor around the local shard."""
        state = self.module.state_dict()  # this also flushes a fused kernel's cache
        return {name: state[_weight(name)] for name in TABLES}

    def sharded_state(self, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, ShardedTensor]]:
        """What the optimizer keeps, by table and kind, sharded as the table is; changing it changes the optimizer.

        Of row-wise Adagrad [N, 1], of the others [N, D].
        """
        weights = self.sharded_weights()
        return {
            name: {kind: self._like(weights[name], self._kept(optimizer, name).get(kind)) for kind in self._kinds()}
            for name in TABLES
        }

    def load_weights(self, state: dict[str, Any]) -> None:
        """Takes the values of a `module.state_dict()`; a fused kernel's cached rows are forgotten."""
        self.module.load_state_dict(state)
        for kernel in fused_kernels(self.module):
            kernel.reset_cache_states()

    def set_steps_done(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Sets the optimizer's step count, after its other state was filled from a checkpoint."""
        for kernel in fused_kernels(self.module):
            kernel.set_optimizer_step(steps)
        for state in () if self.is_fused else optimizer.state.values():
            if "step" in state:  # SGD counts none
                state["step"].fill_(steps)

    def __str__(self) -> str:
        """Which part of each table is here, and by which plan."""
        parts = zip(self.sizes, self.parameters(), strict=True)
        return "rows on this rank: " + ", ".join(
            f"{name} {shard.shape[0]:,} of {self.sizes[name]:,}"
            + ("" if shard.shape[1] in {0, self.dim} else f", {shard.shape[1]} of {self.dim} columns")
            + f" ({self.shardings[name]}, {self.config.kernel})"
            for name, shard in parts
        )

    def _block(self, name: str) -> Block:
        return self.layouts[name][self._rank]

    def _redistributed(self, name: str, target: Layout) -> Tensor:
        if self.is_fused and torch.is_grad_enabled():
            raise RuntimeError(f"rows of the {name} table were asked for with a gradient, which a fused kernel has not")
        for kernel in fused_kernels(self.module):
            kernel.flush()
        return redistribute(self._weight_rows(name), self.layouts[name], target)

    def _weight_rows(self, name: str) -> Tensor:
        """The shard's rows, from a dense kernel as part of the one parameter that its lookup has for all tables.

        TorchRec's own slice of that keeps what reaches it in a gradient that nobody sees and `zero_grad` never clears:
        another copy of the table, to which each backward pass adds.
        """
        shard: Tensor = self.user_rows if name == "user" else self.item_rows
        if not isinstance(shard, TableBatchedEmbeddingSlice) or self.is_fused:
            return shard
        return shard._original_tensor[shard._start_offset : shard._end_offset].view(shard.shape)

    def _shard(self, name: str, held: nn.Parameter) -> nn.Parameter:
        """The parameter, or where TorchRec has a placeholder for a table that lies elsewhere one of shape [0, 0]."""
        if self._block(name) == NOTHING:
            # TorchRec's lies on the CPU, whatever the rest does.
            return nn.Parameter(torch.empty(0, 0, device=self._device))
        return held

    def _kinds(self) -> tuple[str, ...]:
        return STATES[self.config.optimizer]

    def _kept(self, optimizer: Any, name: str) -> dict[str, Tensor]:
        if self.is_fused:
            return fused_state(optimizer, _weight(name), self.config.optimizer)
        return optimizer.state[self.user_rows if name == "user" else self.item_rows]

    def _like(self, table: ShardedTensor, kept: Tensor | None) -> ShardedTensor:
        """A ShardedTensor laid out as the table, or as its first column when one number a row is kept."""
        narrow = self.config.optimizer == "rowwise_adagrad"
        found = table.metadata()
        shards = [
            ShardMetadata(part.shard_offsets, [part.shard_sizes[0], 1] if narrow else part.shard_sizes, part.placement)
            for part in found.shards_metadata
        ]
        size = torch.Size([found.size[0], 1 if narrow else found.size[1]])
        local = [] if kept is None else [part for part in shards if rank_of(part) == self._rank]
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            [Shard(kept.view(part.shard_sizes), part) for part in local if kept is not None],
            ShardedTensorMetadata(shards, size, found.tensor_properties),
        )

    def _check_sharded(self) -> None:
        for name, shard in zip(TABLES, self.parameters(), strict=True):
            if tuple(shard.shape) != self._block(name).shape:
                raise RuntimeError(f"table {name}: shard {tuple(shard.shape)}, planned {self._block(name).shape}")
        here, whole = sum(shard.numel() for shard in self.parameters()), sum(self.sizes.values()) * self.dim
        if self._world_size > 1 and here >= whole:
            raise RuntimeError(f"the tables are not sharded: {here} of {whole} elements here")


def _weight(name: str) -> str:
    return f"tables.embedding_bags.{name}.weight"


def _initialize(shard: Tensor, block: Block, whole: tuple[int, int], config: TablesConfig, key: int) -> None:
    """Fills a shard; a row's values depend on its global number alone. Xavier's fans are the whole table's sizes."""
    span, dim = block.rows, whole[1]
    bound = math.sqrt(6.0 / sum(whole))
    with torch.no_grad():
        for start in range(0, span.size, INITIALIZATION_CHUNK_ROWS):
            stop = min(start + INITIALIZATION_CHUNK_ROWS, span.size)
            numbers = torch.arange(span.start + start, span.start + stop, device=shard.device)
            if config.initialization == "normal":
                values = config.initialization_std * normal(key, numbers, dim)
            else:
                counters = numbers[:, None] * dim + torch.arange(dim, device=shard.device)
                values = (bound * (2 * uniform(key, counters) - 1)).float()
            shard[start:stop] = values[:, block.columns.start : block.columns.stop]
