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
    """Serve what `open` opens at `path`. A warning, which is a fault of ours, fails the test."""
    warnings: list[str] = []
    server = Server(str(root), open, Log(print, print, warnings.append), backend=backend, debug=True)
    server.start(Address(parse(str(path))))
    client = Served(root, path)
    try:
        yield client
    finally:
        client.channel.close()
        server.stop(grace=5)
    assert warnings == []
