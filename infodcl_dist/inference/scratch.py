"""Folders that a pass out of core needs for a while.

Those of killed processes are removed when a run goes on, or is opened.

Beside each lies a lock file, held from before the folder is there until it is gone. Whoever can take the lock of
another's folder knows that its maker is dead.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infodcl_dist.base.console import is_rank_zero
from infodcl_dist.base.errors import Unavailable
from infodcl_dist.base.files import writing
from infodcl_dist.base.locks import locked_if_free
from infodcl_dist.parallel.folders import on_rank_zero, one_group_at_a_time

PREFIX, LOCK = ".propagation-", ".lock"  # how the names begin, and how those of the lock files end


@contextmanager
def scratch_folder(within: Path) -> Iterator[Path]:
    """A folder of one's own in `within` on all ranks, which goes with its files. All ranks call it.

    Raises:
        Unavailable: the system refuses a file in it.
    """
    lock = on_rank_zero(lambda: _new_lock(within))
    folder = lock.with_suffix("")
    with one_group_at_a_time(lock), writing(within):
        try:
            on_rank_zero(lambda: _make(folder))
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if is_rank_zero():
                _remove(lock)


def clear_scratch(within: Path) -> None:
    """Removes what killed processes left in `within`; what living ones hold stays."""
    for lock in within.glob(f"{PREFIX}*{LOCK}"):
        folder = lock.with_suffix("")
        with locked_if_free(lock) as is_free:
            if is_free:
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():
                    _remove(lock)


def _new_lock(within: Path) -> Path:
    try:
        within.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=PREFIX, suffix=LOCK, dir=within)
    except OSError as error:
        raise Unavailable(
            f"{within}: cannot be written ({error.strerror}); the pass out of core needs a folder"
        ) from error
    os.close(descriptor)
    return Path(name)


def _make(folder: Path) -> None:
    with writing(folder.parent):
        folder.mkdir(mode=0o700)


def _remove(lock: Path) -> None:
    with suppress(OSError):
        lock.unlink(missing_ok=True)
