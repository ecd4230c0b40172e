"""evaluate, recommend and export on a small run, in this process, as their options say; and what they refuse."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from reference import infodcl as reference

from infodcl_dist.base.config import load_config
from infodcl_dist.base.console import log
from infodcl_dist.base.errors import UserError
from infodcl_dist.cli.main import infodcl_dist, run
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.data.splits import SPLIT_NAMES
from infodcl_dist.inference import export as inference_export
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.evaluation import ALL_METRICS
from infodcl_dist.inference.groups import ITEM_GROUPS, USER_GROUPS
from infodcl_dist.parallel import group
from infodcl_dist.parallel.group import process_group
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.run import open_run, train_run

USERS, ITEMS = 30, 20
# Writes its number twice, and waits between for a line.
SLOW_EXPORT = """
import os, sys
import numpy as np
from infodcl_dist.cli.main import main
from infodcl_dist.inference import export

def write(embeddings, folder):
    number = np.array(int(os.environ["NUMBER"]))
    np.save(folder / "users.npy", number)
    print("between", file=sys.stderr, flush=True)
    sys.stdin.readline()
    np.save(folder / "items.npy", number)

export.export_embeddings = write
main()
"""
KEYS = ["model.name=mf", "model.dim=8", "train.epochs=1", "train.global_batch_size=64"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a dataset `set` and a run `run`."""
    folder, before = tmp_path_factory.mktemp("answers"), dict(os.environ)
    draw = np.random.default_rng(0)
    pairs = [(u, i) for u in range(USERS) for i in sorted(draw.choice(ITEMS, 8, replace=False))]
    (folder / "pairs.csv").write_text("user,item\n" + "".join(f"u{user:02d},i{item:02d}\n" for user, item in pairs))
    prepare(folder / "pairs.csv", folder / "set", PrepareOptions())
    config = load_config(RunConfig, None, [f"data.path={folder / 'set'}", f"run.path={folder / 'run'}", *KEYS])
    with process_group(timeout_s=60) as alone:
        train_run(config, alone)
    yield folder
    os.environ.clear()
    os.environ.update(before)
    for handler in list(log.handlers):
        handler.close()
        log.removeHandler(handler)
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.mark.parametrize("mask_valid", [False, True])
@pytest.mark.parametrize("layers", [0, 3])
def test_a_run_is_measured_as_the_method_says(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], layers: int, mask_valid: bool
) -> None:
    """From the trained rows on by a dense Â (Eq. 16) and plain sets, each split by its own pairs."""
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["model"]["gcn_layers"], values["evaluation"]["mask_valid"] = layers, mask_valid
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    with process_group(timeout_s=60) as alone:
        opened = open_run(run, alone)
        rows = [opened.tables.rows(name).detach().double() for name in ("user", "item")]
    pairs = {split: opened.dataset.items_of_users(split).pairs() for split in SPLIT_NAMES}
    sets: dict[str, list[set[int]]] = {split: [set() for _ in range(USERS)] for split in SPLIT_NAMES}
    for split, codes in pairs.items():
        for user, item in zip(*(part.tolist() for part in codes), strict=True):
            sets[split][user].add(item)
    of_train = (torch.from_numpy(np.array(codes)).long() for codes in pairs["train"])
    users, items = reference.propagate(reference.adjacency(*of_train, USERS, ITEMS), *rows, layers)
    scores, found = users @ items.T, {}
    for split in ("valid", "test"):
        hides = mask_valid and split == "test"
        masked = [own | (valid if hides else set()) for own, valid in zip(sets["train"], sets["valid"], strict=True)]
        found[split] = reference.metrics(scores, sets[split], masked, (10, 20, 50))
        assert answer("evaluate", run, "--json", "--split", split) == 0
        assert json.loads(capsys.readouterr().out) == pytest.approx(found[split], abs=1e-9)
    assert found["valid"] != found["test"], "or one could stand for the other"
    unmasked = reference.metrics(scores, sets["test"], sets["train"], (10, 20, 50))
    assert (found["test"] != unmasked) == mask_valid, "the control: the mask is seen"
    assert answer("export", run, "--out", tmp_path / "out") == 0
    for name, expected in (("users", users), ("items", items)):
        exported = np.load(tmp_path / "out" / f"{name}.npy")
        np.testing.assert_allclose(exported, expected.numpy(), rtol=0, atol=1e-6)  # float32


