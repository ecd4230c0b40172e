"""A Parquet file made of parts that outlive an interruption, and of which it is put together at the end.

The parts lie in a hidden folder beside the file, with a digest of all that they follow from. The same command finds and
keeps them; another one starts anew. The file itself appears complete, in one rename.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infodcl_dist.base.console import log, progress
from infodcl_dist.base.errors import Unavailable
from infodcl_dist.base.files import new_file, read_json, refusal, refuse_existing, write_json, writing

ORIGIN = "origin.json"
GO_ON = "make room, and run the same command to go on"


@dataclass(frozen=True)
class Parts:
    """The parts of `final`: `count` in all, of which `pending` are still to be made."""

    final: Path
    folder: Path
    count: int
    pending: tuple[int, ...]

    def write(self, index: int, table: pa.Table) -> None:
        """Adds a part, whole or not at all.

        Raises:
            UserError: it cannot be written; what is there stays.
        """
        self._written(lambda: _write(self._part(index), table))

    def merge(self) -> None:
        """Puts the final file together, a batch at a time, and removes the parts.

        Raises:
            UserError: it cannot be written; the parts stay.
        """
        self._written(self._merge)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _merge(self) -> None:
        with (
            new_file(self.final) as building,
            pq.ParquetWriter(building, pq.read_schema(self._part(0))) as writer,
        ):
            for index in progress(range(self.count), "putting together"):
                for group in _row_groups(self._part(index)):
                    writer.write_table(group)

    def _written(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, Unavailable) as error:
            raise Unavailable(f"{self.final}: cannot be written ({refusal(error)}); {GO_ON}") from error

    def _part(self, index: int) -> Path:
        return _part(self.folder, index)


def open_parts(final: Path, count: int, origin: dict[str, Any]) -> Parts:
    """Finds the parts that an interrupted command left, or begins.

    Args:
        final: the file to make.
        count: parts in all, ≥ 1.
        origin: all that the parts follow from, as JSON values.

    Raises:
        UserError: `final` exists, or its folder cannot be written.
    """
    refuse_existing(final, kind="file")
    folder = final.with_name(f".{final.name}.parts")
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    stored = read_json(folder / ORIGIN) if os.path.isfile(folder / ORIGIN) else {}
    if stored != {"digest": digest, "parts": count}:
        if stored:
            log.info("%s: holds parts of another command; started anew", folder)
        with writing(final):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / ORIGIN, {"digest": digest, "parts": count})
    pending = tuple(index for index in range(count) if not _part(folder, index).is_file())
    if len(pending) < count:
        log.info("going on: %s of %s parts are there", f"{count - len(pending):,}", f"{count:,}")
    return Parts(final, folder, count, pending)


def _part(folder: Path, index: int) -> Path:
    return folder / f"part-{index:06d}.parquet"


def _write(file: Path, table: pa.Table) -> None:
    with new_file(file) as building:
        pq.write_table(table, building)


def _row_groups(file: Path) -> Iterator[pa.Table]:
    """A part's row groups, one in memory at a time."""
    with pq.ParquetFile(file) as part:
        yield from (part.read_row_group(index) for index in range(part.num_row_groups))
