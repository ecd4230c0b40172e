"""A run on disk, by torch.distributed.checkpoint: sharded, loadable at another world size, complete or absent.

Two kinds of folders: a *model* holds tables and channels (of the best epoch), and says which epoch that was; a
*checkpoint* also holds both optimizers' moments and the loop's state (where training goes on). Each lists the SHA-256
of its files.

The channels are small and saved whole, whatever the ZeRO stage spreads over ranks: a run goes on at another stage too.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.api import CheckpointException

from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.files import read_json, refusal, sha256_of_file, write_json
from infodcl_dist.parallel.collectives import SideGroup, place
from infodcl_dist.parallel.dense import load_moments, load_weights, whole_moments, whole_weights
from infodcl_dist.parallel.folders import appears, new_shared_folder, on_every_rank, on_rank_zero
from infodcl_dist.parallel.tables import Tables
from infodcl_dist.train.state import FitState
from infodcl_dist.train.step import Step

CHECKSUMS, STATE = "checksums.json", "state.json"
CHANNEL = "channels."  # before a channel weight's name among the moments


class CheckpointFailed(Unavailable):
    """A checkpoint that could not be written, on every rank; what lay there before still does."""


def save_model(folder: Path, tables: Tables, channels: nn.Module | None, *, epoch: int) -> None:
    """Writes the tables and channels of an epoch into `folder`, replacing an older one there. All ranks call it.

    Raises:
        CheckpointFailed: on every rank, when any rank could not write.
    """
    _save(folder, _model(tables, channels), {"epoch": epoch})


def epoch_of_model(folder: Path) -> int:
    """Of which epoch a model that `save_model` wrote is; on the rank that asks.

    Raises:
        UserError: it does not say, as those of earlier versions.
    """
    epoch: int = read_json(folder / STATE)["epoch"]
    return epoch


def load_model(folder: Path, tables: Tables, channels: nn.Module | None) -> None:
    """Reads a model written at any world size into existing tables and channels. All ranks call it.

    Raises:
        UserError: there is no checkpoint, a byte of it changed, or it is of another shape.
    """
    check_files_together(folder)
    state = _model(tables, channels)
    _load(folder, state)
    _restore_model(state, tables, channels)


def copy_for_checkpoint(step: Step) -> dict[str, Any]:
    """All that training needs to go on, copied to the host for `write_checkpoint`. All ranks call it."""
    copy: dict[str, Any] = _on_host(_checkpoint(step))
    return copy


def write_checkpoint(folder: Path, copy: dict[str, Any], state: FitState, group: SideGroup | None = None) -> None:
    """Writes a copy; on a `group` that training does not speak on, while it goes on. All ranks call it.

    Raises:
        CheckpointFailed: on every rank, when any rank could not write.
    """
    _save(folder, copy, state.to_json(), group)


def load_checkpoint(folder: Path, step: Step) -> FitState:
    """Reads a checkpoint written at any world size into a step that was built by the same configuration.

    Raises:
        UserError: it does not fit the configuration.
    """
    saved = _checkpoint(step)
    _load(folder, saved)
    _restore_model(saved, step.tables, step.channels)
    state = FitState.from_json(read_json(folder / STATE))
    step.tables.set_steps_done(step.optimizer, state.steps_done)
    if step.engine is not None:
        of_channels = {name.removeprefix(CHANNEL): kinds for name, kinds in saved["optimizer"].items()}
        load_moments(step.engine, of_channels, state.steps_done)
    return state


def check_files_together(folder: Path) -> None:
    """As `check_files`, of which each rank does its share. All ranks call it.

    Raises:
        UserError: the same on every rank.
    """
    rank, world_size = place()
    on_every_rank(lambda: check_files(folder, slice(rank, None, world_size)))


def check_files(folder: Path, share: slice = slice(None)) -> None:
    """Compares a folder's files, or a share of them in the order of their names, with their checksums.

    Raises:
        Unavailable: one cannot be read.
        UserError: one is missing or changed; names it.
    """
    try:
        if not (folder / CHECKSUMS).is_file():
            raise UserError(f"{folder}: holds no complete checkpoint; train the run first")
        for name, checksum in sorted(read_json(folder / CHECKSUMS).items())[share]:
            file = folder / name
            if not file.is_file() or _checksum(file) != checksum:
                raise UserError(f"{file}: is missing or changed since it was written")
    except OSError as error:  # `is_file` passes on what says nothing of whether there is one
        raise Unavailable(f"{folder}: cannot be read ({error.strerror})") from error


def _save(folder: Path, tensors: dict[str, Any], state: dict[str, Any], group: SideGroup | None = None) -> None:
    try:
        with new_shared_folder(folder, group) as building:
            dcp.save(tensors, checkpoint_id=building, process_group=group)
            own = on_every_rank(lambda: _checksums(building.glob(f"__{place()[0]}_*.distcp")), group)
            on_rank_zero(lambda: _seal(building, state, own), group)
    except CheckpointFailed as error:
        raise CheckpointFailed(f"{folder}: could not be written ({error})") from error
    except (CheckpointException, UserError) as error:
        raise CheckpointFailed(
            f"{folder}: could not be written ({_first_line(error)}); make room, and run the same command to go on"
        ) from error


def _seal(folder: Path, state: dict[str, Any], of_ranks: list[dict[str, str]]) -> None:
    """Writes the state, and the checksums of all files: those that each rank found of its own, and of the others.

    Raises:
        CheckpointFailed: a file that a rank wrote lies elsewhere: it has a folder of its own by this name.
    """
    checksums = {name: checksum for own in of_ranks for name, checksum in own.items()}
    if (elsewhere := next((name for name in checksums if not appears(folder / name)), None)) is not None:
        raise CheckpointFailed(
            f"{elsewhere} of another host is not there; its folder must lie on a file system that all hosts share"
        )
    try:
        write_json(folder / STATE, state)
        checksums |= _checksums(file for file in folder.iterdir() if file.name not in checksums)
        write_json(folder / CHECKSUMS, dict(sorted(checksums.items())))
    except (OSError, Unavailable) as error:
        raise Unavailable(refusal(error)) from error


def _checksums(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: _checksum(file) for file in files if file.is_file()}


def _checksum(file: Path) -> str:
    """So that no rank waits for one that could not read, and nobody takes that for damage."""
    try:
        return sha256_of_file(file)
    except OSError as error:
        raise Unavailable(f"{file}: cannot be read ({error.strerror})") from error


def _load(folder: Path, tensors: dict[str, Any]) -> None:
    """Fills the tensors. A lost rank, or memory that is out, is left to whoever tells those apart."""
    try:
        dcp.load(tensors, checkpoint_id=folder)
    except (CheckpointException, ValueError, OSError) as error:
        failures = [failure for failure, _ in getattr(error, "failures", {}).values()] or [error]
        if (refused := next((failure for failure in failures if isinstance(failure, OSError)), None)) is not None:
            raise Unavailable(f"{folder}: cannot be read ({refusal(refused)})") from error
        if (lack := next((failure for failure in failures if _is_lack_of_memory(failure)), None)) is not None:
            raise lack from error
        raise UserError(f"{folder}: does not fit this configuration ({_first_line(error)})") from error


def _is_lack_of_memory(failure: BaseException) -> bool:
    # What torch raises where a host's memory is out has no type of its own.
    return isinstance(failure, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(failure)


def _on_host(value: Any) -> Any:
    """A copy of nested tensors. (Of a sharded one torch's own stager first copies the memory that its shards are views
    of, in FBGEMM that of both tables.)"""
    if isinstance(value, dict):
        return {name: _on_host(part) for name, part in value.items()}
    return value.to(device="cpu", copy=True) if isinstance(value, Tensor | ShardedTensor) else value


def _model(tables: Tables, channels: nn.Module | None) -> dict[str, Any]:
    state: dict[str, Any] = {"tables": tables.module.state_dict()}
    if channels is not None:
        state["channels"] = whole_weights(channels)
    return state


def _checkpoint(step: Step) -> dict[str, Any]:
    return _model(step.tables, step.channels) | {"optimizer": _moments(step)}


def _restore_model(state: dict[str, Any], tables: Tables, channels: nn.Module | None) -> None:
    tables.load_weights(state["tables"])
    if channels is not None:
        load_weights(channels, state["channels"])


def _moments(step: Step) -> dict[str, dict[str, Any]]:
    """What the optimizers keep, by parameter name; of a table sharded as the table is, of the channels whole."""
    # DCP saves no empty dictionary, and would miss it when loading.
    moments: dict[str, dict[str, Any]] = {
        name: kept for name, kept in step.tables.sharded_state(step.optimizer).items() if kept
    }
    if step.engine is not None:
        moments |= {CHANNEL + name: kinds for name, kinds in whole_moments(step.engine).items()}
    return moments


def _first_line(error: BaseException) -> str:
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