def wait_for(words: str, file: Path, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not re.search(words, file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answer(*arguments: object) -> int:
    return run(infodcl_dist, [str(argument) for argument in arguments])


def test_evaluate_measures_what_is_asked_for(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads((made / "run" / "result.json").read_text())
    for split in ("test", "valid"):
        assert answer("evaluate", made / "run", "--json", "--split", split) == 0
        assert json.loads(capsys.readouterr().out) == pytest.approx(result[split], abs=1e-12)
    assert answer("evaluate", made / "run", "--json", "--all", "--cutoffs", "3,7", "--groups") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        *(f"{metric}@{k}" for metric in ALL_METRICS for k in (3, 7)),
        *("users", "by_popularity", "by_history"),
    }
    assert tuple(found["by_popularity"]) == ITEM_GROUPS
    assert tuple(found["by_history"]) == USER_GROUPS
    assert sum(group["users"] for group in found["by_history"].values()) == found["users"] == USERS
    assert answer("evaluate", made / "run", "--metrics", "mrr,coverage", "--groups") == 0
    text = capsys.readouterr().out
    assert "mrr" in text
    assert "coverage" in text
    assert "recall" not in text


def test_recommend_takes_lists_and_histories(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made / "allow.txt").write_text("".join(f"i{item:02d}\n" for item in range(12)) + "gone\n")
    (made / "deny.txt").write_text("i03\n")
    (made / "users.txt").write_text("u05\nu02\n")
    (made / "new.csv").write_text("user,item\nann,i00\nann,i01\nbob,gone\n")
    lists = "--allow", made / "allow.txt", "--deny", made / "deny.txt"
    assert (
        answer(
            "recommend", made / "run", "--top", 50, "--out", made / "a.parquet", "--users", made / "users.txt", *lists
        )
        == 0
    )
    train, ids = pq.read_table(made / "set" / "train"), pq.read_table(made / "set" / "items.parquet")["id"].to_pylist()
    allowed = {f"i{item:02d}" for item in range(12)} - {"i03"}
    table, visited = pq.read_table(made / "a.parquet").to_pylist(), 0
    for user in (2, 5):
        seen = {ids[i] for u, i in zip(train["user"].to_pylist(), train["item"].to_pylist(), strict=True) if u == user}
        mine = [row for row in table if row["user"] == f"u{user:02d}"]
        assert {row["item"] for row in mine} == allowed - seen
        assert [row["rank"] for row in mine] == list(range(1, len(mine) + 1))
        visited += len(mine)
    assert visited == len(table)

    assert (
        answer(
            "recommend", made / "run", "--top", 3, "--out", made / "b.parquet", "--histories", made / "new.csv", *lists
        )
        == 0
    )
    table = pq.read_table(made / "b.parquet").to_pylist()
    assert [(row["user"], row["rank"]) for row in table] == [("ann", 1), ("ann", 2), ("ann", 3)]
    assert {row["item"] for row in table} <= allowed - {"i00", "i01"}
    said = " ".join(capsys.readouterr().err.split())
    assert "1 pairs left out, with 1 unknown items" in said
    assert "user bob has no known item: skipped" in said


def test_export_in_each_form(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    assert answer("export", made / "run", "--out", made / "arrays", "--faiss", "--at", 5) == 0
    assert answer("export", made / "run", "--out", made / "tables", "--format", "parquet") == 0
    assert sorted(file.name for file in (made / "arrays").iterdir()) == [
        *("items.faiss", "items.faiss.json", "items.npy", "items.parquet", "users.npy", "users.parquet")
    ]
    report = json.loads((made / "arrays" / "items.faiss.json").read_text())
    assert f"recall@5 {report['recall']:.4f}" in " ".join(capsys.readouterr().err.split())
    table = pq.read_table(made / "tables" / "items.parquet")
    assert table["id"].to_pylist() == pq.read_table(made / "arrays" / "items.parquet")["id"].to_pylist()
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), np.load(made / "arrays" / "items.npy"))


def test_a_folder_that_another_made_meanwhile_stays(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = made / "taken"

    def make_it_too(embeddings: Embeddings, building: Path) -> None:
        (out / "mine").mkdir(parents=True)

    monkeypatch.setattr(inference_export, "export_embeddings", make_it_too)
    assert answer("export", made / "run", "--out", out) == 2
    assert f"{out}: exists already" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert list(made.glob(".taken*")) == []


def test_two_exports_into_one_folder_do_not_mix(made: Path, tmp_path: Path) -> None:
    """The first stops between its two arrays until the second has begun to write, or waits for it."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOW_EXPORT, "export", str(made / "run"), "--out", str(out)]
    with ExitStack() as ended:
        said = [tmp_path / "first", tmp_path / "second"]
        processes = []
        for number, (file, awaited) in enumerate(zip(said, ("between", "between|waiting for"), strict=True), 1):
            stream = ended.enter_context(file.open("w"))
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=stream, env=os.environ | {"NUMBER": str(number)}
            )
            ended.callback(process.wait)
            ended.callback(process.kill)
            processes.append(process)
            wait_for(awaited, file)
        for process in processes:
            process.communicate(b"go on\n", timeout=60)
    assert [process.returncode for process in processes] == [0, 2]
    assert f"{out}: exists already" in " ".join(said[1].read_text().split())
    assert [np.load(out / f"{name}.npy").tolist() for name in ("users", "items")] == [1, 1]
    assert list(tmp_path.glob(".out*")) == []


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_full_disk_is_one_line(
    made: Path, kind: str, capsys: pytest.CaptureFixture[str], limit_files: Callable[[int], None]
) -> None:
    limit_files(600)  # the users' matrix would be 1,088 bytes
    assert answer("export", made / "run", "--out", made / "full", "--format", kind) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "cannot be written" in line
    assert "File too large" in line
    assert list(made.glob("*full*")) + list(made.glob(".full*")) == [], "nothing half-written stays"


@pytest.mark.parametrize("command", [["export"], ["recommend", "--top", "3"]])
def test_ranks_wait_for_what_rank_zero_does_at_the_end(
    command: list[str], made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def process_group(timeout_s: float) -> None:
        waits.append(timeout_s)
        raise UserError("seen")

    monkeypatch.setattr(group, "process_group", process_group)
    assert answer(*command, made / "run", "--out", made / "x") == 2
    assert waits == [24 * 3600], "a merge of many lists takes longer than a time-out for a lost rank"


def test_what_is_refused(made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (made / "there").mkdir()
    (made / "none.txt").write_text("gone\n")
    (made / "words.txt").write_text("0 1\n0 x\n")
    (made / "unknown.csv").write_text("user,item\nann,gone\n")
    monkeypatch.setitem(sys.modules, "faiss", None)
    recommend = "recommend", made / "run", "--top", 2, "--out"
    cases = {
        ("evaluate", made / ("x" * 300)): "File name too long",
        ("evaluate", made / "run", "--all", "--metrics", "map"): "--all and --metrics exclude each other",
        ("evaluate", made / "run", "--metrics", "recal"): "--metrics: 'recal' does not fit: input should be 'recall'",
        ("evaluate", made / "run", "--cutoffs", "5,0"): "error: --cutoffs: '0' does not fit: input should be greater",
        ("evaluate", made / "run", "--cutoffs", "5,x"): "error: --cutoffs: 'x' does not fit",
        (*recommend, made / "there"): "exists already",
        (*recommend, made / ("x" * 300)): "File name too long",
        (*recommend, made / "x", "--users", "a", "--histories", "b"): "--users and --histories exclude each other",
        (*recommend, made / "x", "--allow", made / "none.txt"): "leaves no item",
        (*recommend, made / "x", "--deny", made / "absent.txt"): "absent.txt",
        (*recommend, made / "x", "--histories", made / "unknown.csv"): "none of its 1 items is in the data set",
        (*recommend, made / "x", "--histories", made / "words.txt"): "or give a table with a header (csv, tsv)",
        ("export", made / "run", "--out", made / "there"): "exists already",
        ("export", made / "run", "--out", made / ("x" * 300)): "File name too long",
        ("export", made / "run", "--out", made / "x", "--at", 5): "add --faiss, or leave --at out",
        ("export", made / "run", "--out", made / "x", "--faiss"): "pip install 'infodcl-dist[faiss]'",
    }
    before = sorted(path.name for path in made.iterdir())
    for arguments, words in cases.items():
        assert answer(*arguments) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ")
        assert words in line
    assert sorted(path.name for path in made.iterdir()) == before
    assert len(cases) == 16
