"""What a file or a pipe gets."""

import pytest

from infodcl_dist.base.console import console, log, set_up_log


def test_lines_of_text_stay_whole_where_no_terminal_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    words, path = "many words " * 40 + "end", "/folder" * 60
    set_up_log()
    log.warning(words)
    console.print(f"results  {path}")
    logged, printed = capsys.readouterr().err.splitlines()
    assert logged.endswith(f" WARNING  {words}")
    assert printed == f"results  {path}"
