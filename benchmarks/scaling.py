"""Strong and weak scaling of a training step, with the share of waiting, beside what the model of the step predicts.

    python benchmarks/scaling.py DATASET [--batch-size 8000] [--processes 1 2 4] [--steps 5] [--json FILE]

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infodcl_dist.base.config import load_config
from infodcl_dist.base.files import write_json
from infodcl_dist.bench.step_model import Rates, StepShape, predict, step_costs
from infodcl_dist.bench.step_shape import step_shape
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.recipe.config import RunConfig

OFFICE = Path(__file__).parents[1] / "configs" / "office-paper.yaml"
# Of gloo on one machine through the loopback device: assumptions, not measured.
GLOO = {"network_bytes_per_s": 1.5e9, "message_s": 3e-4}


@dataclass(frozen=True)
class Launch:
    """What one `bench epoch` found, and the sizes of its step."""

    result: dict[str, Any]
    shape: StepShape
    steps: int  # measured

    @property
    def step_s(self) -> float:
        seconds: float = self.result["figures"][0]["median_s"] / min(self.steps, self.shape.steps)
        return seconds

    @property
    def waiting(self) -> float:
        """Share of a step that the rank which waits most waits for others."""
        if self.shape.world_size == 1:
            return 0.0
        epoch, waits = (figure["median_s"] for figure in self.result["figures"][:2])
        share: float = waits / epoch
        return share

    @property
    def peak_mib(self) -> float:
        mib: float = self.result["peak_rss_bytes"] / 2**20
        return mib


def bench(dataset: Path, processes: int, batch: int, given: argparse.Namespace, launches: int = 1) -> list[Launch]:
    """Launches at the same time."""
    keys = (f"train.global_batch_size={batch}", *given.overrides)
    config = load_config(RunConfig, OFFICE, (f"data.path={dataset}", "run.path=none", *keys))
    shape = step_shape(config, open_dataset(dataset, verify=False).manifest, processes)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{launch}.json" for launch in range(launches)]
        command = [sys.executable, "-m", "infodcl_dist", "bench", "epoch", f"--config={OFFICE}", f"--data={dataset}"]
        command += [f"--nproc={processes}", f"--repeats={given.repeats}", f"--max-steps={given.steps}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen([*command, f"--json={file}", *keys], env=environment, stdout=subprocess.DEVNULL)
            for file in files
        ]
        if any([process.wait() for process in running]):
            raise SystemExit(f"{' '.join([*command, *keys])} failed")
        return [Launch(json.loads(file.read_text()), shape, given.steps) for file in files]


def fitted(small: Launch, large: Launch) -> Rates:
    """Efficiency and fixed seconds that give the two measured steps of one process."""
    roofline = small.result["roofline"]
    plain = Rates(flops_per_s=roofline["gemm_flops_per_s"], bytes_per_s=roofline["copy_bytes_per_s"])
    ideal = [predict(launch.shape, plain).step_s for launch in (small, large)]
    slowdown = max((large.step_s - small.step_s) / (ideal[1] - ideal[0]), 0.1)
    return Rates(
        flops_per_s=plain.flops_per_s / slowdown,
        bytes_per_s=plain.bytes_per_s / slowdown,
        step_s=max(small.step_s - slowdown * ideal[0], 0.0),
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
    rates = fitted(small, alone)
    lines = [("strong", processes, given.batch_size) for processes in given.processes]
    lines += [("weak", processes, given.batch_size // 4 * processes) for processes in given.processes]
    print(
        "| scaling | processes | batch | ms a step | interactions/s | speed-up | waiting | predicted, ms | "
        "communication, predicted | largest process, MiB |\n" + "| --- " * 10 + "|",
        flush=True,
    )
    launches = [small, alone]
    base: dict[str, float] = {}
    for kind, processes, batch in lines:
        known = {(1, given.batch_size): alone, (1, given.batch_size // 4): small}
        launch = known.get((processes, batch)) or bench(given.dataset, processes, batch, given)[0]
        launches.append(launch)
        rate, predicted = batch / launch.step_s, predict(launch.shape, rates)
        base.setdefault(kind, rate)
        print(
            f"| {kind} | {processes} | {batch:,} | {launch.step_s * 1e3:,.1f} | {rate:,.0f} | "
            f"{rate / base[kind]:.2f} | {launch.waiting:.0%} | {predicted.step_s * 1e3:,.1f} | "
            f"{predicted.communication_share:.0%} | {launch.peak_mib:,.0f} |",
            flush=True,
        )
    for processes in (count for count in given.processes if count > 1):
        apart = bench(given.dataset, 1, given.batch_size, given, launches=processes)
        launches += apart
        rate = sum(given.batch_size / launch.step_s for launch in apart)
        print(
            f"| apart | {processes} | {given.batch_size:,} each | {max(one.step_s for one in apart) * 1e3:,.1f} | "
            f"{rate:,.0f} | {rate / base['strong']:.2f} | | | | {max(one.peak_mib for one in apart):,.0f} |",
            flush=True,
        )
    flops = sum(cost.flops for cost in step_costs(alone.shape).values())
    print(f"\nfitted to one process: {rates}; a step of it costs {flops / 1e9:.2f} GFLOP")
    if given.json:
        write_json(given.json, {"results": [launch.result for launch in launches], "rates": vars(rates)})


if __name__ == "__main__":
    main()
