import logging
import sys
from types import SimpleNamespace

import pytest

from infodcl_dist.parallel.quiet import quiet_from_now_on  # and its package, which calls it


def test_only_fbgemm_s_own_doubt_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    logging.warning("\n  _fbgemm_torch_compat_table has no entry for 1.6.0 of FBGEMM;\n  cannot determine …")
    logging.warning("FBGEMM_GPU version is 1.6.0, which is not guaranteed to be compatible")
    (told,) = caplog.messages
    assert "not guaranteed" in told


class NoCloseWriter:
    """As torch's, whose class is local to a function."""


def test_only_the_writer_of_a_failed_save_ends_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.object))
    monkeypatch.setattr(logging.getLogger(), "filters", [])
    quiet_from_now_on()
    for left in (NoCloseWriter(), "another"):
        sys.unraisablehook(SimpleNamespace(object=left))
    assert told == ["another"]
