"""The server: its listening socket, its threads, and how all of them end."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple, Protocol

from imgtool.disk import open_store
from imgtool.errors import ImgtoolError, InvalidArgument
from imgtool.names import check_namespace
from imgtool.serve import address, parts, systemd
from imgtool.serve.contracts import Log, Open
from imgtool.serve.handlers import Handlers
from imgtool.serve.http2 import Connection
from imgtool.serve.rpc import Answerer
from imgtool.serve.stores import Stores
from imgtool.serve.threads import Threads

# A stream that nobody ends holds a thread; threads are made when they are needed.
THREADS = 128
GRACE = 10.0
_PAUSE = 0.05  # seconds until it is tried again: where there is no descriptor or thread, or a client is slow
_SIGNALS = {signal.SIGTERM, signal.SIGINT}


class Place(Protocol):
    """Where clients connect: `address.Address`, or `systemd.Inherited`."""

    def listen(self, start: Callable[[socket.socket], object]) -> None: ...

    def withdraw(self) -> None: ...


class Options(NamedTuple):
    """What `run` is told."""

    root: str
    address: str | None = None
    lock_timeout: float = 30.0
    backend: str | None = None
    debug: bool = False


class Server:
    """Answers from `start` to `stop`.

    Args:
        root: the store's directory.
        open: opens the store.
        log: gets what there is to say.
        backend: the namespace of a daemon whose content store this is.
        debug: have tracebacks of our own faults.
    """

    def __init__(
        self, root: str, open: Open, log: Log, *, backend: str | None = None, debug: bool = False
    ) -> None:
        self._log = log
        self._backend = backend
        self._debug = debug
        self._world = parts.World(os.path.realpath(root), open, log, threading.Event(), ExitStack())
        self._threads = Threads(THREADS)
        self._place: Place | None = None
        self._clients: Clients | None = None

    def start(self, place: Place) -> None:
        """Answer at `place` from now on.

        Raises:
            ImgtoolError: what `place` raises.
        """
        place.listen(self._answer)
        self._place = place

    def stop(self, grace: float = GRACE) -> None:
        """Take no more calls, let those that run end for `grace` seconds, then cancel them."""
        self._world.stopping.set()
        if self._place is not None:
            try:
                self._place.withdraw()
            except ImgtoolError as error:
                self._log.warn(error.message)
        if self._clients is not None:
            clients, self._clients = self._clients, None
            clients.stop(grace)
        self._threads.stop()
        self._world.on_stop.close()

    def _answer(self, listener: socket.socket) -> None:
        handlers = Handlers(parts.compose(self._world), self._log, debug=self._debug)
        answerer = Answerer(handlers.find, self._threads, self._backend, self._log.warn)
        self._clients = Clients(listener, partial(Connection, opened=answerer), self._log)
        self._clients.start()


class Clients:
    """Takes connections, each in a thread of its own.

    Args:
        listener: where they come; closed at the end.
        connect: makes the connection of a socket.
        log: told of what goes wrong.
    """

    def __init__(
        self, listener: socket.socket, connect: Callable[[socket.socket], Connection], log: Log
    ) -> None:
        self._listener = listener
        self._connect = connect
        self._log = log
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._connections: set[Connection] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Take no more, let the calls of those that are there end for `grace` seconds, and end all."""
        os.write(self._wake[1], b".")
        self._thread.join()
        self._listener.close()
        for end in self._wake:
            os.close(end)
        with self._lock:
            connections = list(self._connections)
        deadline = time.monotonic() + grace

        def left() -> float:
            return max(deadline - time.monotonic(), 0)

        # First those that need not be waited for: a client that does not read delays no other.
        busy = [connection for connection in connections if not connection.leave(0)]
        while busy and left():
            time.sleep(min(_PAUSE, left()))
            busy = [connection for connection in busy if not connection.leave(min(_PAUSE, left()))]
        for connection in connections:
            connection.wait(left())
            connection.close()

    def _accept(self) -> None:
        self._listener.setblocking(False)
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        while not any(fd == self._wake[0] for fd, _ in poll.poll()):
            try:
                client, _ = self._listener.accept()
            except OSError:  # gone already, or there is no descriptor: others may end
                time.sleep(_PAUSE)
                continue
            connection = self._connect(client)
            with self._lock:
                self._connections.add(connection)
            try:
                threading.Thread(
                    target=self._serve, args=(connection,), name="connection", daemon=True
                ).start()
            except RuntimeError:  # no thread
                client.close()
                self._forget(connection)
                time.sleep(_PAUSE)

    def _serve(self, connection: Connection) -> None:
        try:
            connection.run()
        except Exception as error:
            self._log.warn(f"a connection failed: {type(error).__name__}: {error}")
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)


def run(options: Options, log: Log) -> None:
    """Serve until SIGTERM or SIGINT. A second one ends the process at once.

    Raises:
        InvalidArgument: the address is none, or there are two; or `backend` can be no namespace.
        AlreadyExists, PermissionDenied: it cannot be had, see `address.Address.listen`; and what opening the
            store raises.
    """
    listener = systemd.inherited()
    if listener is not None and options.address is not None:
        raise InvalidArgument("--address is given, and a socket was handed over (LISTEN_FDS)")
    if options.backend is not None:
        check_namespace(options.backend)
    open = Stores(
        options.root,
        partial(open_store, options.root, lock_timeout=options.lock_timeout, warn=log.warn),
    )
    with open():
        pass  # what cannot be opened is told now, not to every client
    place: Place
    if listener is not None:
        place, where = systemd.Inherited(listener), listener.getsockname()
    else:
        where = address.parse(options.address or address.default(os.path.abspath(options.root)))
        place = address.Address(where)
    # Before the first thread is made: all inherit it, and so the signals wait for `sigwait`.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        server = Server(options.root, open, log, backend=options.backend, debug=options.debug)
        try:
            server.start(place)
            log.say(f"serving '{options.root}' at unix://{where}")
            systemd.notify("READY=1")
            number = signal.sigwait(_SIGNALS)
            log.say(f"{signal.Signals(number).name}: stopping")
            systemd.notify("STOPPING=1")
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        finally:
            server.stop()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
