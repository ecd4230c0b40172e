import logging

import pytest

import infodcl_dist.parallel  # noqa: F401  (which quiets imports)


def test_only_fbgemm_s_own_doubt_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    logging.warning("\n  _fbgemm_torch_compat_table has no entry for 1.6.0 of FBGEMM;\n  cannot determine …")
    logging.warning("FBGEMM_GPU version is 1.6.0, which is not guaranteed to be compatible")
    (told,) = caplog.messages
    assert "not guaranteed" in told
