"""New files and directories outside of a store: made beside the place where they belong, and put there
by a rename when they are whole and durable. What fails leaves nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from imgtool.disk import atomic
from imgtool.disk.layout import inside, parent
from imgtool.errors import AlreadyExists, ImgtoolError, ResourceExhausted, from_oserror

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


def new_file(path: str, write: Callable[[int], object]) -> None:
    """Make a file that takes the place of `path`, with the mode of the file that is there. A link is
    followed.

    Args:
        write: writes and syncs the open file that it is given.

    Raises:
        NotFound: the directory is not there.
        ResourceExhausted: the disk is full.
        whatever `write` raises.
    """
    target = os.path.realpath(path)
    temporary, batch = _temporary(target), atomic.Batch()
    # No context manager around it: a signal between its making and the body would leave the file.
    try:
        with _named(path):
            fd = atomic.create(temporary, private=False)
        try:
            with suppress(FileNotFoundError):
                atomic.set_mode(fd, stat.S_IMODE(os.stat(target).st_mode) & atomic.OPEN_DIRECTORY_MODE)
            write(fd)
        finally:
            os.close(fd)
        batch.rename(temporary, target)
    except BaseException as error:
        _give_up(temporary, path, error)
        raise
    batch.sync()


def new_directory(path: str, fill: Callable[[str, atomic.Batch], object]) -> None:
    """Make a directory that takes the place of `path`. A link is followed.

    Args:
        fill: makes what is in the directory whose path it is given. It syncs the files itself, and tells
            the batch of the directories, which are synced then.

    Raises:
        AlreadyExists: `path` is something else than an empty directory.
        NotFound: the directory around it is not there.
        ResourceExhausted: the disk is full.
        whatever `fill` raises.
    """
    check_free(path)
    target = os.path.realpath(path)
    temporary, batch = _temporary(target), atomic.Batch()
    try:  # as above
        with _named(path):
            atomic.mkdir(temporary, private=False)
        batch.touched(temporary)
        fill(temporary, batch)
        batch.sync()
        try:
            batch.rename(temporary, target)
        except ImgtoolError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _TAKEN:
                raise _taken(path) from None
            raise
    except BaseException as error:
        _give_up(temporary, path, error)
        raise
    batch.sync()


def check_free(path: str) -> None:
    """
    Raises:
        AlreadyExists: `path` is something else than an empty directory.
    """
    try:
        if stat.S_ISDIR(os.stat(path).st_mode) and not os.listdir(path):
            return
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise from_oserror(error, "cannot open") from error
    raise _taken(path)


def _temporary(target: str) -> str:
    return inside(parent(target).rstrip("/"), f".imgtool-{os.urandom(8).hex()}")


def _give_up(temporary: str, path: str, error: BaseException) -> None:
    """Remove what has been made.

    Raises:
        ResourceExhausted: in the place of an `error` that does not say which disk is full.
    """
    with suppress(ImgtoolError, OSError):
        atomic.remove_tree(temporary)
    cause = error.__cause__
    if isinstance(error, ResourceExhausted) and isinstance(cause, OSError) and cause.errno in _FULL:
        raise from_oserror(OSError(cause.errno, cause.strerror, path), "cannot write") from cause


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Say of an error that it concerns `path`, not the temporary name beside it."""
    try:
        yield
    except (ImgtoolError, OSError) as error:
        cause = error.__cause__ if isinstance(error, ImgtoolError) else error
        if not isinstance(cause, OSError):
            raise
        raise from_oserror(OSError(cause.errno, cause.strerror, path), "cannot create") from cause


def _taken(path: str) -> AlreadyExists:
    return AlreadyExists(
        f"'{path}' already exists, and is no empty directory", hint="name one that is not there yet"
    )
