"""Workers that a signal ends: only a SIGTERM, as schedulers send it, is what a run answers by saving itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLEEPER = "import os, pathlib, time; pathlib.Path(f'ready-{os.environ[\"RANK\"]}').touch(); time.sleep(60)"
COMMAND = """
import click
from infodcl_dist.cli.main import main
from infodcl_dist.cli.processes import run_in_processes

main(click.Command("command", callback=lambda: run_in_processes("sleeper", [], 2, terminated=75)))
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_the_status_is_that_of_the_signal(tmp_path: Path, number: signal.Signals, status: int) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 90
        while len(list(tmp_path.glob("ready-*"))) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=20) == status
    finally:
        process.kill()
