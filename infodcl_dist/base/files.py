"""Outputs that are complete or absent, and the checksums that show it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infodcl_dist.base.errors import UserError


@contextmanager
def new_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside `final`, and gives it that name only when the block ends without an exception.

    Args:
        final: the folder to make. Its parents are made when missing.
        replace: whether an existing `final` is replaced; it stays in place until the new one is complete.

    Raises:
        UserError: `final` exists, before the block or after it, and `replace` is false, or it cannot be written.
    """
    if not replace:
        _refuse_existing(final)
    building, retired = (final.with_name(f".{final.name}.{state}-{os.getpid()}") for state in ("building", "retired"))
    try:
        with writing(final):
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            yield building
            if not replace:
                _refuse_existing(final)
            elif final.exists():
                final.rename(retired)
            building.rename(final)
            shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _refuse_existing(final: Path) -> None:
    if os.path.lexists(final):
        raise UserError(f"{final}: exists already; choose another folder, or remove it")


@contextmanager
def writing(final: Path) -> Iterator[None]:
    """What the system refuses in the block (no room, no permission, a name too long) is told as the fault of `final`.

    Raises:
        UserError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{final}: cannot be written ({error.strerror or error}); make room, or choose a folder you may write to"
        ) from error


@contextmanager
def new_file(final: Path) -> Iterator[Path]:
    """Yields a path beside `final` to write to, renamed to `final` when the block ends without an exception.

    Raises:
        UserError: the folder of `final` cannot be made.
    """
    building = final.with_name(f".{final.name}.building-{os.getpid()}")
    with writing(final):
        final.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield building
        building.replace(final)
    finally:
        building.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    with new_file(path) as building:
        building.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); make it again") from error


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
