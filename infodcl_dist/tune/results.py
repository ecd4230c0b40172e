"""What a sweep leaves: a table of its trials, the best configuration, its test metrics, plots, a summary."""

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from infodcl_dist.base.config import dump_config
from infodcl_dist.base.console import console, log
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import new_file, read_json, sha256_of_file, write_json, write_text
from infodcl_dist.inference.metrics import names_of
from infodcl_dist.recipe.run_folder import best_checkpoint
from infodcl_dist.train.checkpoint import CHECKSUMS
from infodcl_dist.train.state import SELECTED_BY
from infodcl_dist.tune.cluster import work
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.plots import draw_plots
from infodcl_dist.tune.reports import REFUSED
from infodcl_dist.tune.study import TABLE_FILE, Study, Trial

BEST_FILE, RESULT_FILE, PLOTS = "best.yaml", "result.json", "plots"
SHOWN = 10


def write_results(study: Study, config: TuneConfig) -> None:
    """Writes all results into the study folder; the chosen trial alone is evaluated on test, and once.

    Where that is still to be done, workers do it, and Ray is connected, see `needs_evaluation`.

    Raises:
        UserError: no trial came to an evaluation, unless it was refused.
    """
    trials = study.trials()
    table = trials_table(study, trials)
    with new_file(study.path / TABLE_FILE) as building:
        pq.write_table(table, building)
    best = _best(study, trials)
    if best is None:
        raise UserError(
            f"{study.path}: no trial came to an evaluation, unless it was refused; see `error` in {TABLE_FILE}; "
            "--resume tries those that failed again"
        )
    _write_best(study, best)
    result = _result(study, config, best)
    draw_plots(study, config.space, trials, study.path / PLOTS)
    _say(study, table, result)


def needs_evaluation(study: Study) -> bool:
    """Whether the trial that is the best by now has not been evaluated on test."""
    best = _best(study, study.trials())
    return best is not None and _known_result(study, best) is None


def _best(study: Study, trials: list[Trial]) -> Trial | None:
    """The trial with the largest value, the first of equal ones; None where none came to an evaluation.

    Not one that was refused: its configuration does not train to an end.
    """
    evaluated = [t for t in trials if t.status != REFUSED and study.best_evaluation(t.number) is not None]
    return max(evaluated, key=lambda trial: study.value(trial.number), default=None)


def trials_table(study: Study, trials: list[Trial]) -> pa.Table:
    """A row a trial: number, status, its parameters by key, epochs, best_epoch, the best epoch's metrics, and more.

    A parameter that is a list, or of several types over the trials, stands as JSON.
    """
    table = pa.Table.from_pylist([_row(study, trial) for trial in _with_plain_parameters(trials)])
    # A column without a value has no type of its own.
    types = {"error": pa.string(), "best_epoch": pa.int64()}
    for name in table.column_names:
        if pa.types.is_null(table.schema.field(name).type):
            wanted = types.get(name, pa.float64())
            table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(wanted))
    return table


def _row(study: Study, trial: Trial) -> dict[str, Any]:
    evaluations, best = study.evaluations(trial.number), study.best_evaluation(trial.number)
    metrics = {f"valid/{name}": None for name in names_of(study.base.evaluation.metrics, study.base.evaluation.cutoffs)}
    found = {name: value for name, value in (best or {}).items() if name.startswith("valid/")}
    return {
        "number": trial.number,
        "status": trial.status,
        **trial.parameters,
        "epochs": int(evaluations[-1]["epoch"]) if evaluations else 0,
        "best_epoch": None if best is None else int(best["epoch"]),
        **metrics,
        **found,
        "seconds": trial.seconds,
        "attempts": trial.attempts,
        "error": trial.error,
        "run": str(study.run_folder(trial.number)),
    }


def _with_plain_parameters(trials: list[Trial]) -> list[Trial]:
    as_json = {key for key in trials[0].parameters if not _is_plain([trial.parameters[key] for trial in trials])}
    return [
        replace(
            trial,
            parameters={key: json.dumps(value) if key in as_json else value for key, value in trial.parameters.items()},
        )
        for trial in trials
    ]


def _is_plain(values: list[Any]) -> bool:
    types = {type(value) for value in values} - {type(None)}
    return types <= {int, float} or (len(types) == 1 and not types & {list, dict})


def _write_best(study: Study, best: Trial) -> None:
    config = study.run_config(best.number, best.parameters)
    config = config.model_copy(update={"run": config.run.model_copy(update={"path": study.path / "best"})})
    reached = f"{SELECTED_BY} {study.value(best.number):.4f}"
    head = f"# Trial {best.number}: {reached}. infodcl-dist train --config {BEST_FILE}\n"
    write_text(study.path / BEST_FILE, head + dump_config(config))


def _result(study: Study, config: TuneConfig, best: Trial) -> dict[str, Any]:
    """`result.json`: the chosen trial with its metrics on test, computed when it was not yet the chosen one."""
    if (known := _known_result(study, best)) is not None:
        return known
    log.info("evaluating trial %d on test", best.number)
    # As many processes as trained it: its tables need not fit into this one.
    metrics = work("evaluate", study.write_config(best), config)
    chosen = {"trial": best.number, "model": _model(study, best), "selected_by": SELECTED_BY}
    result = chosen | {"parameters": best.parameters, **(metrics or {})}
    write_json(study.path / RESULT_FILE, result)
    return result


def _known_result(study: Study, best: Trial) -> dict[str, Any] | None:
    """`result.json` where it is of this trial, and of the model that it has: one that was removed is made anew."""
    file = study.path / RESULT_FILE
    known: dict[str, Any] | None = read_json(file) if file.is_file() else None
    if known is None or known["trial"] != best.number:
        return None
    model = _model(study, best)
    return known if model is None or model == known.get("model") else None


def _model(study: Study, trial: Trial) -> str | None:
    """What a trial's model is known by; None where it has been cleared away."""
    checksums = best_checkpoint(study.run_folder(trial.number)) / CHECKSUMS
    return sha256_of_file(checksums) if checksums.is_file() else None


def _say(study: Study, table: pa.Table, result: dict[str, Any]) -> None:
    keys = list(study.trials()[0].parameters)
    order = table.sort_by([(SELECTED_BY, "descending")]).to_pylist()
    counts = table.group_by("status").aggregate([([], "count_all")]).to_pylist()
    shown = Table(title=f"best {min(SHOWN, len(order))} of {len(order)} trials", title_justify="left")
    for name in ("trial", "status", "epochs", SELECTED_BY, *keys):
        shown.add_column(name.removeprefix("valid/"), justify="right", overflow="fold")
    for row in order[:SHOWN]:
        values = [_short(row[key]) for key in (SELECTED_BY, *keys)]
        shown.add_row(str(row["number"]), row["status"], str(row["epochs"]), *values)
    console.print(shown)
    console.print(", ".join(f"{count['count_all']} {count['status']}" for count in counts))
    test = "  ".join(f"{name} {value:.4f}" for name, value in result["test"].items())
    console.print(f"trial {result['trial']} on test: {test}")
    for what, file in (("table", TABLE_FILE), ("best", BEST_FILE), ("result", RESULT_FILE), ("plots", PLOTS)):
        console.print(f"{what:<7} {study.path / file}")


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
