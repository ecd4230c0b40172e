"""Runs that a tuner watches: what a hook is told, that it can end training cleanly, and that test is left alone."""

import errno
import fcntl
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from infodcl_dist.base.config import load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.locks import locked
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.parallel import folders
from infodcl_dist.parallel.folders import check_shared, one_group_at_a_time
from infodcl_dist.parallel.group import Group
from infodcl_dist.recipe import training
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.model import Evaluator
from infodcl_dist.recipe.run import open_run, train_run
from infodcl_dist.train.loop import EpochReport
from infodcl_dist.train.preemption import Preempted, StopRequest
from infodcl_dist.train.state import SELECTED_BY, FitState

STEPS = 4  # of an epoch: 256 training pairs
KEYS = ["model.name=mf", "model.dim=8", "train.epochs=5", "train.evaluate_every=1", "train.global_batch_size=64"]


def watched(group: Group, keys: list[str], last: int | None, splits: list[str]) -> tuple[dict, list[int]]:
    seen: list[int] = []

    def is_enough(report: EpochReport) -> bool:
        assert "recall@20" in report.valid
        seen.append(report.epoch)
        return report.epoch == last

    result = train_run(load_config(RunConfig, None, [*KEYS, *keys]), group, hooks=[is_enough], splits=splits)
    return result, seen


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    draw = np.random.default_rng(0)
    # Two tastes, so that there is something to learn.
    pairs = [(user, 40 * (user % 2) + item) for user in range(40) for item in draw.choice(40, 8, replace=False)]
    (folder / "pairs.txt").write_text("".join(f"{user} {item}\n" for user, item in pairs))
    prepare(folder / "pairs.txt", folder / "set", PrepareOptions())
    return folder / "set"


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_hook_ends_training_whole_and_the_run_can_go_on(
    ranks, dataset: Path, tmp_path: Path, world_size: int
) -> None:
    run = tmp_path / "run"
    keys = [f"data.path={dataset}", f"run.path={run}"]
    for result, seen in ranks(world_size, watched, keys, 2, ["valid"]):
        assert seen == [1, 2]
        assert set(result["valid"]) == {f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (10, 20, 50)}
        assert "test" not in result
    assert json.loads((run / "result.json").read_text())["best_epoch"] in (1, 2)
    for result, seen in ranks(world_size, watched, keys, None, ["valid", "test"]):
        assert seen == [3, 4, 5], "it was saved where it ended"
        assert set(result["test"]) == set(result["valid"])


def refused_on_two_hosts(group: Group, dataset: Path, hosts: Path) -> str:
    """What is said where each rank has a disk of its own."""
    own = hosts / str(group.rank)
    own.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "SEEN_S", 0.3)
        patch.chdir(own)
        with pytest.raises(UserError) as raised:
            watched(group, [f"data.path={dataset}", "run.path=run"], None, ["valid"])
    return str(raised.value)


def test_a_run_folder_that_hosts_do_not_share_is_refused_before_training(ranks, dataset: Path, tmp_path: Path) -> None:
    first, second = ranks(2, refused_on_two_hosts, dataset, tmp_path)
    assert first == second
    assert first.startswith("run: must lie on a file system that all hosts share; ")
    assert not (tmp_path / "0" / "run" / "log.txt").exists()
    assert list((tmp_path / "0" / "run").glob(".seen*")) == []


def late(group: Group, folder: Path) -> list[str]:
    """What rank 0 wrote is seen by the others a moment later, as on a network file system."""
    isfile, calls = os.path.isfile, []

    def slow(file: Path) -> bool:
        calls.append(str(file))
        return len(calls) > 2 and isfile(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os.path, "isfile", slow)
        patch.setattr(folders, "SEEN_S", 60)
        check_shared(folder)
    return calls


def test_a_shared_folder_may_be_seen_late(ranks, tmp_path: Path) -> None:
    assert [len(calls) for calls in ranks(2, late, tmp_path)] == [3, 3]
    assert list(tmp_path.iterdir()) == []


