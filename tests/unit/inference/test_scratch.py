"""Scratch folders of killed processes are removed, and those of living ones are not."""

import subprocess
import sys
from pathlib import Path

from harness import Ranks

from infodcl_dist.inference.scratch import clear_scratch, scratch_folder
from infodcl_dist.parallel.collectives import barrier
from infodcl_dist.parallel.group import Group

HOLDS = """
import sys, time
from pathlib import Path
from infodcl_dist.inference.scratch import scratch_folder
from infodcl_dist.parallel.group import process_group

with process_group(60), scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "user.npy").write_text("rows")
    print("made", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(str(entry.relative_to(folder)) for entry in folder.rglob("*"))


def test_a_killed_process_leaves_what_the_next_removes(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "made\n"
            made = names(tmp_path)
            assert len(made) == 4
            clear_scratch(tmp_path)
            assert names(tmp_path) == made, "it is alive"
        finally:
            process.kill()
    assert names(tmp_path) == made
    clear_scratch(tmp_path)
    assert names(tmp_path) == ["config.yaml"]


def use(group: Group, within: Path) -> list[str]:
    with scratch_folder(within) as folder:
        (folder / f"{group.rank}.npy").write_text("")
        clear_scratch(within)
        barrier()
        found = sorted(entry.name for entry in folder.iterdir())
        barrier()
    barrier()
    return found + names(within)


def test_ranks_share_one_folder_that_goes(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks(2, use, tmp_path / "run") == [["0.npy", "1.npy"]] * 2


def test_what_is_not_there_needs_no_clearing(tmp_path: Path) -> None:
    clear_scratch(tmp_path / "none")
    assert names(tmp_path) == []
