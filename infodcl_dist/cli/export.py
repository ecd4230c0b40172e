"""`infodcl-dist export`."""

import shutil
from pathlib import Path

import click

from infodcl_dist.base.console import console, is_rank_zero, set_up_log
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import refuse_existing, writing
from infodcl_dist.cli.processes import WAIT_FOR_RANK_ZERO_S, with_processes

AT = 20


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder to make")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["npy", "parquet"]),
    default="npy",
    show_default=True,
    help="users.npy and items.npy beside the ids, or a column embedding in users.parquet and items.parquet",
)
@click.option("--faiss", "with_index", is_flag=True, help="items.faiss too, and its measured recall, items.faiss.json")
@click.option("--at", type=click.IntRange(min=1), help=f"list length of that recall, else {AT}")
@with_processes
def export(run: Path, out: Path, kind: str, with_index: bool, at: int | None) -> None:
    """Writes RUN's final embeddings and the ids of their rows."""
    from infodcl_dist.inference.approximate import IndexReport, export_index, load_faiss
    from infodcl_dist.inference.export import export_embeddings, export_parquet
    from infodcl_dist.parallel.folders import ENDING_S, new_shared_folder, one_group_at_a_time
    from infodcl_dist.parallel.group import process_group
    from infodcl_dist.recipe.run import open_run

    set_up_log()
    if at is not None and not with_index:
        raise UserError(f"--at {at}: is of the index that --faiss makes; add --faiss, or leave --at out")
    refuse_existing(out)
    if with_index:
        load_faiss()
    report: IndexReport | None = None
    with process_group(WAIT_FOR_RANK_ZERO_S) as group:  # which builds an index
        trained = open_run(run, group)
        embeddings = trained.embeddings()
        lock, holder = out.with_name(f".{out.name}.lock"), f"another command that makes {out.name}"
        with (
            one_group_at_a_time(lock, wait_s=ENDING_S, holder=holder, is_removed=True),
            new_shared_folder(out, replace=False) as building,
            writing(out),
        ):
            if kind == "parquet":
                ids = {"users": trained.dataset.user_ids(), "items": trained.dataset.item_ids()}
                export_parquet(embeddings, building, ids)
            else:
                export_embeddings(embeddings, building)
                for name in ("users.parquet", "items.parquet") if is_rank_zero() else ():
                    shutil.copyfile(trained.dataset.path / name, building / name)
            if with_index:
                report = export_index(embeddings, building, at or AT, group)
    if not is_rank_zero():
        return
    console.print(f"embeddings  {out}")
    if report is not None:
        parameters = ", ".join(f"{name} {value:,}" for name, value in report.parameters.items())
        console.print(f"index       {report.kind} ({parameters}): recall@{report.at} {report.recall:.4f}")