def test_the_best_epoch_is_that_of_the_model_which_is_kept(ranks, dataset: Path, tmp_path: Path) -> None:
    """A run whose newest checkpoints are lost, as one that was killed after its best epoch and is not to go so far."""
    run = tmp_path / "run"
    keys = [f"data.path={dataset}", f"run.path={run}", f"checkpoint.every_steps={STEPS}", "checkpoint.keep=9"]
    keys.append("train.learning_rate=0.02")
    ((whole, _),) = ranks(1, watched, keys, None, ["valid"])
    first, second = (json.loads(line)[SELECTED_BY] for line in (run / "metrics.jsonl").read_text().splitlines()[:2])
    assert whole["best_epoch"] > 2, "or it shows nothing"
    assert first > second, "nor where the second epoch's model takes its place"
    for later in sorted((run / "checkpoints").glob("step-*"))[2:]:
        shutil.rmtree(later)
    ((shorter, seen),) = ranks(1, watched, [*keys, "train.epochs=2"], None, ["valid"])
    assert seen == [2], "it was saved before it was evaluated"
    assert (shorter["best_epoch"], shorter["valid"]) == (whole["best_epoch"], whole["valid"])


def test_a_run_that_goes_on_has_no_result_until_its_end(ranks, dataset: Path, tmp_path: Path) -> None:
    keys = [f"data.path={dataset}", f"run.path={tmp_path / 'run'}"]
    ranks(1, watched, [*keys, "train.epochs=2"], None, ["valid"])
    earlier = (tmp_path / "run" / "result.json").read_text()
    ranks(1, watched, [*keys, "train.epochs=2"], None, ["valid"])
    assert json.loads((tmp_path / "run" / "result.json").read_text())["valid"] == json.loads(earlier)["valid"]
    ranks(1, stopped_after_epoch_3, keys)
    assert not (tmp_path / "run" / "result.json").exists()


def told(group: Group, keys: list[str]) -> str:
    """What a run ends with; it waits for no other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "ENDING_S", 0)
        with pytest.raises(UserError) as error:
            watched(group, keys, None, ["valid"])
    return str(error.value)


def test_a_folder_has_one_run_at_a_time(ranks, dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked(run / ".lock"):
        found = ranks(2, told, [f"data.path={dataset}", f"run.path={run}"])
    assert found == [f"{run}: another run works on it; wait for its end, or end it"] * 2
    assert [entry.name for entry in run.iterdir()] == [".lock"]


def test_epochs_behind_a_run_that_was_never_evaluated_are_refused(ranks, dataset: Path, tmp_path: Path) -> None:
    keys = [f"data.path={dataset}", f"run.path={tmp_path / 'run'}", "train.evaluate_every=4"]
    ranks(1, stopped_after_epoch_3, keys)
    (found,) = ranks(1, told, [*keys, "train.epochs=2"])
    assert found == "train.epochs=2: 3 are done already, and none of them was evaluated; give it 4 or more"


def stopped_after_epoch_3(group: Group, keys: list[str]) -> None:
    # After every step: a save that is due by time alone is left out while the one before is being written.
    config = load_config(RunConfig, None, [*KEYS, *keys, "checkpoint.every_steps=1"])

    def stop(report: EpochReport) -> None:
        if report.epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(config, group, hooks=[stop], splits=["valid"])


def test_the_profile_has_the_steps_that_were_asked_for(ranks, dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    keys = [f"data.path={dataset}", f"run.path={run}", "train.global_batch_size=1000", "train.profile_steps=1"]
    ranks(1, watched, keys, None, ["valid"])
    spans = [event.get("name") for event in json.loads((run / "profile" / "rank-0.json").read_text())["traceEvents"]]
    assert spans.count("backward") == 1, "an epoch of one step, the fifth"


def hold(group: Group, lock: Path, log: Path, name: str) -> None:
    with one_group_at_a_time(lock):
        if group.rank == 0:
            with log.open("a") as stream:
                stream.write(f"{name} in\n")
            threading.Event().wait(0.5)
            with log.open("a") as stream:
                stream.write(f"{name} out\n")


def test_two_groups_that_need_the_same_work_one_after_the_other(ranks, tmp_path: Path) -> None:
    lock, log = tmp_path / "made" / "lock", tmp_path / "log"
    threads = [threading.Thread(target=ranks, args=(n, hold, lock, log, f"group of {n}")) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = log.read_text().splitlines()
    assert len(lines) == 4
    assert [line.rsplit(" ", 1)[0] for line in lines[::2]] == [line.rsplit(" ", 1)[0] for line in lines[1::2]]


def wait(group: Group, lock: Path) -> tuple[str, int]:
    """How a wait ends that rank 1 is asked to give up in its second round, and how many rounds there were."""
    rounds = 0
    with StopRequest(60) as stop, pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "ROUND_S", 0.1)

        def meanwhile() -> None:
            nonlocal rounds
            rounds += 1
            if group.rank == 1 and rounds == 2:
                stop._ask(15, None)  # as a SIGTERM does
            stop.check()

        with pytest.raises(Preempted) as ended, one_group_at_a_time(lock, meanwhile=meanwhile):
            pass
    return str(ended.value), rounds


def test_a_group_that_waits_for_another_s_work_can_be_asked_to_stop(ranks, tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        found = ranks(2, wait, tmp_path / "lock")
    assert found == [("asked to stop before there was anything to save; run the same command to begin", 2)] * 2


def test_a_lock_that_is_held_is_told_and_is_free_again(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock"),
        pytest.raises(UserError, match="another sweep works on it"),
        locked(tmp_path / "lock", wait_s=0, holder="another sweep"),
    ):
        pass
    with locked(tmp_path / "lock", wait_s=0):
        pass


def test_a_lock_whose_file_is_gone_locks_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removed it, and left, after it was opened and before it was locked."""
    lock, flock, opened = tmp_path / "lock", fcntl.flock, []

    def after_it_went(descriptor: int, operation: int) -> None:
        if not opened:
            lock.unlink()
        opened.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", after_it_went)
    with locked(lock), pytest.raises(UserError, match="another process works on it"), locked(lock, wait_s=0):
        pass
    assert len(opened) == 3


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(UserError, match="lock: cannot be locked"), locked(tmp_path / "lock"):
        pass


