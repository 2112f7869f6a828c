"""Publish files so that a crash leaves the old version or the new one, never half of either.

Every call that changes the file system goes through `_do`: creating, writing, renaming, linking,
unlinking, truncating, syncing. Tests break the disk by replacing it, and count the calls there.

What this cannot promise: that a disk which lies about its cache keeps what it was told to keep.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from typing import Any

from imgtool.disk import read
from imgtool.disk.layout import inside, parent
from imgtool.errors import DataLoss, ImgtoolError, from_oserror

FILE_MODE = 0o444
PRIVATE_MODE = 0o600
DIRECTORY_MODE = 0o700
# Outside of a store, less the umask.
OPEN_MODE = 0o666
OPEN_DIRECTORY_MODE = 0o777

# From so many files on, one syncfs is cheaper than an fsync for each.
SYNCFS_FROM = 64


def _do(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return call(*args, **kwargs)


def _try(
    call: Callable[..., Any], *args: Any, but: type[OSError] | tuple[type[OSError], ...] = (), **kwargs: Any
) -> Any:
    """`_do`, with what the machine refuses as an imgtool error, `but` for what the caller handles."""
    try:
        return _do(call, *args, **kwargs)
    except OSError as error:
        if isinstance(error, but):
            raise
        raise from_oserror(error, f"cannot {call.__name__.strip('_')}") from error


def create(path: str, *, private: bool = True) -> int:
    """A new file, open for reading and writing; the name must be free.

    Args:
        private: for the owner alone, whatever the umask; else it says for whom.
    """
    mode = PRIVATE_MODE if private else OPEN_MODE
    fd: int = _try(os.open, path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    if private:
        _be_private(fd, os.fstat(fd).st_mode)
    return fd


def open_or_create(path: str) -> int:
    """The file, made private if it is not there: for locks and logs, which are never replaced.

    Raises:
        FileNotFoundError: its directory is not there.
        DataLoss: it is a link, a pipe, a device or a directory.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd: int = _try(os.open, path, flags, PRIVATE_MODE, but=FileNotFoundError)
    except ImgtoolError:
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise _not_a_file(path) from None
        raise
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise _not_a_file(path)
    _be_private(fd, mode)
    return fd


def _be_private(fd: int, mode: int) -> None:
    """Give the owner back what the umask took."""
    if mode & PRIVATE_MODE == PRIVATE_MODE:
        return
    try:
        set_mode(fd, PRIVATE_MODE)
    except BaseException:
        os.close(fd)
        raise


def _not_a_file(path: str) -> DataLoss:
    return DataLoss(f"'{path}' is not a regular file")


