"""Runs that are killed, stopped, damaged or starved, with real processes: they end in words, and go on unchanged.

A small synthesized data set keeps an epoch below a second, so that the time goes into starting processes.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

USERS, ITEMS, PAIRS_A_USER = 120, 80, 12
EPOCHS, STEPS_AN_EPOCH = 6, 19  # 120 × 10 training pairs in batches of 64, and a shorter last one
KEYS = [
    "model.dim=8",
    "metadata.dim=8",
    "metadata.epochs=2",
    "train.global_batch_size=64",
    f"train.epochs={EPOCHS}",
    "train.evaluate_every=2",
    "train.schedule=linear",
    "train.timeout_s=60",
    "checkpoint.every_steps=5",
    "checkpoint.keep=3",
]
STOPPED = 75  # EX_TEMPFAIL
# A restart at another world size sums in another order from there on.
TOLERANCE_OF_WORLD_SIZE = 1e-5


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE", "MASTER_PORT"}}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Run:
    """A run in the background."""

    def __init__(
        self,
        dataset: Path,
        folder: Path,
        processes: int,
        *extra: str,
        restarts: int = 0,
        file_limit_kib: int | None = None,
    ) -> None:
        self.folder = folder
        launcher = ["--standalone", f"--nproc_per_node={processes}", f"--max-restarts={restarts}"]
        keys = [f"data.path={dataset}", f"run.path={folder}", *KEYS, *extra]
        limit = [] if file_limit_kib is None else ["bash", "-c", 'ulimit -f "$0"; exec "$@"', str(file_limit_kib)]
        self.log = folder.with_name(f"{folder.name}-{time.monotonic_ns()}.log")
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [*limit, sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "infodcl_dist.train", *keys],
                env=environment(),
                stdout=stream,
                stderr=stream,
            )

    def wait(self, timeout_s: float = 100) -> int:
        try:
            return self.process.wait(timeout_s)
        finally:
            self.process.kill()

    def said(self) -> str:
        return self.log.read_text()

    def wait_for_step(self, step: int) -> None:
        """Until a checkpoint of `step` or a later one lies there."""
        self._until(lambda: any(number >= step for number in steps_kept(self.folder)), f"step {step}")

    def workers(self) -> list[int]:
        """Process ids of the ranks."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"infodcl_dist.train" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 90
        while not condition():
            assert self.process.poll() is None, f"ended before {what}:\n{self.said()[-3000:]}"
            assert time.monotonic() < deadline, f"no {what} in 90 s:\n{self.said()[-3000:]}"
            time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Not after its end, even where nobody asks for its status."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def steps_kept(folder: Path) -> list[int]:
    return sorted(int(found.name.split("-")[1]) for found in (folder / "checkpoints").glob("step-*"))


def losses(folder: Path) -> np.ndarray:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, EPOCHS + 1)), "each epoch once"
    rates = [0.001 * left / EPOCHS for left in range(EPOCHS, 0, -1)]
    assert [record["learning_rate"] for record in records] == pytest.approx(rates), "it falls with the epoch"
    terms = ("loss", "loss/bpr", "loss/reconstruction", "loss/contrastive", "loss/balance", "loss/regularization")
    return np.array([[record[term] for term in terms] for record in records])


def tables(folder: Path, out: Path) -> np.ndarray:
    """Both tables of the best epoch, propagated."""
    command = [sys.executable, "-m", "infodcl_dist", "export", str(folder), "--out", str(out)]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=60)
    return np.concatenate([np.load(out / "users.npy"), np.load(out / "items.npy")])


def assert_ends_like(run: Run, reference: Path, tmp_path: Path) -> None:
    """Bit for bit the losses, tables and metrics of a run that was never stopped."""
    assert run.wait() == 0, run.said()[-3000:]
    np.testing.assert_array_equal(losses(run.folder), losses(reference))
    np.testing.assert_array_equal(tables(run.folder, tmp_path / "a"), tables(reference, tmp_path / "b"))
    ended, never_stopped = (json.loads((folder / "result.json").read_text()) for folder in (run.folder, reference))
    for key in ("best_epoch", "valid", "test"):
        assert ended[key] == never_stopped[key]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survives")
    draw = np.random.default_rng(0)
    # Two tastes, so that there is something to learn.
    rows = [
        (user, item)
        for user in range(USERS)
        for item in draw.choice(ITEMS // 2, PAIRS_A_USER, replace=False) + (user % 2) * (ITEMS // 2)
    ]
    source = folder / "pairs.csv"
    source.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in rows))
    command = [sys.executable, "-m", "infodcl_dist", "prepare", str(source), "--out", str(folder / "dataset")]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=60)
    return folder / "dataset"


