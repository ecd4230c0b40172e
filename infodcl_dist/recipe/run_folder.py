"""The folder of a run: whose it is, and whether a run may begin or go on in it."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from infodcl_dist.base.config import as_values, changed_keys, dump_config, load_config
from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.files import read_json, refusal, write_json, write_text
from infodcl_dist.data.dataset import Dataset
from infodcl_dist.recipe.config import RunConfig

CONFIG_FILE, RESULT_FILE, DATASET_FILE = "config.yaml", "result.json", "dataset.json"
LOCK_FILE = ".lock"  # held by the process group that trains in the folder
LAUNCH_FILE = ".launch"  # which launch replaced what was there, see `_replace_earlier`
# What a run may change when it goes on: none of it enters the numbers of an epoch.
MAY_CHANGE = (
    "run.label",
    "run.overwrite",
    "run.path",
    "data.path",
    "checkpoint.",
    "dense.zero_stage",
    "dense.whole_below",
    "propagation.max_memory_gb",
    "propagation.plan",
    "tables.sharding",
    "train.epochs",
    "train.patience",
    "train.profile_steps",
    "train.timeout_s",
)


def best_checkpoint(run: Path) -> Path:
    """Where a run keeps the model of its best epoch."""
    return run / "checkpoints" / "best"


def holds_checkpoints(run: Path) -> bool:
    """Whether there is something to go on from; what the run started from is then no longer needed."""
    return any((run / "checkpoints").glob("step-*"))


def read_run_config(run: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """The configuration of a run, with `overrides`.

    Raises:
        UserError: it is no run folder, or it cannot be looked into.
    """
    try:
        is_run = (run / CONFIG_FILE).is_file()
    except OSError as error:
        raise UserError(f"{run}: cannot be read ({error.strerror}); give a run folder") from error
    if not is_run:
        raise UserError(f"{run}: is no run folder (it has no {CONFIG_FILE})")
    return load_config(RunConfig, run / CONFIG_FILE, overrides)


def read_trained_config(run: Path) -> RunConfig:
    """The configuration to open a finished run's tables with: what is only read needs no kernel that trains.

    Raises:
        UserError: it is no run folder.
    """
    # (Tables of sampled negatives would want samples with every lookup.)
    needless = ["tables.kernel=dense", "loss.negatives=catalogue"]
    if torch.cuda.is_available() and read_run_config(run).tables.kernel == "fused_uvm_caching":
        # Rows stay in the host's memory: a GPU may have no room for them. SGD keeps nothing beside them, and a model
        # without contrastive terms is one that fused tables can train without samples.
        needless = ["tables.optimizer=sgd", "loss.contrastive=0", "loss.user_contrastive=0"]
    return read_run_config(run, [*needless, "tables.sharding=row_wise", f"run.path={run}"])


def check_run_folder(config: RunConfig) -> None:
    """Whether the run may have its folder: a new one, an empty one, or its own, to go on in.

    Raises:
        UserError: the folder holds a run of another configuration and `run.overwrite` is false, or it holds no run, or
            it cannot be read.
    """
    folder = config.run.path
    try:
        if not folder.exists() or (folder.is_dir() and not _contents(folder)):
            return
        is_run = (folder / DATASET_FILE).is_file() and "checksum" in read_json(folder / DATASET_FILE)
    except OSError as error:
        raise Unavailable(f"run.path: {folder} cannot be read ({error.strerror}); choose another") from error
    if not is_run:
        # (A folder with a config.yaml of somebody else's is not to be overwritten.)
        raise UserError(f"run.path: {folder} holds something that is no run; choose another")
    if config.run.overwrite or not (folder / CONFIG_FILE).is_file():
        return
    changes = changed_keys(as_values(config), as_values(read_run_config(folder)))
    changed = next((key for key in changes if not key.startswith(MAY_CHANGE)), None)
    if changed is not None:
        raise UserError(
            f"run.path: {folder} holds a run with another {changed}; give it the same to go on, "
            "choose another folder, or pass run.overwrite=true to replace it"
        )


def check_trained_on(run: Path, dataset: Dataset) -> None:
    """Whether a run was trained on this content: a dataset folder can be prepared anew under the same name.

    Raises:
        UserError: it was trained on another content, so that its tables' rows are those of other users and items.
    """
    if read_json(run / DATASET_FILE)["checksum"] != dataset.checksum:
        raise UserError(
            f"{run}: was trained on other contents of {dataset.path}; prepare each version into a folder of its own"
        )


def check_same_data(config: RunConfig, dataset: Dataset) -> None:
    """Whether a run that would go on has the data it began with.

    Raises:
        UserError: see `check_trained_on`.
    """
    if not config.run.overwrite and (config.run.path / DATASET_FILE).is_file():
        check_trained_on(config.run.path, dataset)


def open_run_folder(config: RunConfig, dataset: Dataset) -> None:
    """Makes the folder, or keeps what is there to go on from, and writes into it the configuration and its data's sum.

    Raises:
        UserError: the folder is taken (see `check_run_folder`), cannot be written, or its run had other data.
    """
    check_run_folder(config)
    check_same_data(config, dataset)
    folder = config.run.path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if config.run.overwrite:
            _replace_earlier(folder)
        write_json(folder / DATASET_FILE, {"name": dataset.name, "checksum": dataset.checksum})
        # Not with `run.overwrite`: to train by a run's own configuration again is to go on with it.
        kept = config.model_copy(update={"run": config.run.model_copy(update={"overwrite": False})})
        write_text(folder / CONFIG_FILE, dump_config(kept))
    except (OSError, Unavailable) as error:
        raise Unavailable(
            f"run.path: {folder} cannot be written ({refusal(error)}); make room, or choose another"
        ) from error


def _replace_earlier(folder: Path) -> None:
    """Removes the run that is there, once a launch: a group that torchrun restarts goes on with what its own first
    attempts began, and these may have ended before they came here."""
    launch_file, launch = folder / LAUNCH_FILE, os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if launch == "none":  # torchrun's, where it was given none: then the agent, our parent, is the launch
        launch = f"process {os.getppid()}"
    is_first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if is_first or not launch_file.is_file() or launch_file.read_text(encoding="utf-8") != launch:
        # What says that it is a run goes last: a removal that is cut off is begun again.
        for earlier in sorted(_contents(folder), key=lambda entry: entry.name == DATASET_FILE):
            shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink()
        write_text(launch_file, launch)


def _contents(folder: Path) -> list[Path]:
    """All but what belongs to no run."""
    return [entry for entry in folder.glob("*") if entry.name not in (LOCK_FILE, LAUNCH_FILE)]
