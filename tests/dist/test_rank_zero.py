"""What rank 0 does for all: every rank has its value, or the error it ended with, as what it is."""

from pathlib import Path

import pytest

from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.parallel.folders import on_rank_zero
from infodcl_dist.parallel.group import Group
from infodcl_dist.train.checkpoint import CheckpointFailed, _seal
from infodcl_dist.train.trackers import MetricsFile, TensorBoard


def refuse(kind: type[UserError]) -> None:
    raise kind("set: is bad")


def errors_of_rank_zero(group: Group, folder: Path) -> list[tuple[type[UserError], str]]:
    found = []
    for action in (
        lambda: on_rank_zero(lambda: refuse(UserError)),
        lambda: on_rank_zero(lambda: refuse(Unavailable)),
        lambda: on_rank_zero(lambda: refuse(CheckpointFailed)),
        lambda: MetricsFile(folder / "taken", first_epoch=1),
        lambda: on_rank_zero(lambda: _seal(folder / "none", {}, [])),
        lambda: TensorBoard(folder / "file" / "tensorboard", first_epoch=1),
    ):
        with pytest.raises(UserError) as error:
            action()
        found.append((type(error.value), str(error.value)))
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_error_of_rank_zero_keeps_its_kind_on_every_rank(ranks, tmp_path, world_size):
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "none").symlink_to("/proc/none")  # no folder can be made there
    for found in ranks(world_size, errors_of_rank_zero, tmp_path):
        plain, passing, unsaved, metrics, unsealed, tensorboard = found
        assert plain == (UserError, "set: is bad")
        assert passing == (Unavailable, "set: is bad")
        assert unsaved == (CheckpointFailed, "set: is bad")
        assert metrics[0] is Unavailable
        assert unsealed[0] is Unavailable
        assert tensorboard[0] is Unavailable
        assert ":" not in unsealed[1], "the system's word alone: the checkpoint's folder is named around it"
