"""Warm start: an earlier run's rows for the users and items that it knew, found by their own ids.

Row numbers travel to the earlier tables' owners and rows travel back, tile by tile, by the same lookup as in training:
each rank holds its shards of both runs' tables and never a whole table. The ids of both catalogues it reads whole.
"""

import gc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from infodcl_dist.base.console import log
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import Dataset, open_dataset
from infodcl_dist.data.ids import are_integers
from infodcl_dist.parallel.collectives import gather_objects
from infodcl_dist.parallel.folders import on_rank_zero
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import Span
from infodcl_dist.parallel.tables import TABLES, Tables
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.model import build_tables
from infodcl_dist.recipe.run_folder import best_checkpoint, check_trained_on, read_trained_config
from infodcl_dist.train.checkpoint import check_files, load_model

TILE_ROWS = 65_536  # a rank; at D = 64 some 50 MB travel at once
ABSENT = -1


@dataclass(frozen=True)
class Source:
    """The run that is started from."""

    path: Path
    config: RunConfig
    dataset: Dataset


def open_source(path: Path, config: RunConfig, dataset: Dataset) -> Source:
    """Opens the run that `config` starts from.

    Raises:
        UserError: it is no run, has no whole best checkpoint, another width, other kinds of ids, or its dataset folder
            is gone or was prepared anew since.
    """
    try:
        of_run = read_trained_config(path)
        source = Source(path, of_run, open_dataset(of_run.data.path, verify=False))
        check_trained_on(path, source.dataset)
        check_files(best_checkpoint(path))
    except UserError as error:
        raise UserError(f"init.from: {error}") from None
    if source.config.model.dim != config.model.dim:
        raise UserError(
            f"init.from: {path} has model.dim={source.config.model.dim}, this run {config.model.dim}; give it the same"
        )
    for name, theirs, ours in zip(TABLES, _ids(source.dataset), _ids(dataset), strict=True):
        if are_integers(theirs) != are_integers(ours):
            raise UserError(
                f"init.from: {name} ids are {_kind(theirs)} in {source.dataset.path} and {_kind(ours)} in "
                f"{dataset.path}; prepare both from ids of one kind"
            )
    return source


def warm_start(config: RunConfig, tables: Tables, dataset: Dataset, group: Group) -> None:
    """Gives each row of `tables` whose id the earlier run knew that run's row; the others stay. All ranks call it.

    Raises:
        UserError: see `open_source`.
    """
    path = config.init.run
    if path is None:
        raise ValueError("init.from is not set")
    source = on_rank_zero(lambda: open_source(path, config, dataset))
    earlier = build_tables(source.config, source.dataset, group)
    load_model(best_checkpoint(path), earlier, None)
    wanted = [
        earlier_rows(theirs, ours, block.rows)
        for theirs, ours, block in zip(_ids(source.dataset), _ids(dataset), tables.own_blocks(), strict=True)
    ]
    _copy_rows(earlier, tables, wanted)
    # Of ranks that share a table's columns, the first counts its rows.
    is_first = [block.columns.start == 0 for block in tables.own_blocks()]
    own = [int((rows != ABSENT).sum()) if counts else 0 for rows, counts in zip(wanted, is_first, strict=True)]
    reused = np.sum(gather_objects(own), axis=0)
    counts = (
        f"{name} rows: {known:,} reused, {tables.sizes[name] - known:,} new"
        for name, known in zip(TABLES, reused, strict=True)
    )
    log.info("warm start from %s; %s", path, "; ".join(counts))
    del earlier
    gc.collect()  # TorchRec's modules are cycles of references


def earlier_rows(theirs: pa.Array, ours: pa.Array, span: Span) -> Tensor:
    """For each of our ids in `span` the row of the same id among theirs, int64 [span.size]; `ABSENT` where new."""
    found = pc.index_in(ours[span.start : span.stop], value_set=theirs)
    return torch.from_numpy(pc.fill_null(found, ABSENT).to_numpy(zero_copy_only=False).astype(np.int64))


@torch.no_grad()
def _copy_rows(earlier: Tables, tables: Tables, wanted: list[Tensor]) -> None:
    """Copies `wanted` rows of the earlier tables over this rank's; ranks take equally many tiles, padded with row 0."""
    longest = max(max(sizes) for sizes in gather_objects([len(rows) for rows in wanted]))
    targets = list(zip(tables.parameters(), tables.own_blocks(), strict=True))
    device = earlier.user_rows.device
    for start in range(0, longest, TILE_ROWS):
        tile = min(TILE_ROWS, longest - start)
        ids = [_padded(rows[start : start + tile], tile) for rows in wanted]
        users, items = (of_table.clamp(min=0).to(device) for of_table in ids)
        found = earlier.lookup(users, items, items)
        for (target, block), of_table, rows in zip(targets, ids, (found.users, found.positives), strict=True):
            known = torch.nonzero(of_table != ABSENT).flatten().to(device)
            target[start + known] = rows[known, block.columns.start : block.columns.stop]


def _padded(rows: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, size - len(rows)), value=ABSENT)


def _ids(dataset: Dataset) -> tuple[pa.Array, pa.Array]:
    return dataset.user_ids(), dataset.item_ids()


def _kind(ids: pa.Array) -> str:
    return "integers" if are_integers(ids) else "strings"
