"""`infodcl-dist plan`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from infodcl_dist.base.console import PipedConsole
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.machine import Memory
from infodcl_dist.cli.train import config_option, overrides_argument

if TYPE_CHECKING:
    from infodcl_dist.bench.step_model import Prediction
    from infodcl_dist.data.dataset import Manifest
    from infodcl_dist.recipe.config import RunConfig
    from infodcl_dist.recipe.run_plan import RunPlan


@click.command()
@config_option
@click.option("--world", required=True, metavar="N", type=click.IntRange(1, 100_000), help="ranks")
@click.option("--local-world", metavar="N", type=click.IntRange(min=1), help="of them on one host  [default: all]")
@click.option("--memory-gb", metavar="G", type=float, help="GiB of a host  [default: 0.8 of this machine's]")
@click.option("--gpu-memory-gb", metavar="G", type=float, help="GiB of a rank's GPU  [default: 0.8 of this machine's]")
@click.option("--json", "as_json", is_flag=True, help="all figures as JSON, on standard output")
@overrides_argument
def plan(
    *,
    config_file: Path | None,
    world: int,
    local_world: int | None,
    memory_gb: float | None,
    gpu_memory_gb: float | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """What a run on N ranks would hold, and how it would propagate: nothing is allocated, nothing is read.

    Of the dataset its manifest is enough. Pre-training for made channels is a part of its own, unless it is done.
    """
    from infodcl_dist.base.config import load_config
    from infodcl_dist.data.dataset import read_manifest
    from infodcl_dist.graph.propagation_plan import MOST_MEMORY_GB
    from infodcl_dist.recipe.config import RunConfig
    from infodcl_dist.recipe.run_plan import plan_run

    config = load_config(RunConfig, config_file, overrides)
    local = world if local_world is None else local_world
    if local > world:
        raise UserError(f"--local-world: {local} ranks on a host are more than --world {world}")
    for option, size, whose in (("--memory-gb", memory_gb, "host"), ("--gpu-memory-gb", gpu_memory_gb, "GPU")):
        if size is not None and not 0 < size <= MOST_MEMORY_GB:
            raise UserError(f"{option}: {size} is no {whose}'s memory; give GiB above 0, at most {MOST_MEMORY_GB:,}")
    manifest = read_manifest(config.data.path)
    found = plan_run(
        config,
        manifest,
        world_size=world,
        local_world_size=local,
        memory_gb=memory_gb,
        gpu_memory_gb=gpu_memory_gb,
    )
    prediction = _prediction(config, manifest, world)
    of_pretraining = None
    if found.pretraining is not None:
        of_pretraining = _prediction(config.pretraining(config.run.path), manifest, world)
    if as_json:
        values = found.as_values() | {"prediction_on_gpus": _as_values(prediction)}
        if of_pretraining is not None:
            values["pretraining"]["prediction_on_gpus"] = _as_values(of_pretraining)
        click.echo(json.dumps(values, indent=2))
        return
    console = PipedConsole(width=None if sys.stdout.isatty() else 100)
    _print(console, found, prediction)
    if found.pretraining is None or of_pretraining is None:
        console.print(_verdict(found))
    else:
        console.print(f"\nbefore it, pre-training for the made channels, at most {config.metadata.epochs:,} epochs")
        _print(console, found.pretraining, of_pretraining)
        console.print(f"pre-training {_verdict(found.pretraining)}\nthe run {_verdict(found)}")


def _prediction(config: "RunConfig", manifest: "Manifest", world: int) -> "Prediction":
    from infodcl_dist.bench.step_model import gpu_rates, predict
    from infodcl_dist.bench.step_shape import step_shape

    return predict(step_shape(config, manifest, world), gpu_rates(world))


def _as_values(prediction: "Prediction") -> dict[str, Any]:
    return asdict(prediction) | {"step_s": prediction.step_s, "epoch_s": prediction.epoch_s}


def _print(console: Console, found: "RunPlan", prediction: "Prediction") -> None:
    for table in (_tables(found), _training(found), _passes(found), _steps(found, prediction)):
        console.print(table)


def _verdict(found: "RunPlan") -> str:
    gpu = "" if found.gpu_bytes is None else f"{_size(found.gpu_bytes)} of its GPU and "
    host = _size(found.memory_bytes) + ("" if found.gpu_bytes is None else " of its host")
    return f"{'fits' if found.itself_fits else 'does not fit'} into {gpu}{host} a rank"


def _tables(found: "RunPlan") -> Table:
    table = Table(title=f"tables, the rank with the most of {found.world_size:,}")
    for column in ("", "sharding", "rows", "columns", "weights", "in training"):
        table.add_column(column, justify="left" if column in {"", "sharding"} else "right")
    for part in found.tables:
        sizes = f"{part.rows:,}", f"{part.columns:,}", _size(part.weight_bytes), _size(part.training_bytes)
        table.add_row(part.name, part.sharding, *sizes)
    return table


def _training(found: "RunPlan") -> Table:
    has_gpu = found.gpu_bytes is not None
    table = Table(title="memory of a rank in training", show_header=has_gpu)
    for column in ("", "host", *(["GPU"] if has_gpu else [])):
        table.add_column(column, justify="right" if column else "left")

    def sizes(memory: Memory) -> list[str]:
        return [_size(memory.host), _size(memory.gpu)] if has_gpu else [_size(memory.host)]

    for what, taken in found.training.items():
        table.add_row(what, *sizes(taken))
    table.add_section()
    table.add_row("together", *sizes(found.training_bytes))
    return table


def _steps(found: "RunPlan", prediction: "Prediction") -> Table:
    table = Table(
        title=f"a training step predicted for {found.world_size:,} H100, from data sheets: no measurement",
        show_header=False,
    )
    table.add_column()
    table.add_column(justify="right")
    for part, seconds in prediction.seconds.items():
        table.add_row(part, f"{seconds * 1e3:,.2f} ms")
    table.add_section()
    table.add_row("a step", f"{prediction.step_s * 1e3:,.2f} ms")
    table.add_row("of it communication", f"{prediction.communication_share:.0%}")
    table.add_row(f"an epoch of {prediction.steps:,} steps", f"{prediction.epoch_s:,.1f} s")
    return table


def _passes(found: "RunPlan") -> Table:
    where = "a rank" if found.gpu_bytes is None else "a rank's GPU (out_of_core: host)"
    table = Table(title=f"propagation at inference, {where}, beside its tables; seconds compare the plans")
    for column in ("plan", "memory", "sent", "disk", "edges summed", "seconds", ""):
        table.add_column(column, justify="left" if column in {"plan", ""} else "right", no_wrap=True)
    for estimate in found.propagation:
        chosen = "taken" if estimate.plan == found.propagation_plan else ""
        sizes = (_size(size) for size in (estimate.rank_bytes, estimate.sent_bytes, estimate.disk_bytes))
        counts = f"{estimate.edges:,}", f"{estimate.seconds:,.3g}"
        table.add_row(estimate.plan, *sizes, *counts, chosen if estimate.fits else f"{chosen} does not fit".strip())
    return table


def _size(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
