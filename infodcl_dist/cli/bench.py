"""`infodcl-dist bench`: figures of this machine."""

import tempfile
from pathlib import Path
from typing import Any

import click

from infodcl_dist.base.console import PipedConsole, is_rank_zero
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import write_json
from infodcl_dist.cli.processes import run_in_processes
from infodcl_dist.cli.train import config_option, overrides_argument

# What each measures.
SUBJECTS = {
    "epoch": "Training as it runs, evaluation left out, and what of it is waited for other ranks.",
    "step": "A training step by part: batches, lookups, channels, losses, backward, optimizers.",
    "softmax": "The contrastive term over the whole catalogue, forward and backward, of one channel.",
    "sampler": "A rank's batches, and the negatives in them.",
    "propagate": "The GCN pass: tables to columns, and all layers over them.",
    "evaluate": "The GCN pass and the metrics of all validation users over all items.",
    "prepare": "From a text of interactions to a dataset folder: split, sorted, with checksums.",
    "similarity": "The nearest items of each item, and users of each user, as the channels are made of.",
}
SIZES = "5000:2500:50000"
WIDTH_OF_FILES = 130


@click.group()
def bench() -> None:
    """Measure a part of the work on this machine, beside what the machine does at best."""


@bench.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def compare(before: Path, after: Path) -> None:
    """Say what differs by more than the noise between two files that `--json` wrote."""
    from infodcl_dist.bench.compare import compare as compare_results

    table, differing = compare_results(before, after)
    console = PipedConsole()
    console.print(table)
    if differing:
        console.print(f"the two were measured under different conditions: {', '.join(differing)}")


def _add(subject: str) -> None:
    @bench.command(name=subject, help=SUBJECTS[subject])
    @config_option
    @click.option("--data", type=click.Path(path_type=Path), help="dataset folder; without one, a generated one")
    @click.option("--sizes", metavar="USERS:ITEMS:PAIRS", help=f"of the generated data set, else {SIZES}")
    @click.option("--nproc", type=click.IntRange(min=1), default=1, show_default=True, help="local processes")
    @click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
    @click.option("--warm-up", type=click.IntRange(min=0), default=1, show_default=True, help="repeats not counted")
    @click.option(
        "--max-steps",
        type=click.IntRange(min=1),
        default=1_000_000,
        help="steps of an epoch measured; of step 5 at most",
    )
    @click.option("--json", "json_file", type=click.Path(path_type=Path), help="also write all of it as JSON")
    @overrides_argument
    def command(nproc: int, sizes: str | None, data: Path | None, **options: Any) -> None:
        if sizes is not None and data is not None:
            raise UserError("--sizes and --data exclude each other: a generated data set, or your own")
        for override in options["overrides"]:
            key, _, given = override.partition("=")
            if key == "data.path":  # it would be passed over
                raise UserError(f"{override}: bench takes its data set by --data; give --data {given}")
        with tempfile.TemporaryDirectory() as folder:
            dataset = data or _generated(Path(folder) / "generated", sizes or SIZES)
            if nproc > 1:
                _start_workers(subject, nproc, dataset, options)
            else:
                measure_here(subject, dataset, Path(folder) / "run", **options)


for _subject in SUBJECTS:
    _add(_subject)


def _generated(folder: Path, sizes: str) -> Path:
    from infodcl_dist.bench.generated import generate

    try:
        users, items, pairs = (int(part) for part in sizes.replace("_", "").split(":"))
    except ValueError:
        raise UserError(f"--sizes {sizes}: give USERS:ITEMS:PAIRS, such as 5000:2500:50000") from None
    if min(users, items, pairs) < 1 or pairs > users * items // 4:
        raise UserError(f"--sizes {sizes}: at least 1 of each, and pairs at most a quarter of users × items")
    generate(folder, users=users, items=items, pairs=pairs)
    return folder


def _start_workers(subject: str, nproc: int, dataset: Path, options: dict[str, Any]) -> None:
    named = {"--config": "config_file", "--json": "json_file"}
    named |= {f"--{name.replace('_', '-')}": name for name in ("repeats", "warm_up", "max_steps")}
    arguments = [
        str(part) for flag, name in named.items() if options[name] is not None for part in (flag, options[name])
    ]
    run_in_processes(
        "infodcl_dist", ["bench", subject, "--data", str(dataset), *arguments, *options["overrides"]], nproc
    )


def measure_here(
    subject: str,
    dataset: Path,
    folder: Path,
    *,
    config_file: Path | None,
    repeats: int,
    warm_up: int,
    max_steps: int,
    json_file: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Measures in this process, alone or one of a group; rank 0 prints.

    A pass out of core keeps its files in rank 0's `folder`, unless an override names another `run.path`.
    """
    from infodcl_dist.base.config import load_config
    from infodcl_dist.bench.figures import table_of
    from infodcl_dist.bench.setting import Setting
    from infodcl_dist.bench.suite import run_bench
    from infodcl_dist.data.dataset import open_dataset
    from infodcl_dist.parallel.group import process_group
    from infodcl_dist.recipe.config import RunConfig

    config = load_config(RunConfig, config_file, (f"run.path={folder}", *overrides, f"data.path={dataset}"))
    with process_group(config.train.timeout_s) as group:
        setting = Setting(
            config=config,
            dataset=open_dataset(dataset, verify=False),
            group=group,
            repeats=repeats,
            warm_up=warm_up,
            max_steps=max_steps,
        )
        figures, roofline, result = run_bench(subject, setting)
    if is_rank_zero():
        title = f"{subject}, {setting.dataset.name}, {group.world_size} processes on {group.device}"
        console = PipedConsole()
        console = console if console.is_terminal else PipedConsole(width=WIDTH_OF_FILES)
        console.print(table_of(figures, roofline, title))
        console.print(f"largest process {result['peak_rss_bytes'] / 2**20:,.0f} MiB")
        if json_file is not None:
            write_json(json_file, result)
