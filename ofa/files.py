"""Files and folders that are whole or absent: written beside, pushed to the disk, then renamed. What is said when the
disk is full, or has no locks. And text that is read through its compression, and what a file has packed."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import errno
import fcntl
import gzip
import io
import lzma
import os
import platform
import shutil
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import zstandard

AT_FDCWD = -100
RENAME_EXCHANGE = 2
"""Numbers of the Linux system call."""


COMPRESSIONS = ("", ".gz", ".zst", ".xz")
"""Endings of text files that `open_text` reads."""

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What reading a truncated or damaged compressed file raises."""

FULL = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122", "iostream error")
"""Words with which libraries that are not written in Python say that a disk is full; the last are torch's."""

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems answer that have no locks: Lustre without its mount option, NFS without the service for them."""


class DiskFull(OSError):
    """A disk that cannot take what is to be written: where, how much is needed and free, what to do."""


class NoLocks(OSError):
    """A file system on which nobody can be kept out of a folder: where, what to do."""


def is_within(place: str | Path, folders: Iterable[str | Path]) -> bool:
    """Whether a place is one of some folders or lies in one; none of them need be there."""
    where = Path(place).expanduser().absolute()
    return any(where.is_relative_to(Path(folder).expanduser().absolute()) for folder in folders)


def beside(path: Path) -> Path:
    """The hidden name under which `path` is written before it is renamed."""
    return path.with_name(f".writing-{path.name}")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file so that a kill at any moment leaves the old content or the new."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new."""
    partial = beside(path)
    partial.write_bytes(data)
    flush_file(partial)
    os.replace(partial, path)
    flush_folder(path.parent)


@contextmanager
def new_file(final: Path) -> Iterator[io.TextIOWrapper]:
    """A UTF-8 file under a hidden name, for what is too much to hold; it gets its name at the end, or leaves no trace
    if something fails."""
    partial = beside(final)
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        flush_file(partial)
        os.replace(partial, final)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_folder(final.parent)


def empty_folder_beside(path: Path) -> Path:
    """A fresh hidden folder in which `path` is built; what a killed run left there is removed."""
    building = beside(path)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    return building


@contextmanager
def own_folder_beside(path: Path) -> Iterator[Path]:
    """A hidden folder of this writer alone in which `path` is built, and removed with what is left in it; of several
    writers at once each has its own."""
    building = beside(path.with_name(f"{path.name}-{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"))
    building.mkdir(parents=True)
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def remove_left(folder: Path, age: float | None = None) -> None:
    """Remove the hidden folders of writers that were killed.

    Args:
        folder: in which they have built.
        age: seconds for which nobody leaves one untouched; None: nobody can be writing there now.
    """
    for left in folder.glob(beside(Path("*")).name):
        with contextlib.suppress(OSError):  # another process has removed it
            if age is None or time.time() - left.stat().st_mtime > age:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A hidden folder in which `final` is built; it gets its name at the end, or leaves no trace if something fails."""
    made = [folder for folder in final.absolute().parents if not folder.exists()]
    building = empty_folder_beside(final)
    try:
        yield building
        replace_folder(building, final)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        for folder in made:
            folder.rmdir()
        raise


def replace_folder(building: Path, final: Path) -> None:
    """Give a built folder its final name, in place of what stands there; what stood there is deleted.

    A folder cannot be renamed over another one. Linux can exchange two names in one step; where system or file system
    cannot (some network file systems), the old folder steps aside first, and a kill in that moment leaves both whole
    under hidden names.
    """
    flush(building)
    if not final.exists():
        building.rename(final)
        flush_folder(final.parent)
        return
    old = building
    if not exchange(building, final):
        old = final.with_name(f".replaced-{final.name}")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        building.rename(final)
    flush_folder(final.parent)
    shutil.rmtree(old)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically (`renameat2`); False where it cannot be done."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def flush(folder: Path) -> None:
    """Push a folder's files and names to the disk."""
    for path in folder.rglob("*"):
        (flush_folder if path.is_dir() else flush_file)(path)
    flush_folder(folder)


def flush_file(path: Path) -> None:
    """Push a file's bytes to the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def flush_folder(path: Path) -> None:
    """Push a folder's names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def try_lock(lock: TextIO, kind: int, otherwise: str) -> bool:
    """Whether the kernel gives a lock on an open file now.

    Args:
        lock: the file.
        kind: fcntl's LOCK_EX or LOCK_SH.
        otherwise: what to do where there can be none.

    Raises:
        NoLocks: the file system has none.
    """
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise NoLocks(
            f"{lock.name}: this file system has no locks ({error.strerror}), two processes could write one folder: "
            f"have it mounted with locks that reach across nodes (on Lustre by the mount option flock), or {otherwise}"
        ) from None


def check_space(folder: Path, what: str, needed: float, then: str) -> None:
    """Refuse to begin what would not fit.

    Args:
        folder: where it goes; it may not be there yet.
        what: what is written, for the error.
        needed: its bytes.
        then: what to do if they are not free.

    Raises:
        DiskFull: fewer are free.
    """
    free = free_bytes(folder)
    if free < needed:
        raise DiskFull(f"{what}: {megabytes(needed)} needed in {folder}, {megabytes(free)} free; {then}")


@contextmanager
def explained_space(folder: Path, what: str, then: str) -> Iterator[None]:
    """Turn a full disk's error, which names no folder, into one that does; what else is raised passes.

    Args: as those of `check_space`.

    Raises:
        DiskFull: from inside, in whatever words.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not is_disk_full(error):
            raise
        written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        raise DiskFull(
            f"{what}: no space left in {folder}, more is needed than the {megabytes(free_bytes(folder))} that are free "
            f"({megabytes(written)} are used there); {then}"
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that the disk or a quota is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if any(words in str(error) for words in FULL):
        return True
    before = error.__cause__ or error.__context__
    return before is not None and is_disk_full(before)


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written where a folder is or will be."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(there).free


def megabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def open_text(path: Path, encoding: str = "utf-8") -> io.TextIOWrapper:
    """A text file, decompressed by its suffix, whose lines end at line feeds alone; a byte-order mark is skipped."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig" if is_utf8(encoding) else encoding, newline="\n")


def open_bytes(path: Path) -> Any:
    """The bytes of a file, decompressed by its suffix."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path.open("rb")), 1 << 20)
    return path.open("rb")


def is_utf8(encoding: str) -> bool:
    """Whether a name of an encoding means UTF-8. Raises LookupError for one that Python does not know."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


class _ZstdFile(io.RawIOBase):
    """Decompressed bytes of one or more frames; raises EOFError if the last one is cut off.

    The library's own reader ends silently there.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._frame: Any = None
        self._left = b""
        self._input = b""

    def readable(self) -> bool:
        """As io.RawIOBase."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As io.RawIOBase."""
        while not self._left:
            if not self._input:
                self._input = self._file.read(1 << 17)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the zstd frame has no end")
                return 0
            self._decompress()
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    def _decompress(self) -> None:
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._left = self._frame.decompress(self._input)
        self._input = b""
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None

    def close(self) -> None:
        """As io.RawIOBase."""
        self._file.close()
        super().close()


ZSTD_LEVEL = 3
"""The tool's own default. Level 19 makes a file of 80 % zeros a tenth smaller and takes 200 times as long."""


def zstd_size(path: Path) -> int:
    """Bytes of a file packed at ZSTD_LEVEL, without holding it."""
    packer, size = zstandard.ZstdCompressor(level=ZSTD_LEVEL), 0
    with path.open("rb") as file, packer.stream_reader(file) as packed:
        while part := packed.read(1 << 20):
            size += len(part)
    return size
