"""How training that was asked to stop ends a command."""

import click
import pytest

from infodcl_dist.base.console import log
from infodcl_dist.cli.train import stopped_with_status
from infodcl_dist.train.preemption import STATUS, Preempted


@pytest.mark.parametrize("remark", ["", ", without run.overwrite"])
def test_a_request_to_stop_is_a_status_and_a_line(remark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    # What the log does with it hangs on the commands that ran before in this process.
    monkeypatch.setattr(log, "warning", lambda line, *values: said.append(line % values))
    with pytest.raises(click.exceptions.Exit) as ended, stopped_with_status(remark):
        raise Preempted("asked to stop; run the same command to go on")
    assert ended.value.exit_code == STATUS
    assert said == [f"asked to stop; run the same command to go on{remark}"]
