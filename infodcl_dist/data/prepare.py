"""Interaction files to a dataset folder: read, settle ids, filter, split, write. One call, complete or absent."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from infodcl_dist.base.console import log
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import new_folder, sha256_of_file
from infodcl_dist.data.columns import Columns
from infodcl_dist.data.dataset import Dataset, Manifest, check_pairs
from infodcl_dist.data.given_splits import UnknownIds, check_no_shared_pair, settle_unknown_ids
from infodcl_dist.data.ids import compact
from infodcl_dist.data.pairs import Pairs, k_core
from infodcl_dist.data.readers import names_columns
from infodcl_dist.data.side_information import open_side_files
from infodcl_dist.data.sources import WHOLE, Source, find_files, read_source
from infodcl_dist.data.splits import (
    DROPPED,
    SPLIT_NAMES,
    VALID,
    Shares,
    split_by_ratio,
    split_by_time,
    split_by_user_time,
    split_leave_one_out,
)
from infodcl_dist.data.writer import seal, write_ids, write_split

SplitMethod = Literal["ratio", "temporal", "leave-one-out"]
TimeCut = Literal["global", "user"]


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How a source becomes a dataset."""

    format: str | None = None
    """One of `readers.FORMATS`; None finds it."""
    columns: Columns = field(default_factory=Columns)
    """The names of the columns, where a format names them."""
    split: SplitMethod | None = None
    """How one table is split (None: by ratio); not for a source that brings its splits."""
    ratio: Shares | None = None
    """Shares of train, validation and test (None: 8:1:1)."""
    time_cut: TimeCut | None = None
    """Where a temporal split cuts: all pairs at two moments (None too), or each user's pairs by their order in time."""
    seed: int = 0
    """Of the draws, ≥ 0."""
    min_rating: float | None = None
    """Pairs rated lower are left out."""
    k_core: int = 0
    """Each user and item keeps at least so many pairs; 0 and 1 leave all."""
    item_features: Mapping[str, Path] = field(default_factory=dict)
    """Files by name: .npy, whose row k belongs to the item whose id is k, or Parquet with a column `id`."""
    item_graph: Mapping[str, Path] = field(default_factory=dict)
    """Files of triples by name, whose heads are items."""
    user_graph: Path | None = None
    """A file of pairs of users."""
    unknown_ids: UnknownIds | None = None
    """What becomes of ids that given validation or test files alone have (None: error)."""

    @property
    def shares(self) -> Shares:
        """The ratio that holds."""
        return self.ratio or (8, 1, 1)


def prepare(source: Path, out: Path, options: PrepareOptions | None = None) -> Manifest:
    """Makes the dataset folder `out` from a file, a folder of its parts, or one of train, test and perhaps valid.

    Ids are numbered ascending over all splits. The same input and options give the same bytes.

    Raises:
        UserError: anything wrong with the input or the options; `out` is then not there.
    """
    options = options or PrepareOptions()
    with new_folder(out) as building:
        side = open_side_files(options.item_features, options.item_graph, options.user_graph)
        _refuse_unused(source, find_files(source), options)
        data = read_source(source, options.format, options.columns)
        _refuse_unseen_time(data, options)
        side.check_items(data.item_ids)
        removed: Counter[str] = Counter()
        if options.min_rating is not None:
            data, removed["low rating"] = _rated_well(data, options.min_rating)
        if WHOLE not in data.files:
            policy = options.unknown_ids or "error"
            data, removed["unknown ids"] = settle_unknown_ids(data, policy, side.have_features)
        tables = {name: file.pairs.sorted_without_duplicates() for name, file in data.files.items()}
        removed["duplicates"] = sum(len(file.pairs) - len(tables[name]) for name, file in data.files.items())
        splits = _split_one(tables[WHOLE], options, removed) if WHOLE in tables else _complete(data, tables, options)
        for split, pairs in splits.items():
            if len(pairs) == 0:
                raise UserError(f"{source}: no pair is left for {split}; {_remedy(options, split, data.files)}")
        user_ids, item_ids, splits = _renumber(data, splits)
        _write(building, user_ids, item_ids, splits)
        written = side.write(building, user_ids, item_ids)
        manifest = seal(
            building,
            name=out.resolve().name,
            users=len(user_ids),
            items=len(item_ids),
            counts={split: len(pairs) for split, pairs in splits.items()},
            removed={reason: count for reason, count in removed.items() if count},
            source=_describe(source, data),
            settings=_settings(options, given=WHOLE not in data.files),
            missing_rows=written.missing_rows,
            item_graphs=written.item_graphs,
            user_graph=written.user_graph,
        )
        # What lies on the disk, not what was meant to.
        check_pairs(Dataset(building, manifest))
        return manifest


def _refuse_unused(source: Path, splits: Collection[str], options: PrepareOptions) -> None:
    """Refuses an option that would do nothing to a source of these splits."""
    is_given = WHOLE not in splits
    if is_given and options.k_core > 1:
        raise UserError(
            f"--k-core {options.k_core}: {source} brings its splits, and a k-core over them would let test pairs "
            "decide what is trained on; leave it out, or give one file"
        )
    if is_given and options.split is not None:
        raise UserError(f"--split {options.split}: {source} brings its splits; leave it out, or give one file")
    if options.time_cut is not None and options.split != "temporal":
        raise UserError(
            f"--time-cut {options.time_cut}: is for --split temporal alone; leave it out, or take that split"
        )
    if options.ratio is not None and options.split == "leave-one-out":
        raise UserError(f"--ratio {_text(options.ratio)}: --split leave-one-out takes no shares; leave one of them out")
    if options.ratio is not None and "valid" in splits:
        raise UserError(f"--ratio {_text(options.ratio)}: {source} brings all its splits; leave it out")
    if options.unknown_ids is not None and not is_given:
        raise UserError(f"--unknown-ids {options.unknown_ids}: {source} brings no splits; leave it out")


