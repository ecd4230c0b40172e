"""`infodcl-dist recommend`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infodcl_dist.base.console import console, is_rank_zero, log, set_up_log
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import refuse_existing, sha256_of_file
from infodcl_dist.cli.processes import WAIT_FOR_RANK_ZERO_S, with_processes

if TYPE_CHECKING:
    import numpy as np

    from infodcl_dist.inference.recommendation import Audience
    from infodcl_dist.recipe.model import Evaluator


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), required=True, help="items a user")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Parquet file to make")
@click.option(
    "--users", type=click.Path(path_type=Path), help="ids, one a line, or Parquet with a column user; else all"
)
@click.option(
    "--histories",
    type=click.Path(path_type=Path),
    help="pairs of a new user and an item, in any format that prepare reads: lists for these users",
)
@click.option("--allow", type=click.Path(path_type=Path), help="items that may be listed: ids, as of --users; else all")
@click.option("--deny", type=click.Path(path_type=Path), help="items that may not be listed: ids, as of --users")
@with_processes
def recommend(run: Path, top: int, out: Path, users: Path | None, histories: Path | None, **items: Path | None) -> None:
    """Writes each user's best items by RUN's best checkpoint: columns user, item, rank (from 1), score.

    Items that a user has in training, or in its history, are left out. Users come in the data set's order, those of
    --histories in that of their ids. An interrupted command, given again, goes on where it was.
    """
    from infodcl_dist.inference.recommendation import write_recommendations
    from infodcl_dist.parallel.group import process_group
    from infodcl_dist.recipe.run import open_run

    set_up_log()
    refuse_existing(out, kind="file")
    if users is not None and histories is not None:
        raise UserError("--users and --histories exclude each other: the data set's users, or new ones")
    with process_group(WAIT_FOR_RANK_ZERO_S) as group:  # which puts the parts together
        trained = open_run(run, group)
        audience = _known(trained, users) if histories is None else _new(trained, histories)
        candidates = _candidates(trained, **items)
        write_recommendations(
            out,
            audience,
            trained.embeddings(),
            item_ids=trained.dataset.item_ids(),
            candidates=candidates,
            k=top,
            origin=_origin(run, trained, {"users": users, "histories": histories, **items}),
            group=group,
        )
    if is_rank_zero():
        console.print(f"recommendations  {out}: {len(audience.ids):,} users, {top} items each at most")


def _known(trained: "Evaluator", users: Path | None) -> "Audience":
    """The data set's users, or those of a list."""
    import numpy as np
    import pyarrow as pa
    import torch

    from infodcl_dist.data.id_list import read_id_list
    from infodcl_dist.inference.recommendation import KnownUsers

    ids, seen = trained.dataset.user_ids(), trained.graph.items_of_user
    wanted = np.arange(len(ids)) if users is None else read_id_list(users, ids)
    return KnownUsers(ids.take(pa.array(wanted)), torch.from_numpy(wanted).to(seen.indices.device), [seen])


def _new(trained: "Evaluator", file: Path) -> "Audience":
    """The users of a file of histories; what of it the data set has not is said in the log."""
    from infodcl_dist.data.histories import read_histories
    from infodcl_dist.graph.bipartite import tensor_rows
    from infodcl_dist.inference.recommendation import NewUsers

    histories = read_histories(file, trained.dataset.item_ids())
    degrees = trained.graph.users_of_item.degrees
    pairs, items = f"{histories.unknown_pairs:,}", f"{histories.unknown_items:,}"
    log.info("%s: %s users; %s pairs left out, with %s unknown items", file, len(histories.user_ids), pairs, items)
    for user in histories.skipped.to_pylist():
        log.info("%s: user %s has no known item: skipped", file, user)
    return NewUsers(histories.user_ids, tensor_rows(histories.items).to(degrees.device), degrees)


def _candidates(trained: "Evaluator", allow: Path | None, deny: Path | None) -> Any:
    """The items that may be listed, int64 ascending; None for all.

    Raises:
        UserError: a list cannot be read, or no item is left.
    """
    import numpy as np
    import torch

    if allow is None and deny is None:
        return None
    chosen = np.arange(trained.dataset.items) if allow is None else _listed(trained, allow)
    if deny is not None:
        chosen = np.setdiff1d(chosen, _listed(trained, deny))
    if not len(chosen):
        raise UserError(f"{allow or deny}: leaves no item of the data set to recommend; give other --allow, --deny")
    return torch.from_numpy(chosen)


def _listed(trained: "Evaluator", file: Path) -> "np.ndarray":
    """The known items of a list. A shop's list may well name items that the data set has not."""
    from infodcl_dist.data.id_list import read_known_ids

    found, unknown = read_known_ids(file, trained.dataset.item_ids(), "item")
    log.info("%s: %s items, and %s that the data set has not", file, f"{len(found):,}", f"{unknown:,}")
    return found


def _origin(run: Path, trained: "Evaluator", files: dict[str, Path | None]) -> dict[str, Any]:
    """All that the lists follow from, but for the options that `write_recommendations` adds."""
    from infodcl_dist import __version__
    from infodcl_dist.recipe.run_folder import best_checkpoint
    from infodcl_dist.train.checkpoint import CHECKSUMS

    return {
        "version": __version__,
        "model": sha256_of_file(best_checkpoint(run) / CHECKSUMS),
        "layers": trained.config.model.gcn_layers,
        "dataset": trained.dataset.checksum,
        **{name: file and sha256_of_file(file) for name, file in files.items()},
    }
