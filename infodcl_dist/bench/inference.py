"""`bench propagate` and `bench evaluate`: the GCN pass, and the all-ranking evaluation of validation users."""

from infodcl_dist.bench.figures import Figure
from infodcl_dist.bench.setting import Setting, build_bench_evaluator
from infodcl_dist.bench.step_model import sums_of_neighbours


def measure_propagation(setting: Setting) -> list[Figure]:
    """Tables to columns, and K layers over this rank's columns."""
    evaluator = build_bench_evaluator(setting)
    shape, layers = setting.shape, setting.config.model.gcn_layers
    cost = sums_of_neighbours(shape, layers)
    return [
        Figure(
            f"propagate, {layers} layers",
            setting.timed(evaluator.embeddings),
            interactions=shape.pairs,
            flops=cost.flops,
            bytes=cost.bytes,
        )
    ]


def measure_evaluation(setting: Setting) -> list[Figure]:
    """The GCN pass and the metrics; arithmetic is that of the scores."""
    evaluator = build_bench_evaluator(setting)
    shape = setting.shape
    users = int((evaluator.valid.degrees > 0).sum())
    return [
        Figure(
            "evaluate",
            setting.timed(lambda: evaluator("valid")),
            interactions=setting.dataset.manifest.counts["valid"],
            flops=2.0 * users / shape.world_size * shape.items * shape.dim,
        )
    ]
