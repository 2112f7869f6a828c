"""What systemd asks of a service: taking over its socket, and telling when it is ready."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress

from imgtool.errors import FailedPrecondition

_FIRST = 3  # sd_listen_fds(3)


def notify(state: str) -> None:
    """Tell systemd, if it listens: `READY=1`, `STOPPING=1`."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.connect("\0" + path[1:] if path[0] == "@" else path)
        to.sendall(state.encode())


def inherited() -> socket.socket | None:
    """The listening socket that this process was started with.

    Raises:
        FailedPrecondition: it is no unix stream socket, or there are several.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "0")
    if count != "1":
        raise FailedPrecondition(f"{count} sockets were handed over, and imgtool serves one")
    try:
        listener = socket.socket(fileno=_FIRST)
    except OSError as error:
        raise FailedPrecondition(f"descriptor {_FIRST} is no socket") from error
    listener.set_inheritable(False)
    is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM or not is_listening:
        raise FailedPrecondition("the socket that was handed over is no listening unix stream socket")
    return listener


class Inherited:
    """The place of a socket that somebody else has opened; it stays as it is, for the next server."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def listen(self, start: Callable[[socket.socket], object]) -> None:
        start(self._listener)

    def withdraw(self) -> None:
        """It is not ours."""
