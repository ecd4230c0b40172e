"""The files of a source, which split each is, and their pairs in one catalogue's codes."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from infodcl_dist.base.console import log
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.columns import Columns
from infodcl_dist.data.ids import encode, within_text_limit
from infodcl_dist.data.pairs import Pairs
from infodcl_dist.data.parts import may_be_parts, read_parts
from infodcl_dist.data.readers import detect_format, place_of_row, read_interactions

# The last dot-separated part of a file's name before its extension, as in `train.txt` and `ml-100k.train.inter`.
SPLIT_OF_STEM = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
EXTENSIONS = (".txt", ".csv", ".tsv", ".inter", ".parquet", ".pq")
HIDDEN = "._"  # how names begin that are no data: `_SUCCESS`, `.part-00000.parquet.crc`
WHOLE = "all"


@dataclass(frozen=True)
class SourceFile:
    """A file that was read, or a folder of a table's parts: its pairs, coded, in order, and the row each comes from."""

    path: Path
    format: str
    pairs: Pairs
    rows: np.ndarray | range
    parts: dict[Path, int]
    """The files and their numbers of rows; of a file itself alone."""

    def place(self, row: int) -> str:
        """`file:line` of a pair; reads the file again, for messages alone."""
        starts = np.cumsum([0, *self.parts.values()])
        part = int(np.searchsorted(starts, self.rows[row], side="right")) - 1
        return place_of_row(list(self.parts)[part], self.format, int(self.rows[row] - starts[part]))

    def take(self, mask: np.ndarray) -> "SourceFile":
        """The pairs where a mask is true."""
        kept = np.flatnonzero(mask)
        rows = kept if isinstance(self.rows, range) else self.rows[kept]
        return replace(self, pairs=self.pairs.take(kept), rows=rows)


@dataclass(frozen=True)
class Source:
    """What the user gave: files by split, or one under `all`; ids [n] ascending, to which all codes refer."""

    files: dict[str, SourceFile]
    user_ids: pa.Array
    item_ids: pa.Array


def find_files(source: Path) -> dict[str, list[Path]]:
    """The file of each split; or as `all` the one file, or the parts of one table in the order of their names.

    Raises:
        UserError: nothing there or neither file nor folder, a folder without train or test whose files are no parts of
            one table, two files for one split, or one that is compressed or of another kind.
    """
    if not os.path.exists(source):
        raise UserError(f"{source}: no such file or folder; check the path")
    if source.is_file():
        return {WHOLE: [source]}
    try:
        there = sorted(file for file in source.iterdir() if file.name[0] not in HIDDEN and file.is_file())
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); give a file or a folder of files") from error
    files = [file for file in there if file.suffix.lower() in EXTENSIONS]
    splits: dict[str, Path] = {}
    for file in files:
        split = _split_of(file)
        if split in splits:
            raise UserError(f"{file}: {splits[split].name} is the {split} split already; keep one of them")
        if split is not None:
            splits[split] = file
    _refuse_unread(there, files, splits)
    if not splits and (len(files) == 1 or may_be_parts(files)):
        return {WHOLE: files}
    if missing := [split for split in ("train", "test") if split not in splits]:
        names = ", ".join(file.name for file in files) or "none that can be read"
        raise UserError(f"{source}: no {missing[0]} file ({missing[0]}.txt, .csv, …) among: {names}; or give one file")
    return {split: [splits[split]] for split in ("train", "valid", "test") if split in splits}


def _refuse_unread(there: list[Path], files: list[Path], splits: dict[str, Path]) -> None:
    """A split or a part that cannot be read is not to pass for one that is not there."""
    for file in there:
        if file.suffix.lower() not in COMPRESSED:
            if splits and file not in files and _split_of(file) not in (None, *splits):
                raise UserError(f"{file}: is of no kind that can be read; save it as csv or Parquet, or take it out")
            continue
        unpacked = file.with_suffix("")
        if unpacked in files:
            continue
        may_be_part = not splits and unpacked.suffix.lower() in EXTENSIONS and may_be_parts([unpacked, *files[:1]])
        if may_be_part or _split_of(unpacked) not in (None, *splits):
            raise UserError(f"{file}: is compressed; unpack it, or take it out of the folder")


def _split_of(file: Path) -> str | None:
    return SPLIT_OF_STEM.get(file.stem.rpartition(".")[2].lower())


def read_source(source: Path, format: str | None, columns: Columns) -> Source:
    """Reads every file and codes its ids; `rating` and `time` stay where every file has them.

    Raises:
        UserError: a file that cannot be read, or that holds no pair.
    """
    found = find_files(source)
    if len(found.get(WHOLE, ())) > 1:
        tables, formats, parts = _read_whole(found[WHOLE], format, columns)
    else:
        tables, formats, parts = _read_each({split: file for split, (file,) in found.items()}, format, columns)
    with within_text_limit(source):
        user_ids, users = encode([table["user"].chunk(0) for table in tables.values()])
        item_ids, items = encode([table["item"].chunk(0) for table in tables.values()])
    extras = [name for name in ("rating", "time") if all(name in table.column_names for table in tables.values())]
    files = {}
    for index, (split, table) in enumerate(tables.items()):
        coded = {"user": users[index], "item": items[index]}
        pairs = Pairs(coded | {name: table[name].to_numpy() for name in extras})
        of_split = parts[split]
        path = source if len(of_split) > 1 else next(iter(of_split))
        files[split] = SourceFile(path, formats[split], pairs, range(len(pairs)), of_split)
    return Source(files, user_ids, item_ids)


_Read = tuple[dict[str, pa.Table], dict[str, str], dict[str, dict[Path, int]]]  # tables, formats and parts by split


def _read_whole(files: list[Path], format: str | None, columns: Columns) -> _Read:
    files = [file for file in files if file.stat().st_size > 0] or files  # Spark writes empty ones too
    with within_text_limit(files[0].parent):
        table, format, rows = read_parts(files, format, columns)
    log.info("read %s parts in %s as %s: %s pairs", len(files), files[0].parent, format, f"{table.num_rows:,}")
    return {WHOLE: table}, {WHOLE: format}, {WHOLE: dict(zip(files, rows, strict=True))}


def _read_each(paths: dict[str, Path], format: str | None, columns: Columns) -> _Read:
    formats = {split: format for split in paths} if format else _detect_formats(paths)
    tables = {}
    for split, path in paths.items():
        table = read_interactions(path, formats[split], columns, is_guess=format is None)
        if table.num_rows == 0:
            raise UserError(f"{path}: holds no pair of a user and an item; give a file with interactions")
        log.info("read %s as %s: %s pairs", path, formats[split], f"{table.num_rows:,}")
        tables[split] = table
    return tables, formats, {split: {paths[split]: table.num_rows} for split, table in tables.items()}


def _detect_formats(paths: dict[str, Path]) -> dict[str, str]:
    """The format of each file. A small file of one item a user could be pairs or adjacency: train tells which."""
    formats = {split: detect_format(path) for split, path in paths.items()}
    of_train = formats.get("train", "")
    return {split: of_train if {own, of_train} == {"pairs", "adjacency"} else own for split, own in formats.items()}
