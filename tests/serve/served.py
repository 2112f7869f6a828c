"""A server in this process, for as long as a test needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgtool.serve.address import Address, parse
from imgtool.serve.contracts import Log, Open
from imgtool.serve.server import Server

from .client import Served


@contextmanager
def serving(root: Path, open: Open, path: Path, *, backend: str | None = None) -> Iterator[Served]:
    """Serve what `open` opens at `path`. A warning fails the test, but for what it may warn of."""
    client = Served(root, path)
    server = Server(str(root), open, Log(print, print, client.warned.append), backend=backend, debug=True)
    server.start(Address(parse(str(path))))
    try:
        yield client
    finally:
        client.channel.close()
        server.stop(grace=5)
    assert [line for line in client.warned if not line.startswith(client.may_warn)] == []
