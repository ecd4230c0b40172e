"""What a training step costs, by arithmetic alone: operations, bytes moved, messages; and from a machine's rates, time.

M users, N items, D width, F metadata width, T diffusion steps, B examples of the global batch, b of a rank, C channels,
K propagation layers in training, W ranks. Costs are those of the rank that has most. Forward and backward together: a
product y = x w costs its own arithmetic three times, unless one of its inputs needs no gradient.
"""

import math
from dataclasses import dataclass, field, replace

NUMBER, INDEX = 4, 8  # bytes of a float32 and of an int64
# Reads and writes of arrays [b, D] besides the products, of a channel, forward and backward: estimates from reading the
# code, not counted; likewise of noise and of lookups.
ARRAYS_OF_CHANNEL, ARRAYS_OF_NOISE = 110, 60
ARRAYS_OF_LOOKUP = 18  # [b, D]: three lookups, their losses, and back
ARRAYS_OF_ANSWER = 4  # answers to other ranks, written and summed; their gradients, written and read
# Reads and writes of arrays [M + N, D/W] besides the sums of neighbours, of a layer one way, as `graph.propagation` has
# them: rows scaled, their sums written and scaled, the running sums.
ARRAYS_OF_LAYER = 8
ADAM_ARRAYS = 7  # read weight, gradient, two moments; write weight and moments
GRAM_FACTOR = 2  # a float64 product takes the time of two float32 products
EIGEN_FLOPS = 25  # × D³: eigenvectors of a symmetric matrix (Golub and Van Loan, 8.3), and its gradient's products


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """The sizes that the cost depends on."""

    users: int
    items: int
    pairs: int  # training pairs, for the epoch
    global_batch: int
    dim: int = 64
    metadata_dims: tuple[int, ...] = (64, 64)  # F by channel; empty for a model without channels
    timesteps: int = 200
    world_size: int = 1
    is_fused: bool = False  # tables' kernel: the optimizer moves the batch's rows alone
    answered_share: float = 1.0  # of a row's columns, what a rank looks up for all ranks; less where columns are cut
    samples_per_example: int = 0  # of a sampled contrastive denominator; 0: all N items
    views_per_example: int = 2  # compared with the catalogue: one a channel, and the user's row
    training_layers: int = 0  # K

    @property
    def batch(self) -> int:
        """b."""
        return math.ceil(self.global_batch / self.world_size)

    @property
    def steps(self) -> int:
        """Global batches an epoch."""
        return math.ceil(self.pairs / self.global_batch)


@dataclass(frozen=True)
class Cost:
    """Of one part of a step, on one rank."""

    flops: float = 0
    bytes: float = 0
    messages: int = 0  # collectives that the step waits for
    message_bytes: float = 0  # that leave this rank in them


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a machine does at best and what a step pays besides."""

    flops_per_s: float
    bytes_per_s: float
    network_bytes_per_s: float = math.inf  # that leave a rank
    message_s: float = 0.0  # of an empty collective
    step_s: float = 0.0  # of Python, TorchRec, DeepSpeed and kernel launches, that no size changes
    efficiency: float = 1.0  # of the products of a step, which are narrow, against the square one of `flops_per_s`


# Assumptions, not measurements: an H100 SXM by its data sheet (67 TFLOP/s fp32, 3.35 TB/s, of which three quarters are
# taken to be reached), eight of them by NVLink (450 GB/s one way, half taken), hosts by one 400 Gb/s adapter a GPU
# (half taken), NCCL's usual latencies, and 10 ms of launches and Python a step, as on a CPU.
GPU_NODE = Rates(
    flops_per_s=5e13, bytes_per_s=2.5e12, network_bytes_per_s=2.2e11, message_s=2e-5, step_s=0.01, efficiency=0.5
)
GPU_CLUSTER = replace(GPU_NODE, network_bytes_per_s=2.5e10, message_s=6e-5)
GPUS_OF_NODE = 8


def gpu_rates(world_size: int) -> Rates:
    """Rates assumed for so many GPUs, eight a host."""
    return GPU_NODE if world_size <= GPUS_OF_NODE else GPU_CLUSTER


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step by part, and what follows."""

    seconds: dict[str, float] = field(default_factory=dict)
    communication_s: float = 0.0
    steps: int = 0

    @property
    def step_s(self) -> float:
        """Of a whole step."""
        return sum(self.seconds.values())

    @property
    def epoch_s(self) -> float:
        """Of an epoch without evaluation."""
        return self.steps * self.step_s

    @property
    def communication_share(self) -> float:
        """Of a step's time."""
        return self.communication_s / self.step_s


