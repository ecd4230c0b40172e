"""What each worker of a trial is told: the same as torchrun would, wherever Ray put it."""

import subprocess
import sys

from infodcl_dist.base.machine import MEMORY_SHARE
from infodcl_dist.tune.workers import Place, _environments


def test_ranks_are_numbered_by_machine_and_see_all_of_the_trials_gpus_there() -> None:
    places = [
        Place("a", "10.0.0.1", ("2",)),
        Place("b", "10.0.0.2", ("0",)),
        Place("a", "10.0.0.1", ("5",)),
        Place("a", "10.0.0.1", ("1",)),
    ]
    made = _environments(places, 4711, threads=3, workers_of_host=4)
    assert [one["RANK"] for one in made] == ["0", "1", "2", "3"]
    assert [one["LOCAL_RANK"] for one in made] == ["0", "0", "1", "2"]
    assert [one["LOCAL_WORLD_SIZE"] for one in made] == ["3", "1", "3", "3"]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in made] == ["2,5,1", "0", "2,5,1", "2,5,1"]
    # Of four workers that a machine has of all trials these are three, and on the other machine one.
    assert [float(one[MEMORY_SHARE]) for one in made] == [0.75, 0.25, 0.75, 0.75]
    assert {(one["WORLD_SIZE"], one["MASTER_ADDR"], one["MASTER_PORT"], one["OMP_NUM_THREADS"]) for one in made} == {
        ("4", "10.0.0.1", "4711", "3")
    }


def test_on_one_machine_the_loopback_serves() -> None:
    made = _environments([Place("a", "192.168.7.7", ())] * 2, 4711, threads=1, workers_of_host=8)
    assert {one["MASTER_ADDR"] for one in made} == {"127.0.0.1"}
    assert {one["CUDA_VISIBLE_DEVICES"] for one in made} == {""}


def test_the_process_that_watches_a_trial_loads_no_torch() -> None:
    code = "import sys, infodcl_dist.tune.trial; print([name for name in ('torch', 'torchrec') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "[]"
