"""The server: grpc's threads, from the first bind to the last answer."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple, Protocol

# grpc's own lines, which know nothing of ours. Read when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from imgtool.disk import open_store
from imgtool.errors import ImgtoolError, InvalidArgument, Unavailable
from imgtool.names import check_namespace
from imgtool.serve import address, parts, systemd
from imgtool.serve.contracts import Log, Open
from imgtool.serve.handlers import Handlers
from imgtool.serve.stores import Stores

MESSAGE_MAX = 16 << 20  # as containerd
# A stream that nobody ends holds a thread; threads are made when they are needed.
THREADS = 128
GRACE = 10.0
_SIGNALS = {signal.SIGTERM, signal.SIGINT}


class Place(Protocol):
    """Where clients connect: `address.Address`, or `systemd.Relay`."""

    def bind(self, bind: Callable[[str], object], start: Callable[[], object]) -> None: ...

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
        self._backend = backend
        self._log = log
        self._world = parts.World(os.path.realpath(root), open, log, threading.Event(), ExitStack())
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="call")
        self._debug = debug
        self._place: Place | None = None
        self._server = grpc.server(
            self._threads,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_MAX),
                ("grpc.max_send_message_length", MESSAGE_MAX),
            ],
        )

    def start(self, place: Place) -> None:
        """Answer at `place` from now on.

        Raises:
            Unavailable: grpc cannot listen there; and what `place` raises.
        """
        place.bind(self._bind, self._answer)
        self._place = place

    def stop(self, grace: float = GRACE) -> None:
        """Take no more calls, let those that run end for `grace` seconds, then cancel them."""
        self._world.stopping.set()
        if self._place is not None:
            try:
                self._place.withdraw()
            except ImgtoolError as error:
                self._log.warn(error.message)
        self._server.stop(grace).wait()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._world.on_stop.close()

    def _bind(self, path: str) -> None:
        try:
            bound = self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise Unavailable(f"cannot listen at '{path}'")

    def _answer(self) -> None:
        services = parts.compose(self._world)
        self._server.add_generic_rpc_handlers(
            (Handlers(services, self._log, backend=self._backend, debug=self._debug),)
        )
        self._server.start()


def run(options: Options, log: Log) -> None:
    """Serve until SIGTERM or SIGINT. A second one ends the process at once.

    Raises:
        InvalidArgument: the address is none, or there are two; or `backend` can be no namespace.
        AlreadyExists, PermissionDenied: it cannot be had, see `address.Address.bind`; and what opening the
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
        place, where = systemd.Relay(listener), listener.getsockname()
    else:
        where = address.parse(options.address or address.default(os.path.abspath(options.root)))
        place = address.Address(where)
    logging.getLogger("grpc").addHandler(logging.NullHandler())
    logging.getLogger("grpc").propagate = False
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
