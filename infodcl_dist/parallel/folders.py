"""Folders that several ranks write together: complete or absent, never half."""

import math
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from infodcl_dist.base.console import is_rank_zero
from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.files import refuse_existing, writing
from infodcl_dist.base.locks import Held, locked
from infodcl_dist.parallel.collectives import SideGroup, barrier, broadcast_object, gather_objects

Value = TypeVar("Value")
# A value, or the error there was in its place, by what makes it again.
Outcome = tuple[Any, tuple[type[UserError], str] | None]

BUILDING, RETIRED = ".building", ".retired"  # how names of folders end that are written, and replaced
ROUND_S = 1.0  # of a wait for a lock
ENDING_S = 60.0  # that the processes of a killed command may take to end; assumption
SEEN_S = 5.0  # that a network file system may take to show a rank what another one wrote; assumption


@contextmanager
def new_shared_folder(final: Path, group: SideGroup | None = None, *, replace: bool = True) -> Iterator[Path]:
    """Yields a folder beside `final` on every rank; when all ranks leave the block it replaces `final` in one rename.

    The ranks must see one file system, and no other group may write the same folder meanwhile. A rank that raises
    leaves the group, so the others' barrier fails, `final` stays as it was, and what was written goes. (Of killed ranks
    it stays, see `clear_unfinished`.)

    Args:
        final: the folder to make.
        group: who writes it; None: all ranks.
        replace: whether an existing `final` may be replaced.

    Raises:
        Unavailable: the folder cannot be made or put in its place, on every rank.
        UserError: `final` exists, before the block or after it, and `replace` is false; on every rank.
    """
    building = final.with_name(f".{final.name}{BUILDING}")
    if not replace:
        on_rank_zero(lambda: refuse_existing(final), group)
    on_rank_zero(lambda: _make_empty(building), group)
    try:
        yield building
        barrier(group)
        on_rank_zero(lambda: _put_in_place(building, final, replace=replace), group)
    except BaseException:
        if is_rank_zero():
            shutil.rmtree(building, ignore_errors=True)
        raise


def check_shared(folder: Path) -> None:
    """Whether all ranks see the same under this path, an existing folder of rank 0's. All ranks call it.

    Args:
        folder: where rank 0 writes a file that the others look for.

    Raises:
        Unavailable: a rank does not see it, on every rank.
    """
    # A new name: of one that was looked for, a network file system may remember that it was not there.
    token = on_rank_zero(lambda: _write_token(folder))
    try:
        on_every_rank(lambda: _see(token))
    finally:
        if is_rank_zero():
            with suppress(OSError):
                token.unlink()


def appears(file: Path) -> bool:
    """Whether a file that another rank wrote is seen here, at once or within `SEEN_S`."""
    ends = time.monotonic() + SEEN_S
    while not os.path.isfile(file):
        if time.monotonic() >= ends:
            return False
        time.sleep(0.2)
        for above in reversed(file.absolute().parents):  # NFS asks its server anew about a folder that is opened
            with suppress(OSError):
                os.close(os.open(above, os.O_RDONLY | os.O_DIRECTORY))
    return True


def clear_unfinished(folder: Path) -> None:
    """Removes what killed writers of shared folders left in `folder`; one that was about to be replaced comes back."""
    for building in folder.glob(f".*{BUILDING}"):
        shutil.rmtree(building, ignore_errors=True)
    for retired in folder.glob(f".*{RETIRED}"):
        final = folder / retired.name.removeprefix(".").removesuffix(RETIRED)
        if final.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            retired.rename(final)


@contextmanager
def one_group_at_a_time(
    lock: Path,
    *,
    wait_s: float = math.inf,
    holder: str = "another process",
    meanwhile: Callable[[], None] = lambda: None,
    is_removed: bool = False,
) -> Iterator[None]:
    """The block runs in one process group of all that name this file; others wait.

    Args:
        lock: a file that all ranks see, which rank 0 locks.
        wait_s, holder: see `locked`.
        meanwhile: called on every rank, every `ROUND_S` of the wait; what it raises on all of them ends it.
        is_removed: whether the file goes when the block ends.

    Raises:
        Unavailable: what `locked` raises, on every rank.
    """
    rounds, began = 0, time.monotonic()
    with ExitStack() as held:

        def is_taken() -> bool:
            left = wait_s - (time.monotonic() - began)
            try:
                held.enter_context(locked(lock, wait_s=min(ROUND_S, left), holder=holder, is_told=rounds > 0))
            except Held:
                if left <= ROUND_S:
                    raise
                return False
            if is_removed:
                held.callback(lock.unlink, missing_ok=True)
            return True

        # In rounds, since no rank may wait for another longer than the group's time-out.
        while not on_rank_zero(is_taken):
            rounds += 1
            meanwhile()
        yield


def on_rank_zero(action: Callable[[], Value], group: SideGroup | None = None) -> Value:
    """Runs `action` on rank 0 and gives its picklable value, or the `UserError` it raised, to every rank.

    A subclass of `UserError` is made of its message alone.
    """
    outcome = broadcast_object(_outcome(action) if is_rank_zero() else None, group)
    value: Value = _value(outcome)
    return value


def on_every_rank(action: Callable[[], Value], group: SideGroup | None = None) -> list[Value]:
    """Runs `action` on each rank and gives all picklable values, or the first rank's `UserError`, to every rank."""
    return [_value(outcome) for outcome in gather_objects(_outcome(action), group)]


def _outcome(action: Callable[[], Any]) -> Outcome:
    try:
        return action(), None
    except UserError as error:
        return None, (type(error), str(error))


def _value(outcome: Outcome) -> Any:
    value, complaint = outcome
    if complaint is not None:
        kind, message = complaint
        raise kind(message)
    return value


def _write_token(folder: Path) -> Path:
    token = folder / f".seen-{uuid.uuid4().hex}"
    with writing(folder):
        token.touch()
    return token


def _see(token: Path) -> None:
    if not appears(token):
        raise Unavailable(
            f"{token.parent}: must lie on a file system that all hosts share; {socket.gethostname()} does not see what "
            "rank 0 wrote there"
        )


def _make_empty(folder: Path) -> None:
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)


def _put_in_place(building: Path, final: Path, *, replace: bool) -> None:
    if not replace:
        refuse_existing(final)
    retired = final.with_name(f".{final.name}{RETIRED}")
    shutil.rmtree(retired, ignore_errors=True)
    with writing(final):
        if final.exists():
            final.rename(retired)
        building.rename(final)
    shutil.rmtree(retired, ignore_errors=True)