def evaluated_as(group: Group, keys: list[str], recalls: list[float]) -> tuple[dict, list[int]]:
    told = iter(recalls)

    def measured(evaluator: Evaluator, split: str) -> dict[str, float]:
        value = next(told, 0.0)  # once more at the end, of the model that was kept
        return {"recall@20": value, "recall@50": 1 - value, "ndcg@20": 1 - value}  # others order epochs otherwise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "__call__", measured)
        return watched(group, keys, None, ["valid"])


def item_rows(group: Group, run: Path) -> torch.Tensor:
    return open_run(run, group).tables.item_rows.detach().clone()


@pytest.mark.parametrize("world_size", [1, 2])
def test_patience_ends_training_and_the_first_best_epoch_is_kept(
    ranks, dataset: Path, tmp_path: Path, world_size: int
) -> None:
    recalls = [0.1, 0.3, 0.2, 0.4, 0.4, 0.3]
    for name, epochs, given in (("run", 9, recalls), ("short", 4, recalls[:4])):
        keys = [f"data.path={dataset}", f"run.path={tmp_path / name}", f"train.epochs={epochs}", "train.patience=2"]
        for result, seen in ranks(world_size, evaluated_as, keys, given):
            assert seen == list(range(1, len(given) + 1)), "the same again is no gain"
            assert result["best_epoch"] == 4
    kept, short = (ranks(world_size, item_rows, tmp_path / name) for name in ("run", "short"))
    assert all(torch.equal(one, other) for one, other in zip(kept, short, strict=True))


def cut_off_in_an_evaluation(group: Group, keys: list[str]) -> str:
    """A run that is killed while it evaluates epoch 3 goes on to its end; what its log says."""
    config = load_config(RunConfig, None, [*KEYS, *keys])
    after_evaluation = FitState.after_evaluation

    def killed(state: FitState, epoch: int, valid: dict[str, float]) -> FitState:
        if epoch == 3:
            raise RuntimeError("killed")
        return after_evaluation(state, epoch, valid)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FitState, "after_evaluation", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train_run(config, group)
    train_run(config, group)
    return (config.run.path / "log.txt").read_text()


@pytest.mark.parametrize("world_size", [1, 2])
def test_what_was_trained_is_saved_before_it_is_evaluated(
    ranks, dataset: Path, tmp_path: Path, world_size: int
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ranks(world_size, watched, [f"data.path={dataset}", f"run.path={whole}"], None, ["valid"])
    keys = [f"data.path={dataset}", f"run.path={cut}", f"checkpoint.every_steps={STEPS}"]
    log, *_ = ranks(world_size, cut_off_in_an_evaluation, keys)
    assert f"epoch 3, step {STEPS}\n" in log
    of_time = ("seconds", "interactions_per_second", "peak_rss_bytes")
    found = [
        [
            {name: value for name, value in json.loads(line).items() if name not in of_time}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (whole, cut)
    ]
    assert len(found[0]) == 5
    assert found[0] == found[1]
