"""How a pass is carried out, by an estimate of what each plan takes: plain arithmetic, no process and no array.

M users, N items, E pairs, D width, K layers, P ranks.

- by_dimension: each rank holds its D/P columns of every node and all edges. One all-to-all before; none between layers.
- by_row: each rank holds its rows and their edges; the blocks of the other side travel in a ring, each layer.
- out_of_core: tables are files; slices of columns, as wide as memory allows, are propagated one after another by ranks
  that never speak.

The first two work where a rank computes: in its GPU's memory, if it has one. The third works in its host's; a run loads
its results to where it computes.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field

from infodcl_dist.base.config import Config
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.machine import GIB, NOTHING_HELD, Memory, has_share_of_memory, memory_bytes
from infodcl_dist.graph.neighbour_sum import Precision

Plan = Literal["by_dimension", "by_row", "out_of_core"]
PLANS: tuple[Plan, ...] = get_args(Plan)

NUMBER_BYTES = 4  # float32
MOST_MEMORY_GB = 1_000_000  # that a host may be said to have
ROW_BYTES = {"float32": 4, "bfloat16": 2}  # a number of the rows that are gathered
# Python, torch and the other libraries, measured (resident, after imports). On a GPU: its context and the
# communicator's buffers; assumption.
PROCESS_BYTES = 600 * 2**20
SHARE_OF_MEMORY = 0.8  # of the host's, where no limit is given, and of the GPU's; assumption
# Rates, measured on a 2-core Xeon with one thread a rank: a sum over 10,000,000 edges with rows of 256 bytes out of a
# table of 2.5 GB takes 0.7 s; the disk writes 0.3 GB/s. The network's is an assumption (10 Gbit/s).
EDGE_S, GATHERED_BYTES_PER_S = 2e-8, 5e9
CUT_S = 1e-8  # an edge, for each block that it is compared with
NETWORK_BYTES_PER_S, DISK_BYTES_PER_S = 1.2e9, 3e8
# By dimension the sums are added in one order at any world size, so the results are the same to the last bit. Another
# plan is taken for speed only when it is faster than that by this factor.
WORTH_IT = 2.0
SMALLEST_TILE_BYTES, LARGEST_TILE_BYTES, TILE_SHARE = 2**20, 2**28, 16


class PropagationConfig(Config):
    """How the GCN pass of inference is carried out. Plans differ in the last bits of its results."""

    plan: Literal["auto", Plan] = Field(
        default="auto", description="who holds what; auto: by cost, see `infodcl-dist plan`"
    )
    precision: Precision = Field(
        default="float32", description="of the rows that neighbours are summed from; sums are float32"
    )
    max_memory_gb: float | None = Field(
        default=None, gt=0, le=MOST_MEMORY_GB, description="GiB a host for all its processes; null: 0.8 of its memory"
    )


@dataclass(frozen=True)
class Workload:
    """One pass."""

    users: int
    items: int
    pairs: int
    width: int
    layers: int
    precision: Precision = "float32"
    loads_results: bool = False  # whether ranks take up their rows of what a pass out of core leaves in files

    @property
    def table_bytes(self) -> int:
        """Both tables, float32."""
        return (self.users + self.items) * self.width * NUMBER_BYTES

    @property
    def index_bytes(self) -> int:
        """Both sides' indices."""
        return 2 * self.pairs * (4 if self.pairs < 2**31 else 8)

    @property
    def edges_summed(self) -> int:
        """By all ranks together, of whole rows."""
        return 2 * self.pairs * self.layers

    def loaded_bytes(self, world_size: int) -> int:
        """Of a rank's rows of both results, if they are loaded."""
        rows = -(-self.users // world_size) + -(-self.items // world_size)
        return rows * self.width * NUMBER_BYTES if self.loads_results else 0


@dataclass(frozen=True)
class Ranks:
    """Who takes part, and what each may take."""

    world_size: int
    memory_bytes: int  # a rank, of its host's memory
    local_world_size: int = 1
    gpu_bytes: int | None = None  # a rank, of its GPU's memory; None: it has none
    held: Memory = NOTHING_HELD  # what lies in both already, and stays there

    @property
    def host_left(self) -> int:
        """Bytes that a rank may still take of its host."""
        return max(0, self.memory_bytes - self.held.host)

    def can_load(self, work: Workload) -> bool:
        """Whether a rank's GPU, if it has one, takes up what is loaded there of a pass out of core."""
        loaded = work.loaded_bytes(self.world_size)
        return self.gpu_bytes is None or loaded == 0 or PROCESS_BYTES + loaded <= self.in_memory_left

    @property
    def in_memory_left(self) -> int:
        """Bytes that a rank may still take where it computes."""
        return self.host_left if self.gpu_bytes is None else max(0, self.gpu_bytes - self.held.gpu)


@dataclass(frozen=True)
class Estimate:
    """What a plan takes, of the rank with the most; seconds by the rates above, to compare plans with each other."""

    plan: Plan
    rank_bytes: int  # resident at the peak
    sent_bytes: int
    disk_bytes: int  # read and written
    edges: int  # summed
    edge_bytes: int  # gathered for one of them
    fits: bool
    start_s: float = 0.0  # before the first layer

    @property
    def seconds(self) -> float:
        """Nothing overlapped."""
        gathering = self.edges * (EDGE_S + self.edge_bytes / GATHERED_BYTES_PER_S)
        return self.start_s + gathering + self.sent_bytes / NETWORK_BYTES_PER_S + self.disk_bytes / DISK_BYTES_PER_S


@dataclass(frozen=True)
class Slicing:
    """How an out-of-core pass is cut."""

    slices: int  # of the columns, as even as they divide
    tile_bytes: int


def estimates(work: Workload, ranks: Ranks) -> list[Estimate]:
    """One for each of `PLANS`."""
    return [_by_dimension(work, ranks), _by_row(work, ranks), _out_of_core(work, ranks)]


def choose(config: PropagationConfig, work: Workload, ranks: Ranks) -> Plan:
    """The plan that is named, or of those that fit the fastest (by dimension, if it is nearly that).

    Raises:
        UserError: none fits; says what would.
    """
    if config.plan != "auto":
        return config.plan
    fitting = [estimate for estimate in estimates(work, ranks) if estimate.fits]
    if not fitting:
        raise _too_little(work, ranks) if ranks.can_load(work) else _too_large_to_load(work, ranks)
    fastest = min(fitting, key=lambda estimate: estimate.seconds)
    first = fitting[0]
    is_near = first.plan == "by_dimension" and first.seconds <= WORTH_IT * fastest.seconds
    return first.plan if is_near else fastest.plan


def memory_of_rank(max_memory_gb: float | None, local_world_size: int) -> int:
    """A rank's part of what its host may give, bytes."""
    limit = SHARE_OF_MEMORY * memory_bytes() if max_memory_gb is None else max_memory_gb * GIB
    return int(limit / local_world_size)


def left_for_files(work: Workload, ranks: Ranks) -> int:
    """What a pass out of core may take of a rank's host: there is room for results that are loaded, whatever the pass
    has given back by then."""
    return max(0, ranks.host_left - work.loaded_bytes(ranks.world_size))


def slicing(work: Workload, ranks: Ranks) -> Slicing:
    """As many columns at once as memory allows, and where all ranks can have a slice, one for each.

    Raises:
        UserError: not even one column fits, or a GPU cannot load the results.
    """
    if not ranks.can_load(work):
        raise _too_large_to_load(work, ranks)
    tile_bytes = _tile_bytes(work, ranks)
    fitting = most_columns(work, left_for_files(work, ranks), tile_bytes)
    if fitting < 1:
        raise _too_little(work, ranks)
    columns = min(fitting, -(-work.width // ranks.world_size))
    return Slicing(slices=-(-work.width // columns), tile_bytes=tile_bytes)


def most_columns(work: Workload, rank_bytes: int, tile_bytes: int) -> int:
    """Columns of an out-of-core slice that fit into a rank's memory; may be 0."""
    left = rank_bytes - PROCESS_BYTES - _out_of_core_rest(work, tile_bytes)
    return max(0, min(work.width, left // (max(work.users, work.items, 1) * ROW_BYTES[work.precision])))


def _tile_bytes(work: Workload, ranks: Ranks) -> int:
    most = min(LARGEST_TILE_BYTES, work.table_bytes)
    return max(SMALLEST_TILE_BYTES, min(most, left_for_files(work, ranks) // TILE_SHARE))


def _out_of_core_rest(work: Workload, tile_bytes: int) -> int:
    """Beside the source: two tiles' worth, and offsets while tiles are cut: as they are read, and twice as int64."""
    return 2 * tile_bytes + 20 * max(work.users, work.items)


def _by_dimension(work: Workload, ranks: Ranks) -> Estimate:
    columns = -(-work.width // ranks.world_size)
    own_bytes = (work.users + work.items) * columns * NUMBER_BYTES
    # Edges are mapped once a host; a GPU has all of them.
    edges = work.index_bytes // (ranks.local_world_size if ranks.gpu_bytes is None else 1)
    # A source and the sums made from it; between two layers the larger side's sums and the source made of them.
    copied_bytes = max(work.users, work.items) * columns * (NUMBER_BYTES + ROW_BYTES[work.precision])
    summing_bytes = max(own_bytes, copied_bytes if work.layers > 1 else 0)
    # Beside them the columns and the running sums.
    rank_bytes = PROCESS_BYTES + 2 * own_bytes + summing_bytes + edges
    # To columns, and the users' back to rows.
    there_and_back = own_bytes + work.users * columns * NUMBER_BYTES
    return Estimate(
        plan="by_dimension",
        rank_bytes=rank_bytes,
        sent_bytes=there_and_back * (ranks.world_size - 1) // ranks.world_size,
        disk_bytes=0,
        edges=work.edges_summed,
        edge_bytes=columns * ROW_BYTES[work.precision],
        fits=rank_bytes <= ranks.in_memory_left,
    )


def _by_row(work: Workload, ranks: Ranks) -> Estimate:
    world_size = ranks.world_size
    users, items = -(-work.users // world_size), -(-work.items // world_size)
    row_bytes, source_bytes = work.width * NUMBER_BYTES, work.width * ROW_BYTES[work.precision]
    # Rows, running sums, half of each in new sums; a source, and two blocks: one in use, one on its way. Edges are cut
    # by block, which copies them, and every block has offsets of its own.
    tables = int(2.5 * (users + items) * row_bytes) + 3 * max(users, items) * source_bytes
    edges = 3 * work.index_bytes // world_size + world_size * (users + items) * 4
    if ranks.gpu_bytes is not None:  # mapped, only a rank's own part is read; a GPU has all of them
        edges += work.index_bytes
    rank_bytes = PROCESS_BYTES + tables + edges
    return Estimate(
        plan="by_row",
        rank_bytes=rank_bytes,
        sent_bytes=work.layers * (world_size - 1) * (users + items) * source_bytes,
        disk_bytes=0,
        edges=-(-work.edges_summed // world_size),
        edge_bytes=source_bytes,
        fits=rank_bytes <= ranks.in_memory_left,
        start_s=2 * work.pairs * CUT_S,
    )


def _out_of_core(work: Workload, ranks: Ranks) -> Estimate:
    tile_bytes = _tile_bytes(work, ranks)
    fitting = most_columns(work, left_for_files(work, ranks), tile_bytes)
    columns = max(1, min(fitting, -(-work.width // ranks.world_size)))
    slices = -(-work.width // columns)
    of_rank = -(-slices // ranks.world_size)
    slice_bytes = (work.users + work.items) * columns * NUMBER_BYTES
    source_bytes = max(work.users, work.items) * columns * ROW_BYTES[work.precision]
    # Layer 0 is read whole, whatever the slice: for layer 1, and for the mean.
    read = 2 * work.table_bytes + 2 * max(0, work.layers - 1) * slice_bytes + work.layers * work.index_bytes
    loaded_bytes = work.loaded_bytes(ranks.world_size)
    joined = 2 * work.table_bytes // ranks.world_size if slices > 1 else 0
    return Estimate(
        plan="out_of_core",
        rank_bytes=PROCESS_BYTES + source_bytes + _out_of_core_rest(work, tile_bytes) + loaded_bytes,
        sent_bytes=0,
        disk_bytes=of_rank * (read + max(1, work.layers) * slice_bytes) + joined,
        edges=of_rank * work.edges_summed,
        edge_bytes=columns * ROW_BYTES[work.precision],
        fits=fitting >= 1 and ranks.can_load(work),
    )


def _too_large_to_load(work: Workload, ranks: Ranks) -> UserError:
    loaded = work.loaded_bytes(ranks.world_size) / GIB
    return UserError(
        f"the GPU's memory: {ranks.in_memory_left / GIB:.2f} GiB are left a process, too little for its "
        f"{loaded:.2f} GiB of propagated rows beside {PROCESS_BYTES / GIB:.2f} GiB of libraries; use more GPUs, or "
        "CUDA_VISIBLE_DEVICES= to compute on the host"
    )


def _too_little(work: Workload, ranks: Ranks) -> UserError:
    column_bytes = max(work.users, work.items) * ROW_BYTES[work.precision]
    needed = PROCESS_BYTES + column_bytes + _out_of_core_rest(work, SMALLEST_TILE_BYTES)
    loaded = work.loaded_bytes(ranks.world_size)
    needed = max(needed, int((needed - 2 * SMALLEST_TILE_BYTES) / (1 - 2 / TILE_SHARE)))
    host = -(-(needed + loaded + ranks.held.host) * ranks.local_world_size * 100 // GIB) / 100
    held = f", of which {ranks.held.host / GIB:.2f} are taken," if ranks.held.host > 0 else ""
    and_load = " and load the results" if loaded > 0 else ""
    return UserError(
        f"the limit of memory: {ranks.memory_bytes / GIB:.2f} GiB a process{held} are too little to propagate one "
        f"column{and_load}; give a host at least {host:.2f} GiB (--max-memory-gb, or propagation.max_memory_gb)"
        + (", or a sweep fewer trials at a time (max_concurrent)" if has_share_of_memory() else "")
    )