@pytest.fixture(scope="module")
def reference(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, never stopped."""
    run = Run(dataset, tmp_path_factory.mktemp("reference") / "run", 2)
    assert run.wait() == 0, run.said()[-3000:]
    assert json.loads((run.folder / "checkpoints" / f"step-{EPOCHS * STEPS_AN_EPOCH:09d}" / "state.json").read_text())
    assert losses(run.folder)[0, 0] > losses(run.folder)[-1, 0] * 1.05, "a run that learns nothing shows nothing"
    return run.folder


@pytest.mark.timeout(240)
def test_killed_ranks_restart_by_themselves_from_the_last_checkpoint(
    dataset: Path, reference: Path, tmp_path: Path
) -> None:
    run = Run(dataset, tmp_path / "run", 2, restarts=3)
    for rank, step in ((0, 20), (1, 60)):
        run.wait_for_step(step)
        os.kill(run.workers()[rank], signal.SIGKILL)
    assert_ends_like(run, reference, tmp_path)
    went_on = re.findall(r"going on from \S+: epoch (\d+), step (\d+)", re.sub(r"\s+", " ", run.said()))
    assert len(went_on) == 2, went_on


@pytest.mark.timeout(240)
def test_killed_launcher_leaves_a_run_that_goes_on_at_another_world_size(
    dataset: Path, reference: Path, tmp_path: Path
) -> None:
    run = Run(dataset, tmp_path / "run", 2)
    run.wait_for_step(25)
    workers = run.workers()
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 3
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their launcher, and would write beside the next ones"
        time.sleep(0.02)
    shutil.copytree(tmp_path / "run", tmp_path / "run-4")
    for processes, folder in ((1, tmp_path / "run"), (4, tmp_path / "run-4")):
        again = Run(dataset, folder, processes)
        assert again.wait() == 0, again.said()[-3000:]
        assert "going on from" in again.said()
        np.testing.assert_allclose(losses(folder), losses(reference), rtol=TOLERANCE_OF_WORLD_SIZE)


@pytest.mark.timeout(240)
def test_sigterm_saves_within_20_s_and_ends_with_its_own_status(dataset: Path, reference: Path, tmp_path: Path) -> None:
    keys = [f"data.path={dataset}", f"run.path={tmp_path / 'run'}", *KEYS, "checkpoint.every_steps=1"]
    log = (tmp_path / "log").open("w")
    command = [sys.executable, "-m", "infodcl_dist", "train", "--nproc", "2", *keys]
    process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
    deadline = time.monotonic() + 90
    while not steps_kept(tmp_path / "run"):
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == STOPPED
    assert "asked to stop after" in (tmp_path / "log").read_text()
    assert 0 < steps_kept(tmp_path / "run")[-1] < EPOCHS * STEPS_AN_EPOCH
    assert_ends_like(Run(dataset, tmp_path / "run", 2), reference, tmp_path)


@pytest.mark.timeout(240)
def test_sigterm_to_torchrun_saves_and_leaves_what_a_requeue_script_looks_at(dataset: Path, tmp_path: Path) -> None:
    run = Run(dataset, tmp_path / "run", 2, "checkpoint.every_steps=1")
    run.wait_for_step(1)
    run.process.terminate()
    assert run.wait(timeout_s=60) == 1, "torchrun's own status: it does not hand on its workers'"
    assert "SignalException" in run.said()
    last = (run.folder / "log.txt").read_text().splitlines()[-1]
    steps = int(re.search(r"asked to stop after (\d+) steps; run the same command to go on$", last)[1])
    assert steps == steps_kept(run.folder)[-1]
    assert not (run.folder / "result.json").exists()


@pytest.mark.timeout(240)
def test_damaged_checkpoints_are_passed_over_by_name(dataset: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    kept = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert len(kept) == 3
    flipped = next(kept[2].glob("__1_*.distcp"))
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    torn = next(kept[1].glob("__0_*.distcp"))
    torn.write_bytes(torn.read_bytes()[:-7])
    half = tmp_path / "run" / "checkpoints" / ".step-000000001.building"  # as a kill in the middle of a save leaves it
    half.mkdir()
    run = Run(dataset, tmp_path / "run", 2)
    assert_ends_like(run, reference, tmp_path)
    said = re.sub(r"\s+", "", run.said())
    for expected in (str(flipped), str(torn), f"goingonfrom{kept[0]}"):
        assert expected in said
    assert not half.exists()


@pytest.mark.timeout(240)
def test_full_disk_keeps_the_old_checkpoint_and_says_so(dataset: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    for number in steps_kept(reference)[1:]:
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{number:09d}")
    (old,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    before = {file.name: file.read_bytes() for file in old.iterdir()}
    # No file may grow beyond this: what a table's shard needs, as on a disk that is full.
    run = Run(dataset, tmp_path / "run", 2, file_limit_kib=6)
    assert run.wait() != 0
    said = re.sub(r"\s+", " ", run.said())
    assert "checkpoint not saved" in said, run.said()[-3000:]
    # Without room for the best model the run ends, in one line.
    assert len(re.findall(r"error: \S+ could not be written", said)) == 1
    assert "Traceback" not in said.partition("error: ")[0]
    assert {file.name: file.read_bytes() for file in old.iterdir()} == before
    assert list((tmp_path / "run" / "checkpoints").glob(".*")) == [], "half saves give their room back"
    assert_ends_like(Run(dataset, tmp_path / "run", 2), reference, tmp_path)


FAULTY_WORKER = """
import os, sys, time
from pathlib import Path
from infodcl_dist.cli.main import main
from infodcl_dist.cli.train import worker
from infodcl_dist.data.batches import Batches

whole = Batches.batch

def batch(self, epoch, step):
    if os.environ["RANK"] == "1" and (epoch, step) == (2, 7):
        Path(os.environ["RAISED_AT"]).write_text(str(time.time()))
        raise RuntimeError("planted in rank 1")
    return whole(self, epoch, step)

Batches.batch = batch
main(worker)
"""


@pytest.mark.timeout(120)
def test_an_exception_in_one_rank_ends_all_within_20_s_and_is_told(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY_WORKER)
    raised_at = tmp_path / "raised-at"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ended = subprocess.run(
        [*command, str(tmp_path / "faulty.py"), f"data.path={dataset}", f"run.path={tmp_path / 'run'}", *KEYS],
        env=environment() | {"RAISED_AT": str(raised_at)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    seconds = time.time() - float(raised_at.read_text())
    assert ended.returncode != 0
    assert "RuntimeError: planted in rank 1" in ended.stderr
    assert seconds < 20, f"{seconds:.0f} s until the last rank ended"
    # The one of step 25 may have been in the writing: batch 27 is asked for while 25 is computed.
    assert steps_kept(tmp_path / "run")[-1] in {20, 25}, "the last whole checkpoint before the fault stays"


@pytest.mark.timeout(120)
def test_divergence_names_term_and_step_and_keeps_the_last_good_checkpoint(dataset: Path, tmp_path: Path) -> None:
    # Metadata at the end of float32's range: finite in the file, not in the channel.
    np.save(tmp_path / "huge.npy", np.full((ITEMS, 8), 3e38, dtype=np.float32))
    command = [sys.executable, "-m", "infodcl_dist", "prepare", str(dataset.parent / "pairs.csv")]
    command += ["--out", str(tmp_path / "dataset"), "--item-features", f"huge={tmp_path / 'huge.npy'}"]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=60)
    run = Run(tmp_path / "dataset", tmp_path / "run", 2, "model.channels=[huge]", "checkpoint.every_steps=1")
    assert run.wait() != 0
    said = re.sub(r"\s+", " ", run.said())
    named = re.search(
        r"error: loss term \S+ is not finite in epoch 1, step (\d+), a batch of 64 from example ([\d,]+) of", said
    )
    assert named is not None, said[-3000:]
    assert int(named[2].replace(",", "")) == 64 * int(named[1])
    assert len(re.findall("error: loss term", said)) == 1, "rank 0 speaks for all"


@pytest.mark.timeout(60)
def test_another_configuration_is_refused(dataset: Path, reference: Path) -> None:
    keys = [f"data.path={dataset}", f"run.path={reference}", *KEYS, "train.learning_rate=0.01"]
    command = [sys.executable, "-m", "infodcl_dist", "train", *keys]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: run.path:")
    assert "train.learning_rate" in ended.stderr
