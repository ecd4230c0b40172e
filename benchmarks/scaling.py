"""Strong and weak scaling of a training step, with the share of waiting, beside what the model of the step predicts.

    python benchmarks/scaling.py DATASET [--batch-size 8000] [--processes 1 2 4] [--steps 10] [--json FILE]

Strong: one global batch size at every number of processes. Weak: the batch of one process times their number. Apart:
as many single processes at once that know nothing of each other, each with the strong batch; cores share caches and
memory, so their joint rate is the most that the machine gives to any launch of that many.

Each line is `infodcl-dist bench epoch` on the first steps of an epoch, one thread a process, in a launch of its own.
With more processes than cores the lines show the price of communication, not of speed. The model's rates are those
measured in the same launch; its fixed seconds and its efficiency are fitted to one process at two batch sizes, and the
rest is predicted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from infodcl_dist.base.files import write_json
from infodcl_dist.bench.step_model import Rates, StepShape, predict, step_costs

OFFICE = Path(__file__).parents[1] / "configs" / "office-paper.yaml"
# Of gloo on one machine through the loopback device: assumptions, not measured.
GLOO = {"network_bytes_per_s": 1.5e9, "message_s": 3e-4}


def bench(
    dataset: Path, processes: int, batch: int, given: argparse.Namespace, launches: int = 1
) -> list[dict[str, Any]]:
    """What each launch found; they run at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{launch}.json" for launch in range(launches)]
        command = [sys.executable, "-m", "infodcl_dist", "bench", "epoch", f"--config={OFFICE}", f"--data={dataset}"]
        command += [f"--nproc={processes}", f"--repeats={given.repeats}", f"--max-steps={given.steps}"]
        keys = [f"train.global_batch_size={batch}", *given.overrides]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen([*command, f"--json={file}", *keys], env=environment, stdout=subprocess.DEVNULL)
            for file in files
        ]
        if any([process.wait() for process in running]):
            raise SystemExit(f"{' '.join([*command, *keys])} failed")
        return [json.loads(file.read_text()) for file in files]


def shape_of(result: dict[str, Any]) -> StepShape:
    config, data = result["configuration"], result["data"]
    channels = config["model"]["channels"] if config["model"]["name"] == "infodcl" else []
    return StepShape(
        users=data["users"],
        items=data["items"],
        pairs=data["pairs"]["train"],
        global_batch=config["train"]["global_batch_size"],
        dim=config["model"]["dim"],
        metadata_dims=tuple(config["metadata"]["dim"] for _ in channels),
        timesteps=config["model"]["timesteps"],
        world_size=result["processes"],
        is_fused=config["tables"]["kernel"] != "dense",
        samples_per_example=config["loss"]["samples_per_example"] if config["loss"]["negatives"] == "sampled" else 0,
    )


def step_seconds(result: dict[str, Any], steps: int) -> float:
    measured = min(steps, shape_of(result).steps)
    seconds: float = result["figures"][0]["median_s"] / measured
    return seconds


def fitted(small: dict[str, Any], large: dict[str, Any], steps: int) -> Rates:
    """Efficiency and fixed seconds that give the two measured steps of one process."""
    roofline = small["roofline"]
    plain = Rates(flops_per_s=roofline["gemm_flops_per_s"], bytes_per_s=roofline["copy_bytes_per_s"])
    ideal = [predict(shape_of(result), plain).step_s for result in (small, large)]
    found = [step_seconds(result, steps) for result in (small, large)]
    slowdown = max((found[1] - found[0]) / (ideal[1] - ideal[0]), 0.1)
    return Rates(
        flops_per_s=plain.flops_per_s / slowdown,
        bytes_per_s=plain.bytes_per_s / slowdown,
        step_s=max(found[0] - slowdown * ideal[0], 0.0),
        **GLOO,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--batch-size", type=int, default=8000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args()
    small, alone = (bench(given.dataset, 1, batch, given)[0] for batch in (given.batch_size // 4, given.batch_size))
    rates = fitted(small, alone, given.steps)
    lines = [("strong", processes, given.batch_size) for processes in given.processes]
    lines += [("weak", processes, given.batch_size // 4 * processes) for processes in given.processes]
    print(
        "| scaling | processes | batch | ms a step | interactions/s | speed-up | waiting | predicted, ms | "
        "communication, predicted | largest process, MiB |\n" + "| --- " * 10 + "|",
        flush=True,
    )
    results = [small, alone]
    base: dict[str, float] = {}
    for kind, processes, batch in lines:
        known = {(1, given.batch_size): alone, (1, given.batch_size // 4): small}
        result = known.get((processes, batch)) or bench(given.dataset, processes, batch, given)[0]
        results.append(result)
        seconds, predicted = step_seconds(result, given.steps), predict(shape_of(result), rates)
        base.setdefault(kind, batch / seconds)
        waits = result["figures"][1]["median_s"] / result["figures"][0]["median_s"] if processes > 1 else 0.0
        print(
            f"| {kind} | {processes} | {batch:,} | {seconds * 1e3:,.1f} | {batch / seconds:,.0f} | "
            f"{batch / seconds / base[kind]:.2f} | {waits:.0%} | {predicted.step_s * 1e3:,.1f} | "
            f"{predicted.communication_share:.0%} | {result['peak_rss_bytes'] / 2**20:,.0f} |",
            flush=True,
        )
    for processes in (count for count in given.processes if count > 1):
        apart = bench(given.dataset, 1, given.batch_size, given, launches=processes)
        results += apart
        steps = [step_seconds(result, given.steps) for result in apart]
        rate = sum(given.batch_size / seconds for seconds in steps)
        print(
            f"| apart | {processes} | {given.batch_size:,} each | {max(steps) * 1e3:,.1f} | {rate:,.0f} | "
            f"{rate / base['strong']:.2f} | | | | {max(one['peak_rss_bytes'] for one in apart) / 2**20:,.0f} |",
            flush=True,
        )
    print(f"\nfitted to one process: {rates}; a step of it costs {sum(c.flops for c in costs(alone)) / 1e9:.2f} GFLOP")
    if given.json:
        write_json(given.json, {"results": results, "rates": vars(rates)})


def costs(result: dict[str, Any]) -> list[Any]:
    return list(step_costs(shape_of(result)).values())


if __name__ == "__main__":
    main()
