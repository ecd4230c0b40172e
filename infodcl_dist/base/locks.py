"""A lock that processes hold by a file. The system releases it when its holder ends, by kill -9 too."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from infodcl_dist.base.console import log
from infodcl_dist.base.errors import Unavailable

_POLL_S = 0.2


class Held(Unavailable):
    """Another process has the lock."""


@contextmanager
def locked(
    file: Path, *, wait_s: float | None = None, holder: str = "another process", is_told: bool = False
) -> Iterator[None]:
    """Holds the lock of `file` for the block. The empty file is made when missing, and stays.

    Args:
        file: on a file system that all who ask for the lock share.
        wait_s: how long to wait for it; None: as long as it takes.
        holder: who may hold it, for the message.
        is_told: whether the log has said already that it is waited for.

    Raises:
        Held: it is still held after `wait_s`.
        Unavailable: the file cannot be made or locked.
    """
    deadline = None if wait_s is None else time.monotonic() + wait_s
    while (stream := _opened_if_free(file)) is None:
        if not is_told:
            log.info("%s: waiting for %s to leave it", file.parent, holder)
            is_told = True
        if deadline is not None and time.monotonic() >= deadline:
            raise Held(f"{file.parent}: {holder} works on it; wait for its end, or end it")
        time.sleep(_POLL_S)
    with stream:
        yield


@contextmanager
def locked_if_free(file: Path) -> Iterator[bool]:
    """Holds the lock of an existing file for the block, if nobody else does and it may be held; yields whether."""
    try:
        stream = file.open("r+")
    except OSError:
        yield False
        return
    with stream:
        try:
            is_ours = _taken(file, stream.fileno())
        except Unavailable:
            is_ours = False
        yield is_ours


def _opened_if_free(file: Path) -> TextIO | None:
    """The file with its lock, which goes when it is closed; None where another process has it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a")
    except OSError as error:
        raise Unavailable(f"{file}: cannot be written ({error.strerror}); choose a folder you may write to") from error
    is_ours = False
    try:
        # A holder may remove the file before it leaves: who locks what has no name any more locks nobody out.
        is_ours = _taken(file, stream.fileno()) and _still_has_its_name(file, stream.fileno())
    finally:
        if not is_ours:
            stream.close()
    return stream if is_ours else None


def _still_has_its_name(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _taken(file: Path, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise Unavailable(
            f"{file}: cannot be locked ({error.strerror}); choose a folder on a file system that has locks"
        ) from error
    return True
