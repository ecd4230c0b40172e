"""What people see: one console, progress bars and log lines, on rank 0 alone and never inside a collective.

Errors are told by the rank that has them: under torchrun by the first of a host, for most have the same on all ranks.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Element = TypeVar("Element")


class PipedConsole(Console):
    """A console that breaks no line where no terminal shows it, and whose reader may leave (`… | head`), for which rich
    would end the process with status 1."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich prints, see there; in a file or a pipe a line of text stays one, however long its path."""
        super().print(*objects, **{"soft_wrap": not self.is_terminal, **options})

    def on_broken_pipe(self) -> None:
        """Called while a BrokenPipeError is handled: results that nobody takes end the command, as `main` says.

        Log lines that nobody takes do not: the work goes on, unheard.
        """
        if not self.stderr:
            raise BrokenPipeError
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class _PlainLog(logging.Handler):
    """Log lines for a file or a pipe, where rich's would be broken and filled up with blanks."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`, whose lines end no command."""
        try:
            console.print(self.format(record), highlight=False)
        except Exception:
            self.handleError(record)


# A log file or a pipe has no width of its own, which tables ask for.
# Paths may hold what rich takes for its markup, or for a picture's name.
console = PipedConsole(stderr=True, width=None if sys.stderr.isatty() else 160, markup=False, emoji=False)
log = logging.getLogger("infodcl_dist")


def is_rank_zero() -> bool:
    """Whether this process speaks: true outside a process group, and on its rank 0."""
    return int(os.environ.get("RANK", "0")) == 0


def tells_error() -> bool:
    """Whether this process tells the error it ends with: the first of its host to ask, without torchrun rank 0."""
    file = _told_file()
    if file is None:
        return is_rank_zero()
    own_rank = os.environ["RANK"]
    try:
        with file.open("x") as stream:
            stream.write(own_rank)
    except FileExistsError:
        return file.read_text() == own_rank
    return True


def is_error_told() -> bool:
    """Whether a rank of this host tells an error."""
    file = _told_file()
    return file is not None and file.exists()


def _told_file() -> Path | None:
    """In the folder that torchrun's agent makes for each attempt at a run."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # <attempt>/<local rank>/error.json
    return None if error_file is None else Path(error_file).parents[1] / "error-told-by-rank"


def set_up_log(file: Path | None = None) -> None:
    """Sends log lines to the terminal and, when given, appends them to `file`; ranks above 0 only warn."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.setLevel(logging.INFO if is_rank_zero() else logging.WARNING)
    log.propagate = False
    if console.is_terminal:
        log.addHandler(
            RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S", omit_repeated_times=False)
        )
    else:
        plain = _PlainLog()
        plain.setFormatter(logging.Formatter("%(asctime)s %(levelname)-8s %(message)s", "%H:%M:%S"))
        log.addHandler(plain)
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
