"""Files that should be UTF-8 and are not: which line to name."""

from pathlib import Path

from infodcl_dist.base.errors import UserError


def not_utf8(path: Path, line: int) -> UserError:
    """What is said of such a line, counted from 1."""
    return UserError(f"{path}:{line}: is not UTF-8 text; save the file as UTF-8")


def first_line_not_utf8(path: Path) -> int | None:
    """The first such line, from 1; None if the whole file is UTF-8. Reads the file again: for messages alone."""
    with path.open("rb") as stream:
        return next((number for number, line in enumerate(stream, 1) if not _is_utf8(line)), None)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
