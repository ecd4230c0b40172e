"""A checkpoint's files: every rank sums and checks its share of them, and all know what one of them found."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
import test_steps as steps
import torch.distributed.checkpoint
from test_table_checkpoints import case_of

from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.files import sha256_of_file
from infodcl_dist.parallel import folders
from infodcl_dist.parallel.group import Group
from infodcl_dist.train import checkpoint
from infodcl_dist.train.state import FitState

CASE = case_of("dense", "row_wise", "adam")


def summed(group: Group, folder: Path) -> dict[str, list[str]]:
    """Of which files this rank makes the checksum when a checkpoint is saved, and when a model is loaded."""
    step, _ = steps.build(group, CASE)
    found: dict[str, list[str]] = {"saved": [], "loaded": []}
    doing = "saved"

    def watched(file: Path) -> str:
        found[doing].append(file.name)
        return sha256_of_file(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "sha256_of_file", watched)
        checkpoint.write_checkpoint(folder, checkpoint.copy_for_checkpoint(step), FitState(step=1, steps_done=1))
        doing = "loaded"
        checkpoint.load_model(folder, step.tables, step.engine.module)
    return found


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_file_is_read_once_and_by_the_rank_that_wrote_it(ranks, tmp_path: Path, world_size: int) -> None:
    results = ranks(world_size, summed, tmp_path / "step")
    files = sorted(file.name for file in (tmp_path / "step").iterdir() if file.name != checkpoint.CHECKSUMS)
    assert len(files) >= world_size + 2
    for doing in ("saved", "loaded"):
        assert sorted(name for result in results for name in result[doing]) == files
        assert all(result[doing] for result in results)
    for rank, result in enumerate(results):
        assert all(name.startswith(f"__{rank}_") for name in result["saved"] if name.endswith(".distcp"))
    kept = json.loads((tmp_path / "step" / checkpoint.CHECKSUMS).read_text())
    assert kept == {name: sha256_of_file(tmp_path / "step" / name) for name in files}
    checkpoint.check_files(tmp_path / "step")


def saved_on_two_hosts(group: Group, hosts: Path) -> str:
    """What is said where each rank has a disk of its own."""
    own = hosts / str(group.rank)
    own.mkdir()
    step, _ = steps.build(group, CASE)
    copy = checkpoint.copy_for_checkpoint(step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "SEEN_S", 0.3)
        patch.chdir(own)
        with pytest.raises(checkpoint.CheckpointFailed) as raised:
            checkpoint.write_checkpoint(Path("step"), copy, FitState(step=1, steps_done=1))
    return str(raised.value)


def test_a_checkpoint_whose_files_lie_on_two_hosts_is_none(ranks, tmp_path: Path) -> None:
    first, second = ranks(2, saved_on_two_hosts, tmp_path)
    assert first == second
    assert re.fullmatch(r"step: could not be written \(__1_0\.distcp of another host .* all hosts share\)", first)
    assert not (tmp_path / "0" / "step").exists()


def refused(group: Group, folder: Path) -> str:
    step, _ = steps.build(group, CASE)
    with pytest.raises(UserError) as raised:
        checkpoint.load_model(folder, step.tables, step.engine.module)
    return str(raised.value)


def test_every_rank_knows_of_a_changed_file(ranks, tmp_path: Path) -> None:
    ranks(2, summed, tmp_path / "step")
    visited = 0
    for file in sorted((tmp_path / "step").iterdir()):
        whole: Any = file.read_bytes()
        if file.name != checkpoint.CHECKSUMS:
            file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            assert ranks(2, refused, tmp_path / "step") == [f"{file}: is missing or changed since it was written"] * 2
            file.write_bytes(whole)
            visited += 1
    assert visited >= 4


def unreadable_to_one(group: Group, folder: Path, what: str) -> str:
    def fail(*arguments: Any, **named: Any) -> str:
        raise OSError(5, "Input/output error")

    step, _ = steps.build(group, CASE)
    with pytest.MonkeyPatch.context() as patch:
        if group.rank == 1:
            patch.setattr(what, fail)
        with pytest.raises(Unavailable) as raised:
            checkpoint.load_model(folder, step.tables, step.engine.module)
    return str(raised.value)


@pytest.mark.parametrize(
    "what", ["infodcl_dist.train.checkpoint.sha256_of_file", "pathlib.Path.read_text", "pathlib.Path.is_file"]
)
def test_no_rank_waits_for_one_that_cannot_read_nor_takes_it_for_damage(ranks, tmp_path: Path, what: str) -> None:
    ranks(2, summed, tmp_path / "step")
    first, second = ranks(2, unreadable_to_one, tmp_path / "step", what)
    assert first == second
    assert re.fullmatch(r"\S+: cannot be read \(Input/output error\)", first)


def load_when(group: Group, folder: Path, error: BaseException) -> str:
    """What is said where reading a sound checkpoint ends so."""
    step, _ = steps.build(group, CASE)
    checkpoint.save_model(folder / "model", step.tables, None, epoch=1)

    def fail(*arguments: Any, **named: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed.checkpoint.FileSystemReader, "read_data", fail)
        try:
            checkpoint.load_model(folder / "model", step.tables, None)
        except Exception as told:
            return f"{type(told).__name__}: {told}"
    return "nothing"


def test_what_the_machine_refuses_is_no_fault_of_the_configuration(ranks, tmp_path: Path) -> None:
    (said,) = ranks(1, load_when, tmp_path, OSError(errno.EIO, "Input/output error"))
    assert re.fullmatch(r"Unavailable: /.*/model: cannot be read \(Input/output error\)", said)
    (said,) = ranks(1, load_when, tmp_path, ValueError("Size mismatch"))
    assert re.match(r"UserError: /.*/model: does not fit this configuration \(", said)
    for lack in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        assert ranks(1, load_when, tmp_path, lack) == [f"{type(lack).__name__}: {lack}"]
