"""The unix socket: where it is, that it is nobody else's, and that only its owner can reach it.

A server that starts locks the directory for a moment, so that of two only one finds the place free. It
listens at a name beside the address and moves the socket there when it answers: a socket that is seen is
either live, or its server is gone.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from imgtool.disk import atomic
from imgtool.disk.layout import base, parent
from imgtool.disk.locks import try_lock
from imgtool.errors import AlreadyExists, InvalidArgument, PermissionDenied, Unavailable, from_oserror

PATH_MAX = 107  # bytes of sun_path, without the NUL at its end
BACKLOG = 1024  # connections that wait until they are taken
_SCHEME = "unix://"
_LOCK_TIMEOUT = 10.0


def default(root: str) -> str:
    """The path where nobody gives one: in the user's runtime directory, else in the store's cache."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        return f"{runtime.rstrip('/')}/imgtool/imgtool.sock"
    return f"{root}/cache/imgtool.sock"


def parse(text: str) -> str:
    """The absolute path of a socket that is given as `unix:///PATH` or as a path with a slash in it.

    Raises:
        InvalidArgument: it is something else, such as a network address, or too long for a socket.
    """
    path = text.removeprefix(_SCHEME)
    named = path.startswith("/") if path != text else "/" in text and not re.match(r"\w+:", text)
    if not named or path.endswith("/") or "\0" in path:
        raise InvalidArgument(
            f"'{text}' is no unix socket", hint="give the path of one: --address unix:///run/imgtool.sock"
        )
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > PATH_MAX:
        raise InvalidArgument(
            f"'{path}' has {len(os.fsencode(path))} bytes, and a socket's path at most {PATH_MAX}",
            hint="give a shorter --address",
        )
    return path


class Address:
    """The place of a socket.

    Args:
        path: as `parse` gives it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None

    def listen(self, start: Callable[[socket.socket], object]) -> None:
        """Have a socket that only its owner can reach, and put it into place when `start` has returned.

        Args:
            start: begins to answer at the socket, which it is given.

        Raises:
            AlreadyExists: another server answers there or at the name beside it, or it is no socket.
            PermissionDenied: others may write into its directory.
        """
        directory = parent(self.path)
        _make(directory)
        with _alone(directory), ExitStack() as undo:
            _check_free(self.path)
            path = f"{directory}/{_beside(base(self.path))}"
            if _check_free(path):
                atomic.Batch().unlink(path)
            listener = undo.enter_context(_listening(path))
            undo.callback(atomic.Batch().unlink, path)
            start(listener)
            status = os.lstat(path)
            self._identity = status.st_dev, status.st_ino
            atomic.Batch().rename(path, self.path)
            undo.pop_all()

    def withdraw(self) -> None:
        """Remove the socket, if it is still ours."""
        with _alone(parent(self.path)):
            try:
                status = os.lstat(self.path)
            except FileNotFoundError:
                return
            if (status.st_dev, status.st_ino) == self._identity:
                atomic.Batch().unlink(self.path)


def _listening(path: str) -> socket.socket:
    """A socket for its owner alone: its mode is the umask's, from its first moment on.

    Raises:
        ImgtoolError: there can be none; by the system's error.
    """
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise from_oserror(error, f"cannot listen at '{path}'") from error
    finally:
        os.umask(mask)
    return listener


def _beside(name: str) -> str:
    """Another name, of the same length: it fits wherever `name` does."""
    return ("~" if name[0] != "~" else "_") + name[1:]


def _make(directory: str) -> None:
    """Make it where it is missing, for ourselves alone."""
    missing = []
    while not os.path.isdir(directory):
        missing.append(directory)
        directory = parent(directory)
    for path in reversed(missing):
        try:
            atomic.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):
                raise AlreadyExists(f"'{path}' is there, and is no directory") from None


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Keep other servers away from the sockets of `directory`.

    Raises:
        PermissionDenied: others may write there.
        Unavailable: another server does not let go.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_oserror(error, "cannot open") from error
    try:
        status = os.fstat(fd)
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionDenied(
                f"others may write into '{directory}', and put their socket into the place of ours",
                hint=f"choose another --address, or: chmod go-w {directory}",
            )
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while not try_lock(fd):
            if time.monotonic() > deadline:
                raise Unavailable(f"'{directory}' is locked by another process")
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _check_free(path: str) -> bool:
    """Whether there is the socket of a server that is gone; else there is nothing.

    Raises:
        AlreadyExists: there is a server, or something that is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise AlreadyExists(f"'{path}' is there, and is no socket")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except TimeoutError:
            pass  # too busy to answer
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise from_oserror(error, f"cannot connect to '{path}'") from error
    raise AlreadyExists(f"another server answers at '{path}'", hint="stop it, or give another --address")
