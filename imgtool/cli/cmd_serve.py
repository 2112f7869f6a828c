"""`imgtool serve`: containerd's gRPC API over the store."""

from __future__ import annotations

from typing import Annotated

import typer

from imgtool.cli.context import Context


def run(
    c: Context,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            show_default=False,
            help="A unix socket: unix:///run/imgtool.sock, or its path.",
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="NS",
            show_default=False,
            help="Be a containerd daemon's content store: calls without a namespace go to NS.",
        ),
    ] = None,
) -> None:
    """Serve the store to containerd's clients, such as ctr, at a unix socket that only its owner can
    reach, until SIGTERM or SIGINT. Other imgtool commands may use the store at the same time.

    The socket is $XDG_RUNTIME_DIR/imgtool/imgtool.sock, or cache/imgtool.sock in the store, or the one
    that systemd hands over. It needs hpack and protobuf: pip install 'imgtool-store[serve]'.
    """
    from imgtool.serve.contracts import Log
    from imgtool.serve.launch import serve

    log = Log(c.say, c.detail, c.failures.warn)
    serve(c.root, address, log, lock_timeout=c.lock_timeout, backend=backend, debug=c.debug)
