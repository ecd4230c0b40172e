"""Spans of rows in `.npy` files, against NumPy's own reading and writing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from infodcl_dist.base.array_file import create_array, create_mapped, open_array
from infodcl_dist.base.errors import UserError


@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("shape", [(7, 3), (5,), (0, 3), (1, 1)])
def test_spans_of_rows_are_numpys(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    np.save(tmp_path / "saved.npy", values)
    file = open_array(tmp_path / "saved.npy")
    assert (file.shape, file.dtype) == (shape, values.dtype)
    made = create_array(tmp_path / "made.npy", shape, values.dtype.type)
    visited = 0
    for start in range(shape[0] + 1):
        for stop in range(start, shape[0] + 1):
            np.testing.assert_array_equal(file.read(start, stop), values[start:stop])
            made.write(start, values[start:stop])
            visited += 1
    assert visited == (shape[0] + 1) * (shape[0] + 2) // 2
    assert (tmp_path / "made.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()


def test_rows_that_were_not_written_are_zero(tmp_path: Path) -> None:
    create_array(tmp_path / "x.npy", (4, 2)).write(1, np.ones((2, 2)))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), [[0, 0], [1, 1], [1, 1], [0, 0]])


def test_own_bytes_alone_are_written_and_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system takes at once; NFS writes whole pages of a file that is open in another way."""
    file = create_array(tmp_path / "x.npy", (8, 3))
    opened, written, open_file, write = [], [], os.open, os.pwrite

    def watch(path: Path, flags: int) -> int:
        opened.append(flags)
        return open_file(path, flags)

    def write_some(descriptor: int, values: memoryview, place: int) -> int:
        written.append((place, write(descriptor, values[:10], place)))
        return written[-1][1]

    monkeypatch.setattr(os, "open", watch)
    monkeypatch.setattr(os, "pwrite", write_some)
    file.write(2, np.arange(9.0).reshape(3, 3))
    assert opened == [os.O_WRONLY | os.O_DSYNC]
    first = file.first_byte + 2 * file.row_bytes
    assert written == [(first, 10), (first + 10, 10), (first + 20, 10), (first + 30, 6)]
    np.testing.assert_array_equal(np.load(file.path)[2:5], np.arange(9.0).reshape(3, 3))


def test_what_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("user item")
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.ones((3, 2))))
    np.save(tmp_path / "object.npy", np.array([None]), allow_pickle=True)
    np.save(tmp_path / "short.npy", np.ones((3, 2)))
    opened = open_array(tmp_path / "short.npy")
    whole = (tmp_path / "short.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(whole[:-1])
    cases = [
        ("none.npy", "No such file"),
        ("text.npy", "no .npy file"),
        ("fortran.npy", "Fortran order"),
        ("object.npy", "Python objects"),
        ("short.npy", "ends after 175 bytes of 176"),
    ]
    for name, word in cases:
        with pytest.raises(UserError, match=f"{name}: .*{word}"):
            open_array(tmp_path / name)
    with pytest.raises(UserError, match=r"short\.npy: ends before row 3"):
        opened.read(2, 3)
    (tmp_path / "short.npy").unlink()
    with pytest.raises(UserError, match=r"short\.npy: cannot be read \(No such file"):
        opened.read(2, 3)


def test_what_cannot_be_written_names_the_file(tmp_path: Path, limit_files: Callable[[int], None]) -> None:
    file = create_array(tmp_path / "x.npy", (4, 2))
    limit_files(file.first_byte)
    with pytest.raises(UserError, match=r"x\.npy: cannot be written \(File too large\)"):
        file.write(1, np.ones((2, 2)))
    with pytest.raises(UserError, match=r"y\.npy: cannot be written \(File too large\)"):
        create_array(tmp_path / "y.npy", (4, 2))


def test_a_mapped_file_has_its_room_from_the_beginning(tmp_path: Path) -> None:
    made = create_mapped(tmp_path / "x.npy", (1000, 100), "float16")
    found = (tmp_path / "x.npy").stat()
    assert found.st_blocks * 512 >= found.st_size > 200_000
    made[7] = 1.5
    made.flush()
    loaded = np.load(tmp_path / "x.npy")
    assert loaded.dtype == np.float16
    assert loaded.shape == (1000, 100)
    assert loaded.sum() == loaded[7].sum() == 150


def test_a_file_system_that_cannot_allocate_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visited = 0
    for number in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSPC, errno.EDQUOT):

        def refuse(*arguments: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        if number in {errno.ENOSPC, errno.EDQUOT}:
            with pytest.raises(OSError, match=os.strerror(number)):
                create_mapped(tmp_path / "x.npy", (4, 2))
        else:
            assert not create_mapped(tmp_path / "x.npy", (4, 2)).any()
        visited += 1
    assert visited == 4
