"""Saving beside training: what is written is the moment of the copy, and neither disturbs the other's collectives."""

import signal
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import test_steps as steps
import torch
from test_table_checkpoints import case_of, held

from infodcl_dist.parallel.background import Background
from infodcl_dist.parallel.collectives import SideGroup, gather_objects
from infodcl_dist.parallel.group import Group
from infodcl_dist.train import checkpoints
from infodcl_dist.train.checkpoint import CheckpointFailed, copy_for_checkpoint, load_checkpoint, write_checkpoint
from infodcl_dist.train.checkpoints import CheckpointConfig
from infodcl_dist.train.preemption import Preempted, StopRequest
from infodcl_dist.train.state import FitState

CASE = ("dense", "row_wise", "adam")
HELD = ("tables", "state")


def save_while_training(group: Group, folder: Path) -> dict[str, Any]:
    """Holds the save back until a step is done; returns what was held at the copy, and which ranks saved late."""
    step, made = steps.build(group, case_of(*CASE))
    next(step.run([made.batch(1, 0)]))
    background, stepped = Background(60, torch.device("cpu")), Event()
    at_copy = held(step)
    copy = copy_for_checkpoint(step)
    shards = [shard.tensor for table in copy["tables"].values() for shard in table.local_shards()]
    assert all(shard.untyped_storage().nbytes() == shard.nbytes for shard in shards), "not what they are views of"

    def write(side: SideGroup) -> None:
        assert stepped.wait(60)
        write_checkpoint(folder / "step", copy, FitState(step=1, steps_done=1), side)

    background.start(write)
    next(step.run([made.batch(1, 1)]))
    late = background.is_busy and not (folder / "step").exists()
    stepped.set()
    next(step.run([made.batch(1, 2)]))  # while the file is written
    background.wait()
    moved = not torch.equal(at_copy["tables"]["item"][0][1], held(step)["tables"]["item"][0][1])
    return {"held": at_copy, "late": late, "moved": moved}


def load(group: Group, folder: Path) -> dict[str, Any]:
    step, _ = steps.build(group, case_of(*CASE))
    load_checkpoint(folder / "step", step)
    return held(step)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_save_holds_the_moment_of_its_copy(ranks, tmp_path: Path, world_size: int) -> None:
    saved = ranks(world_size, save_while_training, tmp_path)
    assert all(rank["late"] and rank["moved"] for rank in saved)
    for expected, found in zip(saved, ranks(world_size, load, tmp_path), strict=True):
        for kind in HELD:
            assert expected["held"][kind].keys() == found[kind].keys()
            for name, parts in expected["held"][kind].items():
                for (place, one), (other_place, other) in zip(parts, found[kind][name], strict=True):
                    assert place == other_place
                    assert torch.equal(one, other), name


def fail_in_background(group: Group) -> list[str]:
    background = Background(60, torch.device("cpu"))

    def job(side: SideGroup) -> None:
        raise OSError(f"planted in rank {group.rank}")

    background.start(job)
    try:
        background.start(lambda side: None)
    except OSError as error:
        return gather_objects(str(error))
    return []


def test_a_failed_job_is_told_to_who_starts_the_next(ranks) -> None:
    assert ranks(2, fail_in_background) == [["planted in rank 0", "planted in rank 1"]] * 2


def stopped_while(group: Group, folder: Path, is_full: bool) -> tuple[str, bool]:
    """What a run that is asked to stop says at its end, and whether its checkpoint is there."""
    step, made = steps.build(group, case_of(*CASE))
    next(step.run([made.batch(1, 0)]))

    def refuse(*arguments: Any) -> None:
        raise CheckpointFailed("no room")

    with pytest.MonkeyPatch.context() as patch, StopRequest(60) as stop:
        if is_full:
            patch.setattr(checkpoints, "write_checkpoint", refuse)
        config = CheckpointConfig(every_seconds=1e9)
        keep = checkpoints.Checkpoints(folder, config, step, stop, timeout_s=60)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Preempted) as ended, keep:
            keep(FitState(step=1, steps_done=1), None)
    return str(ended.value), (folder / "step-000000001").is_dir()


@pytest.mark.parametrize("is_full", [False, True])
def test_a_run_that_is_asked_to_stop_says_whether_it_is_saved(ranks, tmp_path: Path, is_full: bool) -> None:
    said = "asked to stop after 1 steps; run the same command to go on"
    if is_full:
        said = (
            "asked to stop, but step 1 could not be saved; run the same command to go on from the checkpoint before, "
            "if there is one"
        )
    assert ranks(2, stopped_while, tmp_path, is_full) == [(said, not is_full)] * 2
