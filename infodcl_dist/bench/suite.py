"""All benches by name, and one run of one of them: the same on every rank, told by rank 0."""

import resource
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from infodcl_dist.base.config import as_values
from infodcl_dist.bench import epoch, inference, preparation, sampler, softmax, step
from infodcl_dist.bench.figures import Figure
from infodcl_dist.bench.machine import Roofline, describe, measure_roofline
from infodcl_dist.bench.setting import Setting
from infodcl_dist.parallel.collectives import barrier, gather_objects
from infodcl_dist.train.step import matmul_precision

BENCHES: dict[str, Callable[[Setting], list[Figure]]] = {
    "epoch": epoch.measure,
    "step": step.measure,
    "softmax": softmax.measure,
    "sampler": sampler.measure,
    "propagate": inference.measure_propagation,
    "evaluate": inference.measure_evaluation,
    "prepare": preparation.measure_preparation,
    "similarity": preparation.measure_similarity,
}

OF_TRAINING = ("epoch", "step", "softmax")  # at the configuration's precision of products; the others at float32's
PLACES = ("data", "run")  # sections that say where things lie, which is no condition of a figure


def run_bench(name: str, setting: Setting) -> tuple[list[Figure], Roofline, dict[str, Any]]:
    """Figures of the slowest rank, the roofline that each rank has while all are busy, and all of it as JSON.

    A collective.
    """
    with matmul_precision(setting.config.train.matmul_precision if name in OF_TRAINING else "highest"):
        barrier()
        roofline = measure_roofline(setting.group.device)
        barrier()
        figures = [figure for figure in _slowest(gather_objects(BENCHES[name](setting))) if any(figure.seconds)]
    peak = max(gather_objects(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)) * 1024
    data = setting.dataset.manifest
    return (
        figures,
        roofline,
        {
            "bench": name,
            "processes": setting.group.world_size,
            "device": str(setting.group.device),
            "data": {"name": data.name, "users": data.users, "items": data.items, "pairs": data.counts},
            "configuration": {name: part for name, part in as_values(setting.config).items() if name not in PLACES},
            "warm_up": setting.warm_up,
            "repeats": setting.repeats,
            "machine": describe(),
            "roofline": {"gemm_flops_per_s": roofline.flops_per_s, "copy_bytes_per_s": roofline.bytes_per_s},
            "peak_rss_bytes": peak,
            "figures": [figure.as_json(roofline) for figure in figures],
        },
    )


def _slowest(by_rank: list[list[Figure]]) -> list[Figure]:
    """Each figure with every repeat's longest time over ranks."""
    return [
        replace(figures[0], seconds=tuple(map(max, zip(*(figure.seconds for figure in figures), strict=True))))
        for figures in zip(*by_rank, strict=True)
    ]
