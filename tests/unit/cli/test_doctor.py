import pytest
from click.testing import CliRunner

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.stack import Finding
from infodcl_dist.cli import doctor as command

FITS = Finding(package="torch", found="2.13.0", needed="2.13.*", ok=True, remedy="")
CLASH = Finding(package="torchrec", found="1.7.0", needed="1.8.*", ok=False, remedy="pip install 'torchrec==1.8.*'")


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A stack that fits, on a made-up machine."""
    monkeypatch.setattr(command, "check_versions", lambda _: [FITS])
    monkeypatch.setattr(command, "try_operator", lambda: "")
    monkeypatch.setattr(command, "describe_machine", lambda: {"devices": "2 CUDA: Large, Larger"})
    return monkeypatch


def test_a_fitting_stack_passes(stack: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(command.doctor)
    assert result.exit_code == 0
    for word in ("torch", "2.13.0", "fbgemm operator", "2 CUDA: Large, Larger"):
        assert word in result.stdout
    assert "change" not in result.stdout


def test_a_clash_is_shown_and_is_the_users_to_mend(stack: pytest.MonkeyPatch) -> None:
    stack.setattr(command, "check_versions", lambda _: [FITS, CLASH])
    result = CliRunner().invoke(command.doctor)
    assert "torchrec: pip install 'torchrec==1.8.*'" in result.stdout
    assert isinstance(result.exception, UserError)
    assert str(result.exception).endswith("(torchrec); run: pip install 'torchrec==1.8.*'")
    assert "\n" not in str(result.exception)


def test_an_operator_that_does_not_load_is_a_fault(stack: pytest.MonkeyPatch) -> None:
    stack.setattr(command, "try_operator", lambda: "ImportError: libcuda.so.1: cannot open shared object file")
    result = CliRunner().invoke(command.doctor)
    assert isinstance(result.exception, UserError)
    assert "libcuda" in result.stdout
