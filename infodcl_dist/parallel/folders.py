"""Folders that several ranks write together: complete or absent, never half."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from infodcl_dist.base.console import is_rank_zero
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.locks import locked
from infodcl_dist.parallel.collectives import SideGroup, barrier, broadcast_object, gather_objects

Value = TypeVar("Value")

BUILDING, RETIRED = ".building", ".retired"  # how names of folders end that are written, and replaced
ENDING_S = 60.0  # that the processes of a killed command may take to end; assumption


@contextmanager
def new_shared_folder(final: Path, group: SideGroup | None = None) -> Iterator[Path]:
    """Yields a folder beside `final` on every rank; when all ranks leave the block it replaces `final` in one rename.

    The ranks must see one file system. A rank that raises leaves the group, so the others' barrier fails, `final`
    stays as it was, and what was written goes. (Of killed ranks it stays, see `clear_unfinished`.)

    Raises:
        UserError: the folder cannot be made or put in its place, on every rank.
    """
    building = final.with_name(f".{final.name}{BUILDING}")
    on_rank_zero(lambda: _make_empty(building), group)
    try:
        yield building
        barrier(group)
        on_rank_zero(lambda: _put_in_place(building, final), group)
    except BaseException:
        if is_rank_zero():
            shutil.rmtree(building, ignore_errors=True)
        raise


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
def one_group_at_a_time(lock: Path, *, wait_s: float | None = None, holder: str = "another process") -> Iterator[None]:
    """The block runs in one process group of all that name this file; others wait (at most their own time-out).

    Args:
        lock: a file that all ranks see, which rank 0 locks.
        wait_s, holder: see `locked`.

    Raises:
        UserError: what `locked` raises, on every rank.
    """
    with ExitStack() as held:

        def acquire() -> None:
            held.enter_context(locked(lock, wait_s=wait_s, holder=holder))

        on_rank_zero(acquire)
        yield


def on_rank_zero(action: Callable[[], Value], group: SideGroup | None = None) -> Value:
    """Runs `action` on rank 0 and gives its picklable value, or the `UserError` it raised, to every rank."""
    outcome: tuple[Value | None, str | None] = (None, None)
    if is_rank_zero():
        try:
            outcome = (action(), None)
        except UserError as error:
            outcome = (None, str(error))
    value, complaint = broadcast_object(outcome, group)
    if complaint is not None:
        raise UserError(complaint)
    return value


def on_every_rank(action: Callable[[], Value], group: SideGroup | None = None) -> list[Value]:
    """Runs `action` on each rank and gives all picklable values, or the first rank's `UserError`, to every rank."""
    outcome: tuple[Any, str | None]
    try:
        outcome = (action(), None)
    except UserError as error:
        outcome = (None, str(error))
    outcomes = gather_objects(outcome, group)
    for _, complaint in outcomes:
        if complaint is not None:
            raise UserError(complaint)
    return [value for value, _ in outcomes]


def _make_empty(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: cannot be written ({error.strerror}); choose a folder you may write to"
        ) from error


def _put_in_place(building: Path, final: Path) -> None:
    retired = final.with_name(f".{final.name}{RETIRED}")
    shutil.rmtree(retired, ignore_errors=True)
    try:
        if final.exists():
            final.rename(retired)
        building.rename(final)
    except OSError as error:
        raise UserError(f"{final}: cannot be written ({error.strerror}); choose another") from error
    shutil.rmtree(retired, ignore_errors=True)
