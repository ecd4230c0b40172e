"""Matrices in `.npy` files, read and written a span of rows at a time by plain I/O.

Pages of a mapped file that were touched count as a process's memory; what plain I/O leaves in the system's cache does
not. So whoever must stay below a limit reads.

R rows of a matrix, C columns; vectors have rows alone.
"""

import errno
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import writing

NO_ALLOCATION = {errno.EOPNOTSUPP, errno.EINVAL}  # what file systems answer that cannot


@dataclass(frozen=True)
class ArrayFile:
    """An array in C order on disk."""

    path: Path
    shape: tuple[int, ...]  # [R] or [R, C]
    dtype: np.dtype
    first_byte: int  # where the header ends

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [stop − start, …].

        Raises:
            UserError: the file ends before them, or cannot be read.
        """
        count = (stop - start) * self.row_bytes // self.dtype.itemsize
        place = self.first_byte + start * self.row_bytes
        try:
            values = np.fromfile(self.path, self.dtype, count=count, offset=place)
        except OSError as error:
            raise _unreadable(self.path, error) from None
        if len(values) != count:
            raise UserError(f"{self.path}: ends before row {stop:,} of {self.shape[0]:,}; write it again")
        return values.reshape(stop - start, *self.shape[1:])

    def write(self, start: int, values: np.ndarray) -> None:
        """Puts rows in their place from `start` on; when this returns they are on the disk.

        Several processes may write rows of one file, also from several hosts.

        Raises:
            UserError: the system refuses.
        """
        rest = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8).data
        place = self.first_byte + start * self.row_bytes
        with writing(self.path):
            # NFS extends a write to whole pages, and with it puts old bytes over rows of another host, unless the file
            # is open for writes that wait for the disk, which these do anyway (fs/nfs/write.c, nfs_can_extend_write).
            file = os.open(self.path, os.O_WRONLY | os.O_DSYNC)
            try:
                while rest:
                    written = os.pwrite(file, rest, place)
                    rest, place = rest[written:], place + written
            finally:
                os.close(file)


def open_array(path: Path) -> ArrayFile:
    """An existing `.npy` file.

    Raises:
        UserError: it is missing, no `.npy` file of numbers, in Fortran order, or shorter than its header says.
    """
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, is_fortran, dtype = read_header(stream)
            first_byte = stream.tell()
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise UserError(f"{path}: is no .npy file ({error}); write it with numpy.save") from None
    if is_fortran and len(shape) > 1:
        raise UserError(f"{path}: lies in Fortran order; save numpy.ascontiguousarray of it")
    if dtype.hasobject:
        raise UserError(f"{path}: holds Python objects; save it as numbers")
    whole = first_byte + math.prod(shape) * dtype.itemsize
    if size < whole:
        raise UserError(f"{path}: ends after {size:,} bytes of {whole:,}; write it again")
    return ArrayFile(path, shape, dtype, first_byte)


def create_array(path: Path, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> ArrayFile:
    """A new file of that size, all zeros; takes no room on the disk until rows are written.

    Raises:
        UserError: the system refuses.
    """
    kind = np.dtype(dtype)
    with writing(path), path.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        made = ArrayFile(path, shape, kind, stream.tell())
        stream.truncate(made.first_byte + shape[0] * made.row_bytes)
    return made


def create_mapped(path: Path, shape: tuple[int, ...], dtype: type[np.generic] | str = np.float32) -> np.memmap:
    """A new file of that size, all zeros, mapped to be written; its room on the disk is taken at once.

    For where there is no room, a write to a mapped page kills the process without a word.

    Raises:
        OSError: the system refuses, or there is no room.
    """
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    with path.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
        except OSError as error:
            if error.errno not in NO_ALLOCATION:
                raise
    return made


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror or error})")
