"""Outputs that are complete or absent, and the checksums that show it."""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIG_DFL, SIGTERM
from types import FrameType
from typing import Any, Literal

from infodcl_dist.base.errors import Unavailable, UserError

TERMINATED = 143  # the status that a shell reports of a SIGTERM


@contextmanager
def new_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside `final`, and gives it that name only when the block ends without an exception.

    A SIGTERM counts as one, in a command's own thread; a kill alone leaves the folder behind.

    Args:
        final: the folder to make. Its parents are made when missing.
        replace: whether an existing `final` is replaced; it stays in place until the new one is complete.

    Raises:
        UserError: `final` exists, before the block or after it, and `replace` is false, or it cannot be written.
    """
    if not replace:
        refuse_existing(final)
    building, retired = (final.with_name(f".{final.name}.{state}-{os.getpid()}") for state in ("building", "retired"))
    try:
        with writing(final), _ended_by_sigterm():
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            yield building
            if not replace:
                refuse_existing(final)
            elif final.exists():
                final.rename(retired)
            building.rename(final)
            shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM, where nobody else listens to it, ends the block as an exception does: what is half made is removed."""

    def end(signal_number: int, frame: FrameType | None) -> None:
        sys.exit(TERMINATED)

    listens = threading.current_thread() is threading.main_thread() and signal.getsignal(SIGTERM) is SIG_DFL
    if listens:
        signal.signal(SIGTERM, end)
    try:
        yield
    finally:
        if listens:
            signal.signal(SIGTERM, SIG_DFL)


def refuse_existing(final: Path, *, kind: Literal["folder", "file"] = "folder") -> None:
    """Refuses a path where something is, be it a broken link.

    Args:
        final: the path.
        kind: what was to be made there.

    Raises:
        UserError: it is there.
    """
    if os.path.lexists(final):
        raise UserError(f"{final}: exists already; choose another {kind}, or remove it")


@contextmanager
def writing(final: Path) -> Iterator[None]:
    """What the system refuses in the block (no room, no permission, a name too long) is told as the fault of `final`.

    Or of another file, where the system names one that is neither part of `final` nor above it: an input is gone.

    Raises:
        Unavailable: in place of an OSError.
    """
    told = _under_its_own_name(final)
    try:
        yield
    except OSError as error:
        reason = refusal(error)
        if isinstance(error.filename, str | bytes) and not _is_of(Path(os.fsdecode(error.filename)), final):
            raise Unavailable(f"{os.fsdecode(error.filename)}: {reason}, while {told} was being made") from error
        raise Unavailable(
            f"{told}: cannot be written ({reason}); make room, or choose a folder you may write to"
        ) from error


def refusal(error: OSError | Unavailable) -> str:
    """The system's own words, also of what `writing` made of them."""
    cause = error.__cause__ if isinstance(error, Unavailable) else error
    return str(getattr(cause, "strerror", None) or error)


def _under_its_own_name(path: Path) -> Path:
    """The folder or file that `path` is a part of, where that is still being built under a hidden name."""
    for part in (*reversed(path.parents), path):
        if named := re.fullmatch(r"\.(.+)\.building(-\d+)?", part.name):
            return part.with_name(named[1])
    return path


def _is_of(path: Path, final: Path) -> bool:
    """Whether `path` is `final`, in it, above it, or the same of what is built beside it under a hidden name."""
    path, final = path.absolute(), final.absolute()
    if final.is_relative_to(path):
        return True
    below = path.relative_to(final.parent).parts if path.is_relative_to(final.parent) else ()
    return bool(below) and (below[0] == final.name or below[0].startswith(f".{final.name}."))


@contextmanager
def new_file(final: Path) -> Iterator[Path]:
    """Yields a path beside `final` to write to, renamed to `final` when the block ends without an exception.

    A SIGTERM counts as one, as in `new_folder`.

    Raises:
        Unavailable: what the system refuses in the block, or in making the folder or the file, see `writing`.
    """
    building = final.with_name(f".{final.name}.building-{os.getpid()}")
    with writing(final), _ended_by_sigterm():
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield building
            building.replace(final)
        finally:
            with suppress(OSError):  # gone, or never made
                building.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all.

    Raises:
        Unavailable: the system refuses.
    """
    with new_file(path) as building:
        building.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON; as `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        Unavailable: the system refuses.
        UserError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise Unavailable(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); make it again") from error


def read_json_lines(path: Path) -> list[Any]:
    """The values of a file that has one a line; none where there is no file.

    Raises:
        UserError: a line is no JSON. (Not the last one: a killed process can leave half of it.)
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), 1):
        if line.endswith("\n"):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}:{number}: cannot be read as JSON ({error}); make it again") from None
    return found


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
