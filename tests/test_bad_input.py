"""Whatever a user gets wrong ends with status 2 and one `error:` line that names it, and leaves nothing behind.

The commands run as a user types them. Importing torch takes a process seconds, so all of them run two at a time before
the first test looks at its own.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from infodcl_dist.base.config import dump_config, load_config
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.recipe.config import RunConfig

AT_ONCE = 2
# User 0 to 5, items 0 to 7; each user has two items or three in training, and one in each other split.
TRAIN = {0: [0, 1, 2], 1: [1, 3], 2: [2, 4, 5], 3: [0, 6], 4: [5, 7], 5: [3, 6, 7]}
HELD_OUT = {
    "valid": {user: [(user + 4) % 8 if user < 4 else user - 4] for user in TRAIN},
    "test": {0: [7], 1: [0], 2: [1]},
}


class Case(NamedTuple):
    arguments: tuple[str, ...]  # relative paths are inside the case's own folder
    words: tuple[str, ...]  # in the error line
    spoil: Callable[[Path], None] = lambda folder: None
    silent: bool = True  # nothing but the error line on standard error
    keeps: str = "/"  # what may be left: a run that had begun


def write_source(folder: Path) -> None:
    folder.mkdir()
    for split, items_of in {"train": TRAIN, **HELD_OUT}.items():
        lines = [" ".join(map(str, [user, *items])) for user, items in items_of.items()]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


def change_a_byte(folder: Path) -> None:
    file = folder / "set" / "train" / "part-0000.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def keep_another_run(folder: Path) -> None:
    keys = ["data.path=set", "run.path=taken", "model.name=mf", "run.seed=7"]
    (folder / "taken").mkdir()
    (folder / "taken" / "config.yaml").write_text(dump_config(load_config(RunConfig, None, keys)))
    (folder / "taken" / "dataset.json").write_text('{"name": "set", "checksum": "any"}')  # which makes it a run


def write_config(folder: Path) -> None:
    (folder / "run.yaml").write_text("data: {path: set}\nrun: {path: run}\ntrain:\n  epochs: 3\n  epoch: 4\n")


def save_feature(rows: int, broken_row: int | None = None) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        matrix = np.ones((rows, 3), dtype=np.float32)
        if broken_row is not None:
            matrix[broken_row, 1] = np.nan
        np.save(folder / "text.npy", matrix)

    return save


def empty_the_test_split(folder: Path) -> None:
    (folder / "source" / "test.txt").write_text("")


def add_an_unknown_item(folder: Path) -> None:
    with (folder / "source" / "test.txt").open("a") as stream:
        stream.write("3 999\n")


def give_a_user_every_item(folder: Path) -> None:
    for split in ("train", "valid", "test"):
        file = folder / "source" / f"{split}.txt"
        lines = [line for line in file.read_text().splitlines() if not line.startswith("0 ")]
        file.write_text("\n".join(["0 0 1 2 3 4 5 6 7"] * (split == "train") + lines) + "\n")
    prepare(folder / "source", folder / "full", PrepareOptions())


TRAIN_HERE = ("train", "data.path=set", "run.path=run", "model.name=mf")
PREPARE_HERE = ("prepare", "source", "--out", "made")

CASES = {
    "train: no dataset": Case(("train", "data.path=none", "run.path=run"), ("none", "prepare")),
    "train: a changed byte": Case(TRAIN_HERE, ("set/train/part-0000.parquet", "changed"), change_a_byte),
    "train: an unknown key": Case(
        ("train", "--config", "run.yaml"), ("run.yaml", "train.epoch:", "did you mean train.epochs"), write_config
    ),
    "train: an impossible value": Case((*TRAIN_HERE, "train.epochs=0"), ("train.epochs", "0")),
    "train: an unknown channel": Case(
        ("train", "--nproc", "2", "data.path=set", "run.path=run", "model.channels=[knowledge, colour]"),
        ("set", "'colour'", "--item-features"),
    ),
    "train: another run is there": Case(
        (*TRAIN_HERE, "run.path=taken"), ("run.path", "taken", "run.seed", "run.overwrite"), keep_another_run
    ),
    "export: no run": Case(("export", "none", "--out", "made"), ("none", "no run folder")),
    "prepare: no source": Case(("prepare", "none", "--out", "made"), ("none", "no such file"), silent=False),
    "prepare: NaN in a feature": Case(
        (*PREPARE_HERE, "--item-features", "text=text.npy"), ("text.npy", "row 5", "NaN"), save_feature(8, 5), False
    ),
    "prepare: a feature of another height": Case(
        (*PREPARE_HERE, "--item-features", "text=text.npy"), ("text.npy", "9 rows", "8"), save_feature(9), False
    ),
    "prepare: an empty split": Case(PREPARE_HERE, ("test",), empty_the_test_split, False),
    "prepare: an unknown test item": Case(PREPARE_HERE, ("test.txt:4", "item 999"), add_an_unknown_item, False),
    "prepare: the folder is there": Case(
        ("prepare", "source", "--out", "set"), ("set", "exists already"), silent=False
    ),
    "train: a user with every item": Case(
        ("train", "data.path=full", "run.path=run", "model.name=mf", "train.epochs=1"),
        ("full", "user", "all 8 items"),
        give_a_user_every_item,
    ),
    # What only the workers can find out; the weight is no float32.
    "train: a loss that is not finite": Case(
        (*TRAIN_HERE, "train.epochs=1", "loss.bpr=1e39"), ("epoch 1", "train.learning_rate"), silent=False, keeps="run"
    ),
}


class Outcome(NamedTuple):
    status: int
    stderr: str
    before: list[str]
    after: list[str]


def everything(folder: Path) -> list[str]:
    """All files and folders, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def outcome(case: Case, folder: Path) -> Outcome:
    before = everything(folder)
    environment = {name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE"}}
    finished = subprocess.run(
        [sys.executable, "-m", "infodcl_dist", *case.arguments],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Outcome(finished.returncode, finished.stderr, before, everything(folder))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    original = tmp_path_factory.mktemp("original")
    write_source(original / "source")
    prepare(original / "source", original / "set", PrepareOptions())
    folders = {}
    for number, (name, case) in enumerate(CASES.items()):
        folders[name] = original.parent / f"case-{number}"
        shutil.copytree(original, folders[name])
        case.spoil(folders[name])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {name: pool.submit(outcome, case, folders[name]) for name, case in CASES.items()}
        return {name: future.result() for name, future in running.items()}


@pytest.mark.parametrize("name", list(CASES))
def test_status_2_one_line_and_nothing_left(name: str, outcomes: dict[str, Outcome]) -> None:
    case, (status, stderr, before, after) = CASES[name], outcomes[name]
    assert status == 2, stderr
    assert "Traceback" not in stderr
    lines = stderr.splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    assert errors == lines[-1:], stderr
    if case.silent:
        assert lines == errors
    for word in case.words:
        assert word in errors[0]
    assert [path for path in after if not path.startswith(case.keeps)] == before


def test_every_case_ran(outcomes: dict[str, Outcome]) -> None:
    assert len(outcomes) == len(CASES) == 15
    assert all(result.before for result in outcomes.values())
