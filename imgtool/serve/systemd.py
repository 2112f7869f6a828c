"""What systemd asks of a service: taking over its socket, and telling when it is ready.

grpc has no way, in Python, to listen on a socket that somebody else has opened. So what connects to an
inherited one is passed on to grpc's own, which nobody else can reach: the kernel moves the bytes from
pipe to pipe (splice), and none comes into this process's memory.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from imgtool.disk import atomic
from imgtool.errors import FailedPrecondition

_FIRST = 3  # sd_listen_fds(3)
_CHUNK = 1 << 16  # what a pipe holds
_PAUSE = 0.05


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


class Relay:
    """Passes connections of an inherited socket on to grpc's own.

    Args:
        listener: the inherited socket. It stays as it is, for the next server.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._target = -1
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)

    def bind(self, bind: Callable[[str], object], start: Callable[[], object]) -> None:
        """As `Address.bind`, at a place that has no name when this returns: only this process has it."""
        runtime = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
        directory = f"{runtime}/imgtool-{os.urandom(8).hex()}"
        atomic.mkdir(directory)
        try:
            bind(f"{directory}/s")
            self._target = os.open(f"{directory}/s", os.O_PATH | os.O_CLOEXEC)
        finally:
            atomic.remove_tree(directory)
        start()
        self._thread.start()

    def withdraw(self) -> None:
        """Take no more connections; those that are there end with grpc's own."""
        os.write(self._wake[1], b".")
        self._thread.join()

    def _accept(self) -> None:
        self._listener.setblocking(False)
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        while not any(fd == self._wake[0] for fd, _ in poll.poll()):
            try:
                client, _ = self._listener.accept()
                client.setblocking(True)
                threading.Thread(target=self._pass_on, args=(client,), name="relay", daemon=True).start()
            except (OSError, RuntimeError):  # gone already, or no descriptors or threads: others may end
                time.sleep(_PAUSE)

    def _pass_on(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:
            server.connect(f"/proc/self/fd/{self._target}")
            back = threading.Thread(target=_pump, args=(server, client), name="relay", daemon=True)
            back.start()
            _pump(client, server)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Move bytes until `source` ends, then end `sink` in this direction. A failure ends both."""
    with _pipe() as (out, into):
        try:
            while count := os.splice(source.fileno(), into, _CHUNK):
                while count:
                    count -= os.splice(out, sink.fileno(), count)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    with ExitStack() as stack:
        ends = os.pipe()
        for fd in ends:
            stack.callback(os.close, fd)
        yield ends
