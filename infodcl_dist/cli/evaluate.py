"""`infodcl-dist evaluate`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from infodcl_dist.base.console import PipedConsole, is_rank_zero
from infodcl_dist.base.errors import UserError
from infodcl_dist.cli.processes import with_processes

if TYPE_CHECKING:
    from infodcl_dist.inference.evaluation import Evaluation, EvaluationConfig, GroupMeans


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="print the metrics as JSON")
@click.option("--all", "all_metrics", is_flag=True, help="every metric that there is")
@click.option("--metrics", help="names with commas between, as of evaluation.metrics; else the run's own")
@click.option("--cutoffs", help="list lengths with commas between; else the run's own")
@click.option("--groups", is_flag=True, help="by popularity of the items and by length of the users' histories, too")
@with_processes
def evaluate(run: Path, split: str, as_json: bool, groups: bool, **choice: Any) -> None:
    """Full-catalogue metrics of RUN's best checkpoint.

    Means over the users with a held-out item: recall, ndcg, precision, hit_rate, mrr and map as trec_eval has them. Of
    all lists together: coverage (share of the catalogue that anybody gets), gini (of how often items are recommended)
    and popularity (training interactions of a recommended item). Groups: head, middle and tail are the items, by
    popularity, that make up a third of the training interactions each.
    """
    from infodcl_dist.parallel.group import process_group
    from infodcl_dist.recipe.run import open_run

    with process_group(timeout_s=1800) as group:
        evaluator = open_run(run, group)
        config = _chosen(evaluator.config.evaluation, **choice)
        found = evaluator.measure(split, config, by_group=groups)
    if not is_rank_zero():
        return
    if as_json:
        broken_down = asdict(found)
        extra = {name: broken_down[name] for name in ("users", "by_popularity", "by_history")} if groups else {}
        click.echo(json.dumps(found.means | extra))
    else:
        _print(run, split, found)


def _chosen(
    config: "EvaluationConfig", all_metrics: bool, metrics: str | None, cutoffs: str | None
) -> "EvaluationConfig":
    """The run's choice of what is measured, with the command's in its place.

    Raises:
        UserError: an unknown metric or a cutoff that is none.
    """
    from infodcl_dist.base.config import config_of_options
    from infodcl_dist.inference.evaluation import ALL_METRICS, EvaluationConfig

    if all_metrics and metrics is not None:
        raise UserError("--all and --metrics exclude each other; give one of them")
    names = ALL_METRICS if all_metrics else _listed(metrics) or config.metrics
    options = {"metrics": names, "cutoffs": _listed(cutoffs) or config.cutoffs, "mask_valid": config.mask_valid}
    return config_of_options(EvaluationConfig, options)


def _listed(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",")] if text else None


def _print(run: Path, split: str, found: "Evaluation") -> None:
    """A row a metric, a column a cutoff; then the groups."""
    metrics = list(dict.fromkeys(name.partition("@")[0] for name in found.means))
    cutoffs = list(dict.fromkeys(name.partition("@")[2] for name in found.means))
    table = Table(title=f"{run}, {split}, {found.users:,} users", title_justify="left")
    for column in ("", *(f"@{cutoff}" for cutoff in cutoffs)):
        table.add_column(column, justify="right")
    for metric in metrics:
        values = (found.means[f"{metric}@{cutoff}"] for cutoff in cutoffs)
        table.add_row(metric, *(f"{value:.4f}" if value < 1000 else f"{value:,.0f}" for value in values))
    PipedConsole().print(table)
    shown = [f"{metric}@{20 if '20' in cutoffs else cutoffs[0]}" for metric in metrics]
    for title, groups in (("held-out items of", found.by_popularity), ("users with history", found.by_history)):
        _print_groups(title, groups, shown)


def _print_groups(title: str, groups: "dict[str, GroupMeans]", shown: list[str]) -> None:
    """A row a group that has users, a column a metric of users' lists, at one cutoff; --json has all."""
    there = {name: group for name, group in groups.items() if group.users}
    if not there:
        return
    table = Table(title_justify="left")
    names = [name for name in shown if name in next(iter(there.values())).means]
    for column in (title, "users", *names):
        table.add_column(column, justify="right")
    for name, group in there.items():
        table.add_row(name, f"{group.users:,}", *(f"{group.means[metric]:.4f}" for metric in names))
    PipedConsole().print(table)
