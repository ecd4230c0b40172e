"""What people see: one console, progress bars and log lines, on rank 0 alone and never inside a collective."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Element = TypeVar("Element")

# A log file or a pipe has no width of its own: lines are not to be broken at 80 columns there.
console = Console(stderr=True, width=None if sys.stderr.isatty() else 160)
log = logging.getLogger("infodcl_dist")


def is_rank_zero() -> bool:
    """Whether this process speaks: true outside a process group, and on its rank 0."""
    return int(os.environ.get("RANK", "0")) == 0


def set_up_log(file: Path | None = None) -> None:
    """Sends log lines to the terminal and, when given, appends them to `file`; ranks above 0 only warn."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.setLevel(logging.INFO if is_rank_zero() else logging.WARNING)
    log.propagate = False
    log.addHandler(RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S", omit_repeated_times=False))
    if file is not None and is_rank_zero():
        file.parent.mkdir(parents=True, exist_ok=True)
        to_file = logging.FileHandler(file, encoding="utf-8")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(to_file)


def progress_bar() -> Progress:
    """A progress display that draws on rank 0 of a terminal and is silent everywhere else."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (is_rank_zero() and console.is_terminal),
    )


def progress(elements: Iterable[Element], description: str, total: int | None = None) -> Iterator[Element]:
    """Iterates with a progress bar. The bar never touches the process group, so ranks cannot wait for it."""
    with progress_bar() as bar:
        yield from bar.track(elements, description=description, total=total)
