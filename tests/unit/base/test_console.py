"""What a file or a pipe gets."""

import errno
import logging
from collections.abc import Iterator

import pytest

from infodcl_dist.base.console import console, log, set_up_log


@pytest.fixture
def logged() -> Iterator[None]:
    """The log as a command sets it up, and afterwards as it was."""
    set_up_log()
    yield
    for handler in list(log.handlers):
        log.removeHandler(handler)
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("logged")
def test_lines_of_text_stay_whole_where_no_terminal_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    words, path = "a.csv:100: many words " * 20 + "end", "/folder" * 60 + "/[bold]"
    log.warning(words)
    console.print(f"results  {path}")
    said, printed = capsys.readouterr().err.splitlines()
    assert said.endswith(f" WARNING  {words}")
    assert printed == f"results  {path}"


@pytest.mark.usefixtures("logged")
def test_a_log_line_that_cannot_be_written_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(console, "print", full)
    log.warning("words")
    assert "No space left on device" in capsys.readouterr().err, "told as Python tells it, if that can be written"
