"""Outputs are complete or absent."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.base.files import new_file, new_folder, read_json, sha256_of_file, write_json


class Broken(Exception):
    pass


def names(folder: Path) -> list[str]:
    """Everything in the folder, hidden leftovers too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill(building: Path, text: str, error: type[BaseException] | None = None) -> None:
    """Writes one file of a folder, and fails then."""
    (building / "part").write_text(text)
    if error is not None:
        raise error


def write(building: Path, text: str, error: type[BaseException] | None = None) -> None:
    """Writes a file, and fails then."""
    building.write_text(text)
    if error is not None:
        raise error


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "above" / "out"
    with new_folder(final) as building:
        fill(building, "whole")
        assert not final.exists()
    assert names(final) == ["part"]
    assert names(final.parent) == ["out", "out/part"]


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, SystemExit])
def test_a_folder_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_folder(tmp_path / "out") as building:
        fill(building, "half", error)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "begun"), [("new_folder", "(building / 'part').touch()"), ("new_file", "building.touch()")]
)
def test_what_sigterm_ends_leaves_nothing(tmp_path: Path, kind: str, begun: str) -> None:
    program = (
        "import os, pathlib, signal\n"
        f"from infodcl_dist.base.files import {kind}\n"
        f"with {kind}(pathlib.Path('out')) as building:\n"
        f"    {begun}\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 143
    assert names(tmp_path) == []


def test_who_listens_to_sigterm_goes_on_listening(tmp_path: Path) -> None:
    """As a run does, which saves itself then: what it writes in that moment becomes whole."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with new_file(tmp_path / "out") as building:
            building.write_text("whole")
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] * 2
    assert names(tmp_path) == ["out"]


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    final = tmp_path / "out"
    final.mkdir()
    (final / "mine").write_text("keep")
    with pytest.raises(UserError, match=r"out: exists already; choose another folder"), new_folder(final):
        pytest.fail("the block must not be entered")
    assert names(tmp_path) == ["out", "out/mine"]


def test_a_folder_that_another_made_meanwhile_is_not_touched(tmp_path: Path) -> None:
    late = ExitStack()
    late.enter_context(new_folder(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").write_text("keep")
    with pytest.raises(UserError, match=r"out: exists already"):
        late.close()
    assert names(tmp_path) == ["out", "out/theirs"]


def test_a_link_to_nowhere_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("none")
    with pytest.raises(UserError, match=r"out: exists already"), new_folder(tmp_path / "out"):
        pytest.fail("the block must not be entered")


def test_what_the_system_refuses_is_the_users_to_change(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/out: cannot be written \(No space left"), new_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(UserError, match=r"x: cannot be written \(File name too long\)"),
        new_folder(tmp_path / ("x" * 300)),
    ):
        pytest.fail("the block must not be entered")
    assert names(tmp_path) == []


def test_an_input_that_is_gone_is_not_the_fault_of_the_output(tmp_path: Path) -> None:
    blames_input = rf"^{tmp_path}/input: No such file or directory, while {tmp_path}/out was being made"
    with pytest.raises(UserError, match=blames_input), new_folder(tmp_path / "out"):
        (tmp_path / "input").read_bytes()
    blames_output = rf"^{tmp_path}/out: cannot be written \(No such file or directory\)"
    with pytest.raises(UserError, match=blames_output), new_folder(tmp_path / "out") as building:
        (building / "below" / "file").write_bytes(b"")


def test_a_replaced_folder_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "out"
    with new_folder(final) as building:
        fill(building, "old")
    with pytest.raises(Broken), new_folder(final, replace=True) as building:
        fill(building, "new", Broken)
    assert (final / "part").read_text() == "old"
    with new_folder(final, replace=True) as building:
        fill(building, "new")
        assert (final / "part").read_text() == "old"
    assert (final / "part").read_text() == "new"
    assert names(tmp_path) == ["out", "out/part"]


def test_a_folder_below_a_file_is_the_users_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file/out: cannot be written .* choose a folder"),
        new_folder(tmp_path / "file" / "out"),
    ):
        pytest.fail("the block must not be entered")
    assert names(tmp_path) == ["file"]


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    final = tmp_path / "out.txt"
    with pytest.raises(Broken), new_file(final) as building:
        write(building, "half", Broken)
    assert names(tmp_path) == []
    with new_file(final) as building:
        building.write_text("old")
        assert not final.exists()
    with pytest.raises(Broken), new_file(final) as building:
        write(building, "half", Broken)
    assert final.read_text() == "old"
    with new_file(final) as building:
        building.write_text("new")
    assert final.read_text() == "new"
    assert names(tmp_path) == ["out.txt"]


def test_a_file_below_a_file_is_the_users_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out\.txt"), new_file(tmp_path / "file" / "out.txt"):
        pytest.fail("the block must not be entered")


def test_what_the_system_refuses_of_a_file_is_the_users_to_change(tmp_path: Path) -> None:
    full = rf"^{tmp_path}/out: cannot be written \(No space left"
    with pytest.raises(Unavailable, match=full), new_file(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(Unavailable, match=r"x: cannot be written \(File name too long\)"):
        write_json(tmp_path / ("x" * 300), 1)
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unavailable, match=rf"^{tmp_path}/folder: cannot be written \(Is a directory\)"):
        write_json(tmp_path / "folder", 1)
    blames_input = rf"^{tmp_path}/input: No such file .*, while {tmp_path}/out was being made"
    with pytest.raises(Unavailable, match=blames_input), new_file(tmp_path / "out"):
        (tmp_path / "input").read_bytes()
    with pytest.raises(UserError, match=r"^pairs\.csv:3: is bad$") as error, new_file(tmp_path / "out"):
        raise UserError("pairs.csv:3: is bad")
    assert type(error.value) is UserError
    assert names(tmp_path) == ["folder"]


def test_a_file_in_a_folder_that_is_being_made_is_told_by_the_name_it_will_have(tmp_path: Path) -> None:
    told = rf"^{tmp_path}/out: cannot be written \(No space left on device\); make room"
    with (
        pytest.raises(Unavailable, match=told),
        new_folder(tmp_path / "out") as building,
        new_file(building / "a.json"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_json_comes_back_and_a_bad_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "value.json"
    write_json(file, {"name": "Büro", "counts": [1, 2.5, None]})
    assert read_json(file) == {"name": "Büro", "counts": [1, 2.5, None]}
    assert "Büro" in file.read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")
    for content in (b"{", b"", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"value\.json: cannot be read as JSON"):
            read_json(file)
    with pytest.raises(Unavailable, match=r"cannot be read \(Is a directory\)"):
        read_json(tmp_path)


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "value.json"
    write_json(file, 1)
    with pytest.raises(TypeError):
        write_json(file, object())
    assert read_json(file) == 1
    assert names(tmp_path) == ["value.json"]


def test_checksum(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    # The example of FIPS 180-4.
    assert sha256_of_file(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
