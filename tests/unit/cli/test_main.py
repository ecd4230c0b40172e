"""How commands end: 0 done, 2 for the user to change with one line, 1 for a fault of ours."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from infodcl_dist import __version__
from infodcl_dist.base.errors import UserError
from infodcl_dist.cli.main import COMMANDS, infodcl_dist, run


def ending_in(ending: BaseException | None) -> click.Command:
    """A command that ends in a certain way."""

    @click.command()
    @click.option("--count", type=click.IntRange(min=1), default=1)
    @click.argument("names", nargs=-1)
    def command(count: int, names: tuple[str, ...]) -> None:
        print("at work", count, names)
        if ending is not None:
            raise ending

    return command


def error_line(stderr: str) -> str:
    """The only line on standard error."""
    (line,) = stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_command_that_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ending_in(None), ["--count", "3", "a"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "at work 3 ('a',)\n"
    assert captured.err == ""


@pytest.mark.parametrize("message", ["set/train: is missing; prepare it again", "two\nlines\n   of it"])
def test_what_the_user_must_change_is_one_line(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ending_in(UserError(message)), []) == 2
    assert error_line(capsys.readouterr().err) == f"error: {' '.join(message.split())}"


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(ending_in(UserError("once is enough")), []) == 2
    assert capsys.readouterr().err == ""


def test_under_torchrun_the_first_rank_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in ("1", "0", "1"):  # the last: asked again, it is still the one
        (tmp_path / rank).mkdir(exist_ok=True)
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / rank / "error.json"))
        assert run(ending_in(UserError("once is enough")), []) == 2
        assert capsys.readouterr().err == ("error: once is enough\n" if rank == "1" else "")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--count", "0"], "--count"),
        (["--count", "x"], "--count"),
        (["--colour"], "--colour"),
        (["--count"], "--count"),
        (["caf\udce9"], "caf\ufffd: is not UTF-8"),
    ],
)
def test_a_usage_error_is_one_line(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ending_in(None), arguments) == 2
    assert word in error_line(capsys.readouterr().err)


@pytest.mark.parametrize("status", [0, 1, 3])
def test_a_commands_own_status_is_kept(status: int) -> None:
    assert run(ending_in(click.exceptions.Exit(status)), []) == status


def test_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ending_in(click.Abort()), []) == 130
    assert run(ending_in(KeyboardInterrupt()), []) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(ending_in(ZeroDivisionError()), [])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(infodcl_dist, ["--version"]) == 0
    assert capsys.readouterr().out.strip().endswith(__version__)


def test_help_lists_every_command_and_each_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(infodcl_dist, ["--help"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.split("Commands:")[1].splitlines() if line.strip()}
    assert listed == set(COMMANDS)
    for name in COMMANDS:
        assert run(infodcl_dist, [name, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Usage: infodcl-dist {name} ")
        assert len(text.splitlines()[2].strip()) > 10, f"{name} does not say what it does"
    assert {"prepare", "metadata", "train", "evaluate", "export", "doctor"} <= set(COMMANDS)


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(infodcl_dist, ["trian"]) == 2
    assert "trian" in error_line(capsys.readouterr().err)


def test_without_a_command_the_help_can_be_read(capfd: pytest.CaptureFixture[str]) -> None:
    run(infodcl_dist, [])
    captured = capfd.readouterr()
    assert "\n  prepare " in captured.out + captured.err


def test_names_of_commands_are_their_modules() -> None:
    for name in COMMANDS:
        command = infodcl_dist.get_command(click.Context(infodcl_dist), name)
        assert command is not None
        assert command.name == name
        assert CliRunner().invoke(command, ["--help"]).exit_code == 0
    assert infodcl_dist.get_command(click.Context(infodcl_dist), "none") is None


def test_the_module_and_its_status_as_the_shell_sees_them() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "infodcl_dist", "train", "--nproc", "none"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert "--nproc" in error_line(finished.stderr)


@pytest.mark.parametrize("command", ["--help", "doctor"])
def test_a_reader_that_leaves_is_no_fault(command: str) -> None:
    """`infodcl-dist … | head` closes the pipe early; doctor prints tables."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; sys.stdin.read(); from infodcl_dist.cli.main import main; main()",
            command,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()  # before anything is written: the process waits for its input's end
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stderr == b""


def test_work_goes_on_when_nobody_reads_its_log() -> None:
    program = (
        "import sys; sys.stdin.read()\n"
        "from infodcl_dist.base.console import log, set_up_log\n"
        "set_up_log()\n"
        "for part in range(3):\n"
        "    log.info('part %s', part)\n"
        "    print('done', part, file=sys.stderr)\n"
        "print('all done')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    process.stderr.close()  # before anything is written: the process waits for its input's end
    process.stderr = None
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stdout == b"all done\n"
