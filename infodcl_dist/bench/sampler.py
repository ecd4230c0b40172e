"""`bench sampler`: a rank's batches, and the negatives in them."""

import itertools

from infodcl_dist.base.random import key_for
from infodcl_dist.bench.figures import Figure
from infodcl_dist.bench.setting import Setting
from infodcl_dist.data.draws import draw_outside
from infodcl_dist.recipe.model import build_batches


def measure(setting: Setting) -> list[Figure]:
    """A whole batch (order, pairs, negatives, metadata rows), and its negatives alone."""
    batches = build_batches(setting.config, setting.dataset, setting.metadata, setting.group)
    rows, items = setting.dataset.items_of_users("train"), setting.dataset.items
    batch, epochs = batches.batch(1, 0), itertools.count(1)
    positions, users = batch.positions.numpy(), batch.users.numpy()

    def draw() -> None:
        draw_outside(key_for("bench", next(epochs)), positions, users, rows, items)

    examples = batches.examples(0)
    bytes_of_batch = sum(tensor.nbytes for tensor in batch.tensors())
    return [
        Figure("batch", setting.timed(lambda: batches.batch(next(epochs), 0)), examples, bytes=bytes_of_batch),
        Figure("negatives alone", setting.timed(draw), examples, bytes=batch.negatives.nbytes),
    ]
