"""New files and directories outside of a store: made beside the place where they belong, and put there
by a rename when they are whole and durable. What fails leaves nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from imgtool.disk import atomic
from imgtool.disk.layout import inside, parent
from imgtool.errors import AlreadyExists, ImgtoolError, ResourceExhausted, from_oserror

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


@contextmanager
def new_file(path: str) -> Iterator[int]:
    """A new file, open for reading and writing, which the body writes and syncs: then it takes the place
    of `path`, with the mode of the file that is there. A link is followed.

    Raises:
        NotFound: the directory is not there.
        ResourceExhausted: the disk is full.
    """
    target = os.path.realpath(path)
    temporary, batch = _temporary(target), atomic.Batch()
    with _or_nothing(temporary, path):
        with _named(path):
            fd = atomic.create(temporary, private=False)
        try:
            with suppress(FileNotFoundError):
                atomic.set_mode(fd, stat.S_IMODE(os.stat(target).st_mode) & atomic.OPEN_DIRECTORY_MODE)
            yield fd
        finally:
            os.close(fd)
        batch.rename(temporary, target)
    batch.sync()


@contextmanager
def new_directory(path: str) -> Iterator[tuple[str, atomic.Batch]]:
    """A new directory for the body to fill, and the batch that its directories belong to. The body syncs
    the files, this the directories: then the new one takes the place of `path`. A link is followed.

    Raises:
        AlreadyExists: `path` is something else than an empty directory.
        NotFound: the directory around it is not there.
        ResourceExhausted: the disk is full.
    """
    check_free(path)
    target = os.path.realpath(path)
    temporary, batch = _temporary(target), atomic.Batch()
    with _or_nothing(temporary, path):
        with _named(path):
            atomic.mkdir(temporary, private=False)
        batch.touched(temporary)
        yield temporary, batch
        batch.sync()
        try:
            batch.rename(temporary, target)
        except ImgtoolError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _TAKEN:
                raise _taken(path) from None
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


@contextmanager
def _or_nothing(temporary: str, path: str) -> Iterator[None]:
    """Remove what has been made, if it comes to nothing."""
    try:
        yield
    except BaseException as error:
        with suppress(ImgtoolError, OSError):
            atomic.remove_tree(temporary)
        cause = error.__cause__
        if isinstance(error, ResourceExhausted) and isinstance(cause, OSError) and cause.errno in _FULL:
            raise from_oserror(OSError(cause.errno, cause.strerror, path), "cannot write") from cause
        raise


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
