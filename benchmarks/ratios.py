"""The package beside the plain implementation, in one process and one run: epoch, softmax term, sampler.

    python benchmarks/ratios.py DATASET [--batch-size 2000] [--repeats 5] [--precision medium] [--json FILE]

The two take turns, so that whatever else the machine does meets both; times are medians of wall-clock seconds, in
brackets of the process's own CPU seconds, which others' work disturbs less. One warm-up each. Threads: OMP_NUM_THREADS.
`--precision` is that of both's float32 products, see `train.matmul_precision`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import plain
import torch
from torch.nn.functional import cross_entropy, normalize

from infodcl_dist.base.config import load_config
from infodcl_dist.base.files import write_json
from infodcl_dist.base.random import key_for
from infodcl_dist.bench.machine import describe, measure_roofline
from infodcl_dist.bench.setting import Setting, Training
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.data.draws import draw_outside
from infodcl_dist.parallel.catalogue_softmax import catalogue_of, contrastive
from infodcl_dist.parallel.group import process_group
from infodcl_dist.recipe.config import RunConfig

DIM, TEMPERATURE, SOFTMAX_REPEATS = 64, 0.5, 5
Work = dict[str, Callable[[], object]]
OFFICE = Path(__file__).parents[1] / "configs" / "office-paper.yaml"


def take_turns(work: Work, repeats: int) -> dict[str, tuple[float, float]]:
    """Median wall-clock and CPU seconds of each."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(repeats + 1):
        for name, run in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (statistics.median(w for w, _ in found[1:]), statistics.median(c for _, c in found[1:]))
        for name, found in seconds.items()
    }


def epochs(setting: Setting) -> Work:
    training, config = Training(setting), setting.config
    model, loader = plain.load(setting.dataset.path, 2, DIM, config.train.global_batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.learning_rate)
    return {
        "plain": lambda: plain.train_epoch(model, loader, optimizer, plain.Weights()),
        "package": training.run,
    }


def softmaxes(batch: int, items: int) -> Work:
    generator = torch.Generator().manual_seed(0)
    views, own, rows = (torch.randn(n, DIM, generator=generator).requires_grad_() for n in (batch, batch, items))
    labels, shares = torch.arange(batch) % items, torch.full((batch,), 1 / batch)
    weights = torch.rand(batch, items, generator=generator)
    catalogue = catalogue_of(rows, items=items, views=batch)

    def several(run: Callable[[], object]) -> Callable[[], None]:
        def repeated() -> None:
            for _ in range(SOFTMAX_REPEATS):
                views.grad = own.grad = rows.grad = None
                run()

        return repeated

    def plainly() -> None:
        logits = normalize(views, dim=1) @ normalize(rows, dim=1).T / TEMPERATURE
        cross_entropy(logits, labels).backward()

    @torch.no_grad()
    def products() -> None:
        for a, b in ((views, rows.T), (weights, rows), (weights.T, views)):
            torch.mm(a, b)

    return {
        "plain": several(plainly),
        "package": several(lambda: contrastive(views, own, catalogue, shares, temperature=TEMPERATURE).backward()),
        "three products": several(products),
    }


def samplers(setting: Setting, *, negatives_alone: bool) -> Work:
    _, loader = plain.load(setting.dataset.path, 2, DIM, setting.config.train.global_batch_size)
    pairs: plain.Pairs = loader.dataset  # type: ignore[assignment]
    if negatives_alone:
        rows, items = setting.dataset.items_of_users("train"), setting.dataset.items
        users = np.array(pairs.users)
        positions = np.arange(len(users))
        return {
            "plain": lambda: [pairs.negative(user) for user in pairs.users],
            "package": lambda: draw_outside(key_for("bench"), positions, users, rows, items),
        }
    batches = Training(setting).batches
    return {"plain": lambda: list(loader), "package": lambda: list(batches.epoch(1))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--batch-size", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="highest", choices=["highest", "high", "medium"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    keys = f"train.global_batch_size={given.batch_size}", f"train.matmul_precision={given.precision}"
    config = load_config(RunConfig, OFFICE, (f"data.path={given.dataset}", "run.path=none", *keys))
    torch.set_float32_matmul_precision(given.precision)
    with process_group(600) as group:
        dataset = open_dataset(given.dataset, verify=False)
        setting = Setting(
            config=config, dataset=dataset, group=group, repeats=given.repeats, warm_up=1, max_steps=1_000_000
        )
        subjects = {
            "epoch, two channels": epochs(setting),
            "softmax term": softmaxes(given.batch_size, dataset.items),
            "negatives of an epoch": samplers(setting, negatives_alone=True),
            "batches of an epoch": samplers(setting, negatives_alone=False),
        }
        print(f"{dataset.name}, batch {given.batch_size:,}, {torch.get_num_threads()} thread, {given.precision}\n")
        print("| what | plain, ms | package, ms | plain / package |\n| --- | --- | --- | --- |", flush=True)
        result = {
            "machine": describe(),
            "batch": given.batch_size,
            "precision": given.precision,
            "repeats": given.repeats,
            "seconds": {},
        }
        for name, work in subjects.items():
            found = take_turns(work, given.repeats)
            result["seconds"][name] = found
            (wall, cpu), (our_wall, our_cpu) = found["plain"], found["package"]
            per = SOFTMAX_REPEATS if name == "softmax term" else 1
            print(
                f"| {name} | {wall / per * 1e3:,.1f} ({cpu / per * 1e3:,.1f}) | {our_wall / per * 1e3:,.1f} "
                f"({our_cpu / per * 1e3:,.1f}) | {wall / our_wall:.2f} ({cpu / our_cpu:.2f}) |",
                flush=True,
            )
            for other in set(found) - {"plain", "package"}:
                ratio = our_wall / found[other][0], our_cpu / found[other][1]
                print(f"| its package / {other} | | | {ratio[0]:.2f} ({ratio[1]:.2f}) |", flush=True)
        result["roofline"] = vars(measure_roofline(group.device))
    if given.json:
        write_json(given.json, result)


if __name__ == "__main__":
    main()