def _refuse_unseen_time(data: Source, options: PrepareOptions) -> None:
    """Without times leave-one-out draws: that is to be the user's word, not that of a column whose name we missed."""
    if options.split != "leave-one-out" or "time" in data.files[WHOLE].pairs.columns:
        return
    file = data.files[WHOLE]
    if names_columns(file.format) and options.columns.time is None:
        raise UserError(
            f"--split leave-one-out: {file.path}: no time column found; name it with --time-column NAME, "
            "or give --time-column '' to draw each user's held-out pairs at random (by --seed)"
        )
    log.info("no times: each user's held-out pairs are drawn at random (by --seed)")


def _rated_well(data: Source, min_rating: float) -> tuple[Source, int]:
    """The pairs that are rated high enough, and how many are not."""
    files, removed = {}, 0
    for split, file in data.files.items():
        if "rating" not in file.pairs.columns:
            raise UserError(f"--min-rating {min_rating}: {file.path} and its like have no rating; name --rating-column")
        files[split] = file.take(file.pairs.columns["rating"] >= min_rating)
        removed += len(file.pairs) - len(files[split].pairs)
    return replace(data, files=files), removed


def _split_one(pairs: Pairs, options: PrepareOptions, removed: Counter[str]) -> dict[str, Pairs]:
    """Filters one table to its k-core and splits it."""
    core = pairs.take(k_core(pairs.users, pairs.items, options.k_core)) if options.k_core > 1 else pairs
    removed["k-core"] += len(pairs) - len(core)
    time = core.columns.get("time")
    if len(core) == 0:
        return {split: core for split in SPLIT_NAMES}
    if options.split == "temporal" and options.time_cut == "user":
        assigned = split_by_user_time(core.users, core.items, time, options.shares)
    elif options.split == "temporal":
        assigned = split_by_time(core.users, core.items, time, options.shares)
    elif options.split == "leave-one-out":
        assigned = split_leave_one_out(core.users, core.items, time, options.seed)
    else:
        assigned = split_by_ratio(core.users, options.shares, options.seed)
    removed["unseen before the cut"] += int((assigned == DROPPED).sum())
    return {split: core.take(assigned == number) for number, split in enumerate(SPLIT_NAMES)}


def _complete(source: Source, given: dict[str, Pairs], options: PrepareOptions) -> dict[str, Pairs]:
    """Checks given splits against each other; a missing validation split is drawn from each user's train pairs."""
    check_no_shared_pair(source, given)
    if "valid" in given:
        return given
    train = given["train"]
    drawn = split_by_ratio(train.users, (*options.shares[:2], 0), options.seed) == VALID
    log.info("no validation file: %s pairs drawn from train", f"{int(drawn.sum()):,}")
    return {"train": train.take(~drawn), "valid": train.take(drawn), "test": given["test"]}


def _remedy(options: PrepareOptions, split: str, given: Collection[str]) -> str:
    """What may have emptied a split, to be done otherwise; splits that were given obey no --split."""
    remedies = []
    if options.min_rating is not None or options.k_core > 1:
        remedies.append("lower --min-rating or --k-core")
    if options.unknown_ids == "drop" and split in given:
        remedies.append(f"give --unknown-ids keep, or a {split} file with ids that train knows")
    other_split = "take another --split, " if WHOLE in given else "give a file of it, "
    return ", or ".join(remedies) or f"{other_split}a --ratio with more for {split}, or more data"


def _renumber(source: Source, splits: dict[str, Pairs]) -> tuple[pa.Array, pa.Array, dict[str, Pairs]]:
    """The ids that are left, and the splits in their numbering; the order of pairs stays."""
    user_ids, users = compact(source.user_ids, [pairs.users for pairs in splits.values()])
    item_ids, items = compact(source.item_ids, [pairs.items for pairs in splits.values()])
    renumbered = {
        split: Pairs(pairs.columns | {"user": users[index], "item": items[index]})
        for index, (split, pairs) in enumerate(splits.items())
    }
    unseen = len(item_ids) - len(np.unique(renumbered["train"].items))
    log.info("%s users, %s items, of which %s never occur in train", len(user_ids), len(item_ids), unseen)
    return user_ids, item_ids, renumbered


def _write(folder: Path, user_ids: pa.Array, item_ids: pa.Array, splits: dict[str, Pairs]) -> None:
    write_ids(folder / "users.parquet", user_ids)
    write_ids(folder / "items.parquet", item_ids)
    for split, pairs in splits.items():
        write_split(folder, split, pairs.columns, users=len(user_ids), items=len(item_ids))


def _describe(source: Path, data: Source) -> dict[str, Any]:
    files = {}
    for split, file in data.files.items():
        sums = [{"file": part.name, "sha256": sha256_of_file(part)} for part in file.parts]
        files[split] = {"format": file.format} | (sums[0] if len(sums) == 1 else {"parts": sums})
    return {"path": str(source), "files": files}


def _settings(options: PrepareOptions, *, given: bool) -> dict[str, Any]:
    """The options as JSON holds them, with the split that was taken."""
    settings = asdict(options) | {"columns": options.columns.by_role}
    settings["split"] = "given" if given else options.split or "ratio"
    settings |= {"ratio": _text(options.shares), "time_cut": options.time_cut or "global"}
    settings["unknown_ids"] = options.unknown_ids or "error"
    for option in ("item_features", "item_graph"):
        settings[option] = {name: str(file) for name, file in settings[option].items()}
    settings["user_graph"] = None if options.user_graph is None else str(options.user_graph)
    return settings


def _text(shares: Shares) -> str:
    return ":".join(map(str, shares))
