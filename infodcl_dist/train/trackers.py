"""Hooks that record a run on rank 0: metrics.jsonl, TensorBoard and the terminal."""

import json
from pathlib import Path

from rich.table import Table

from infodcl_dist.base.console import console, is_rank_zero, log
from infodcl_dist.base.errors import Unavailable
from infodcl_dist.base.files import read_json_lines, write_text, writing
from infodcl_dist.parallel.folders import on_rank_zero
from infodcl_dist.train.loop import EpochReport


class MetricsFile:
    """Appends one JSON line an epoch; lines of epochs that will be trained again are taken out first."""

    def __init__(self, path: Path, first_epoch: int) -> None:
        self._path = path
        on_rank_zero(lambda: self._keep_before(first_epoch))

    def __call__(self, report: EpochReport) -> None:
        """Writes the epoch's line. All ranks call it.

        Raises:
            Unavailable: it cannot be written, on every rank.
        """
        on_rank_zero(lambda: self._append(_line(report.as_record())))

    def _keep_before(self, first_epoch: int) -> None:
        if self._path.exists():
            kept = [record for record in read_json_lines(self._path) if record["epoch"] < first_epoch]
            write_text(self._path, "".join(map(_line, kept)))

    def _append(self, line: str) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise Unavailable(
                f"{self._path}: cannot be written ({error.strerror}); make room, and run the same command to go on"
            ) from error


def _line(record: dict[str, float | int]) -> str:
    return json.dumps(record) + "\n"


class TensorBoard:
    """Writes every number of metrics.jsonl as a TensorBoard scalar."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        self._folder = folder
        on_rank_zero(lambda: self._open(first_epoch))

    def __call__(self, report: EpochReport) -> None:
        """Writes the epoch's scalars. All ranks call it.

        Raises:
            Unavailable: they cannot be written, on every rank.
        """
        on_rank_zero(lambda: self._write(report))

    def close(self) -> None:
        """Ends the event file. All ranks call it.

        Raises:
            Unavailable: see `__call__`.
        """
        on_rank_zero(self._close)

    def _open(self, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with writing(self._folder):
            self._writer = SummaryWriter(str(self._folder), purge_step=first_epoch)

    def _write(self, report: EpochReport) -> None:
        with writing(self._folder):
            for name, value in report.as_record().items():
                self._writer.add_scalar(name, value, report.epoch)
            self._writer.flush()

    def _close(self) -> None:
        with writing(self._folder):
            self._writer.close()


class Terminal:
    """A log line an epoch and a table of metrics an evaluation."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def __call__(self, report: EpochReport) -> None:
        """Prints the epoch."""
        present = {name.removeprefix("loss/"): value for name, value in report.losses.items() if value != 0.0}
        terms = "  ".join(f"{name} {value:.4f}" for name, value in present.items())
        log.info(
            "epoch %d/%d  %s  %s pairs/s", report.epoch, self._epochs, terms, f"{report.interactions_per_second:,.0f}"
        )
        if report.valid and is_rank_zero():
            console.print(
                metrics_table({"valid": report.valid}, f"epoch {report.epoch}{', best so far' * report.is_best}")
            )


def metrics_table(rows: dict[str, dict[str, float]], title: str) -> Table:
    """A terminal table: a row a split, a column a metric."""
    table = Table(title=title, title_justify="left")
    table.add_column("split")
    metrics = list(next(iter(rows.values())))
    for metric in metrics:
        table.add_column(metric, justify="right")
    for split, values in rows.items():
        table.add_row(split, *(f"{values[metric]:.4f}" for metric in metrics))
    return table