def step_costs(shape: StepShape) -> dict[str, Cost]:
    """Cost by part."""
    costs = {"data": _data(shape), "tables": _tables(shape), "optimizer": _optimizer(shape)}
    if shape.metadata_dims:
        costs["channels"] = _channels(shape)
    if shape.views_per_example:
        costs["contrastive"] = _contrastive(shape)
    if shape.training_layers:
        costs["propagation"] = _propagation(shape)
    return costs


def sums_of_neighbours(shape: StepShape, layers: int) -> Cost:
    """Some layers of this rank's columns of all nodes: an edge counts both ways, its row and its index are read."""
    columns, edges = math.ceil(shape.dim / shape.world_size), 2 * shape.pairs
    return Cost(flops=layers * edges * columns, bytes=layers * edges * (columns + 1) * NUMBER)


def predict(shape: StepShape, rates: Rates) -> Prediction:
    """Time by part: the slower of arithmetic and memory, and then messages; nothing overlaps (so it is a bound)."""
    seconds, communication_s = {"fixed": rates.step_s}, 0.0
    for part, cost in step_costs(shape).items():
        waiting = cost.messages * rates.message_s + cost.message_bytes / rates.network_bytes_per_s
        arithmetic = cost.flops / (rates.flops_per_s * rates.efficiency)
        seconds[part] = max(arithmetic, cost.bytes / rates.bytes_per_s) + waiting
        communication_s += waiting
    return Prediction(seconds, communication_s, shape.steps)


def _data(shape: StepShape) -> Cost:
    """Permutation, negatives, metadata rows and noise of b examples."""
    width = sum(shape.metadata_dims)
    noise = len(shape.metadata_dims) * ARRAYS_OF_NOISE * shape.batch * shape.dim * NUMBER
    integers = 300 * shape.batch * INDEX  # order, search and negatives, as if in arrays: an estimate
    return Cost(bytes=noise + integers + 2 * width * shape.batch * NUMBER)


def _tables(shape: StepShape) -> Cost:
    """Ids to the owners, rows back, gradients home: of these three the first hides behind a step.

    By rows each rank answers all of them, zeros where it has not the row, by a reduce-scatter of [W b, D] a lookup, and
    gathers as many gradients.
    """
    looked_up = 3 + shape.samples_per_example
    bytes_of_rows = looked_up * shape.batch * shape.dim * NUMBER
    # What leaves a rank of its answers, and of all gradients passes it in a ring.
    of_others = (shape.world_size - 1) * shape.answered_share * bytes_of_rows
    local = ARRAYS_OF_LOOKUP / 3 * bytes_of_rows + ARRAYS_OF_ANSWER * of_others
    if not shape.is_fused:
        local += 2 * _rows(shape) * shape.dim * NUMBER  # the gradient array: zeros, and the sum with the softmax's
    return Cost(bytes=local, messages=3 * (shape.world_size > 1), message_bytes=2 * of_others)