def write(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`, however many calls that takes."""
    view = memoryview(data).cast("B")
    while view:
        view = view[_try(os.write, fd, view) :]


def write_new(path: str, data: bytes) -> None:
    """A new file with `data`, read-only; durable after `sync_files` or `sync_tree`."""
    fd = create(path)
    try:
        write(fd, data)
        _try(os.fchmod, fd, FILE_MODE)
    finally:
        os.close(fd)


def copy_range(source: int, target: int, count: int, offset: int) -> int:
    """Copy up to `count` bytes from the position of `source` to `offset` of `target`, in the kernel.

    Raises:
        OSError: as the call does; the caller falls back to reading and writing.
    """
    while True:
        try:
            copied: int = _do(os.copy_file_range, source, target, count, None, offset)
            return copied
        except InterruptedError:  # Python repeats most calls by itself, this one not
            continue


def truncate(fd: int, size: int) -> None:
    _try(os.ftruncate, fd, size)


def set_mode(fd: int, mode: int) -> None:
    _try(os.fchmod, fd, mode)


def make_private(path: str) -> None:
    """Let the owner write a file again that was made read-only."""
    _try(os.chmod, path, PRIVATE_MODE)


def stamp(directory: str, ns: int) -> None:
    """Set a directory's modification time (nanoseconds), with the lowest bit 1: the mark of a writer
    that changed it under its lock.
    """
    _try(os.utime, directory, ns=(ns | 1, ns | 1))


def stamp_file(fd: int, ns: int) -> None:
    """Set the times of an open file."""
    _try(os.utime, fd, ns=(ns, ns))


def sync_fd(fd: int) -> None:
    """Make a file's bytes durable. A failure is final: the file must be dropped, never synced again."""
    _try(os.fsync, fd)


def sync_files(paths: Iterable[str]) -> None:
    """Make files durable that were written here and closed: each, or all at once where they are many."""
    _sync(list(paths), os.O_RDONLY)


def sync_all(directory: str) -> None:
    """Make durable whatever was changed in the file system of `directory`, by any process."""
    fd = _try(os.open, directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _syncfs(fd):
            _try(os.sync)
    finally:
        os.close(fd)


def mkdir(path: str, *, private: bool = True) -> None:
    """
    Args:
        private: as for `create`.

    Raises:
        FileExistsError: it is there.
        FileNotFoundError: its parent is not there, or somebody has removed it at once.
    """
    mode = DIRECTORY_MODE if private else OPEN_DIRECTORY_MODE
    _try(os.mkdir, path, mode, but=(FileExistsError, FileNotFoundError))
    if private and stat.S_IMODE(os.lstat(path).st_mode) != DIRECTORY_MODE:
        _try(os.chmod, path, DIRECTORY_MODE, but=FileNotFoundError)


class Batch:
    """Directory entries that are changed together and become durable together, at `sync`."""

    def __init__(self) -> None:
        self._dirty: dict[str, None] = {}

    def mkdirs(self, path: str) -> None:
        """Make a directory and its parents, as far as they are missing.

        Raises:
            DataLoss: one of them is a link.
        """
        missing = []
        while not read.is_directory(path):
            missing.append(path)
            path = parent(path)
        for directory in reversed(missing):
            # Where another process comes first, it may not have come to its sync yet.
            self._dirty[parent(directory)] = None
            try:
                mkdir(directory)
            except (FileExistsError, FileNotFoundError):
                continue

    def link(self, source: str, path: str) -> None:
        """Give `source` the new name `path`, and take its old one.

        Raises:
            FileExistsError: `path` is taken.
        """
        _try(os.link, source, path, follow_symlinks=False, but=FileExistsError)
        _try(os.unlink, source)
        self._dirty[parent(path)] = None

    def rename(self, source: str, path: str) -> None:
        """Put `source` in the place of `path`, whatever is there."""
        _try(os.rename, source, path)
        self._dirty[parent(path)] = None

    def unlink(self, path: str) -> None:
        """Remove a name; gone already is as good."""
        try:
            _try(os.unlink, path, but=FileNotFoundError)
        except FileNotFoundError:
            return
        self._dirty[parent(path)] = None

    def rmdir(self, path: str) -> bool:
        """Remove a directory; False where it is not empty."""
        try:
            _do(os.rmdir, path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        self._dirty[parent(path)] = None
        return True

    def touched(self, directory: str) -> None:
        """Sync `directory` too, although nothing was changed in it here."""
        self._dirty[directory] = None

    def sync(self) -> None:
        """Make all changes so far durable."""
        dirty, self._dirty = list(self._dirty), {}
        _sync([d for d in dirty if os.path.isdir(d)], os.O_RDONLY | os.O_DIRECTORY)


def remove_tree(path: str) -> None:
    """Remove a file, or a directory and what is in it, following no link. Gone already is as good."""
    stack = [path]
    while stack:
        top = stack[-1]
        try:
            is_directory = os.path.isdir(top) and not os.path.islink(top)
            _try(os.rmdir if is_directory else os.unlink, top, but=FileNotFoundError)
            stack.pop()
        except FileNotFoundError:
            stack.pop()
        except ImgtoolError:
            entries = [inside(top, name) for name in _entries(top)]
            if not entries:
                raise
            stack.extend(entries)


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _sync(paths: list[str], flags: int) -> None:
    if len(paths) >= SYNCFS_FROM:
        fd = _try(os.open, paths[0], flags | os.O_CLOEXEC)
        try:
            if _syncfs(fd):
                return
        finally:
            os.close(fd)
    for path in paths:
        fd = _try(os.open, path, flags | os.O_CLOEXEC)
        try:
            sync_fd(fd)
        finally:
            os.close(fd)


def _syncfs(fd: int) -> bool:
    """Sync the whole file system of `fd`; False where the system has no such call."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        return False

    def syncfs(fd: int) -> None:
        if libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    _try(syncfs, fd)
    return True
