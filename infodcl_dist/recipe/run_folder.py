"""The folder of a run: whose it is, and whether a run may begin or go on in it."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from infodcl_dist.base.config import dump_config, load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import new_file
from infodcl_dist.recipe.config import RunConfig

CONFIG_FILE, RESULT_FILE = "config.yaml", "result.json"
# What a run may change when it goes on: none of it enters the numbers of an epoch.
MAY_CHANGE = (
    "run.overwrite",
    "run.path",
    "data.path",
    "checkpoint.",
    "tables.sharding",
    "train.epochs",
    "train.patience",
    "train.timeout_s",
)


def best_checkpoint(run: Path) -> Path:
    """Where a run keeps the model of its best epoch."""
    return run / "checkpoints" / "best"


def read_run_config(run: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """The configuration of a run, with `overrides`.

    Raises:
        UserError: it is no run folder.
    """
    if not (run / CONFIG_FILE).is_file():
        raise UserError(f"{run}: is no run folder (it has no {CONFIG_FILE})")
    return load_config(RunConfig, run / CONFIG_FILE, overrides)


def check_run_folder(config: RunConfig) -> None:
    """Whether the run may have its folder: a new one, an empty one, or its own, to go on in.

    Raises:
        UserError: the folder holds a run of another configuration and `run.overwrite` is false, or it holds no run.
    """
    folder = config.run.path
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"run.path: {folder} holds something that is no run; choose another")
    if config.run.overwrite:
        return
    changed = next(_changes(config.model_dump(mode="json"), read_run_config(folder).model_dump(mode="json")), None)
    if changed is not None:
        raise UserError(
            f"run.path: {folder} holds a run with another {changed}; give it the same to go on, "
            "choose another folder, or pass run.overwrite=true to replace it"
        )


def open_run_folder(config: RunConfig) -> None:
    """Makes the folder, or keeps what is there to go on from, and writes the configuration into it."""
    check_run_folder(config)
    folder = config.run.path
    try:
        if config.run.overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder / CONFIG_FILE) as building:
            building.write_text(dump_config(config), encoding="utf-8")
    except OSError as error:
        raise UserError(f"run.path: {folder} cannot be written ({error.strerror}); choose another") from error


def _changes(new: dict[str, Any], old: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in new.items():
        key = prefix + name
        if isinstance(value, dict):
            yield from _changes(value, old[name], f"{key}.")
        elif value != old[name] and not key.startswith(MAY_CHANGE):
            yield key
