"""A model on disk: the sharded tables and the channels, by torch.distributed.checkpoint; complete or absent."""

from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import nn

from infodcl_dist.base.errors import UserError
from infodcl_dist.parallel.folders import new_shared_folder
from infodcl_dist.parallel.tables import Tables


def save_model(folder: Path, tables: Tables, channels: nn.Module | None) -> None:
    """Writes the model into `folder`, replacing an older one there. All ranks call it and each writes its shards."""
    with new_shared_folder(folder) as building:
        dcp.save(_state(tables, channels), checkpoint_id=building)


def load_model(folder: Path, tables: Tables, channels: nn.Module | None) -> None:
    """Reads a model written at any world size into existing tables and channels.

    Raises:
        UserError: there is no checkpoint, or it is of another shape.
    """
    if not (folder / ".metadata").is_file():
        raise UserError(f"{folder}: holds no checkpoint; train the run first")
    state = _state(tables, channels)
    try:
        dcp.load(state, checkpoint_id=folder)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{folder}: cannot be loaded ({str(error).splitlines()[0]})") from error
    tables.module.load_state_dict(state["tables"])
    if channels is not None:
        channels.load_state_dict(state["channels"])


def _state(tables: Tables, channels: nn.Module | None) -> dict[str, Any]:
    state: dict[str, Any] = {"tables": tables.module.state_dict()}
    if channels is not None:
        state["channels"] = channels.state_dict()
    return state