def _optimizer(shape: StepShape) -> Cost:
    rows = 3 * shape.batch if shape.is_fused else _rows(shape)
    weights = _channel_weights(shape)
    exchanged = 2 * (shape.world_size - 1) / shape.world_size * weights * NUMBER  # a ring's all-reduce
    return Cost(
        bytes=ADAM_ARRAYS * NUMBER * (rows * shape.dim + weights),
        messages=int(shape.world_size > 1 and weights > 0),
        message_bytes=exchanged,
    )


def _channels(shape: StepShape) -> Cost:
    """PSNet and diffusion of all channels: products [b, D] × [D, D], and the Gram matrix over ranks."""
    b, dim = shape.batch, shape.dim
    channels, unit = len(shape.metadata_dims), 2 * b * dim * dim
    # project (no gradient of the metadata) 2 · F/D; left 2, merge 2, encode 1, denoiser 1 of three each; of the SVD
    # Gram and its gradient, the left vectors and theirs: 2 float64 and 2 float32 forward and backward, and one more.
    products = sum(2 * width / dim for width in shape.metadata_dims) + channels * (6 * 3 + 3 * GRAM_FACTOR + 2)
    shared = channels * (3 * 3 * 2 * shape.timesteps * dim * dim + EIGEN_FLOPS * dim**3 * GRAM_FACTOR)
    several = shape.world_size > 1
    return Cost(
        flops=products * unit + shared,
        bytes=channels * ARRAYS_OF_CHANNEL * b * dim * NUMBER,
        # A Gram matrix forward and its gradient backward; and of all channels the balance term's squares likewise.
        messages=2 * (channels + 1) * several,
        message_bytes=channels * 2 * 2 * dim * dim * INDEX * several,
    )


def _contrastive(shape: StepShape) -> Cost:
    """Three products: of this rank's views with all rows, or of all ranks' views with this rank's; see
    `parallel.catalogue_softmax`."""
    views = shape.views_per_example * shape.batch * shape.world_size
    rows = shape.samples_per_example * shape.batch or math.ceil(shape.items / shape.world_size)
    away = (shape.world_size - 1) / shape.world_size
    # Rows, or views and their shares, are gathered (1), their gradients summed by a ring (2); sums of views travel
    # beside the products.
    is_gathered = shape.samples_per_example == 0 and shape.items <= views
    travelling = 3 * shape.items * shape.dim if is_gathered else views * (3 * shape.dim + 1)
    return Cost(
        flops=3 * 2 * views * rows * shape.dim,
        # A block's tiles are written once and read twice more, from a larger cache; views and gradients are small.
        bytes=3 * views * rows * NUMBER,
        messages=(2 if is_gathered else 3) * (shape.world_size > 1),
        message_bytes=away * travelling * NUMBER,
    )


def _propagation(shape: StepShape) -> Cost:
    """Columns of both tables, K layers of them, the batch's rows of the result; and all of it backward."""
    sums = sums_of_neighbours(shape, shape.training_layers)
    nodes_bytes = (shape.users + shape.items) * math.ceil(shape.dim / shape.world_size) * NUMBER
    others = shape.world_size - 1
    rows_bytes = (_rows(shape) + 3 * shape.batch) * shape.dim * NUMBER
    return Cost(
        flops=2 * sums.flops,
        bytes=2 * (sums.bytes + shape.training_layers * ARRAYS_OF_LAYER * nodes_bytes),
        # Two tables and three lists of rows, there and back; and the lists' ids to all ranks.
        messages=(2 * (2 + 3) + 3) * (others > 0),
        message_bytes=2 * rows_bytes * others / shape.world_size + 3 * shape.batch * INDEX * others,
    )


def _rows(shape: StepShape) -> int:
    """Table rows of a rank."""
    return math.ceil(shape.users / shape.world_size) + math.ceil(shape.items / shape.world_size)


def _channel_weights(shape: StepShape) -> int:
    """Weights of all channels (of the default PSNet and denoiser)."""
    dim = shape.dim
    return sum(width * dim + 16 * dim**2 + 17 * dim + 3 for width in shape.metadata_dims)
