"""`imgtool events`."""

from __future__ import annotations

from typing import Annotated

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context

Filters = Annotated[
    list[str],
    typer.Argument(
        metavar="[FILTER]...",
        default_factory=list,
        show_default=False,
        help="containerd's, such as 'topic~=^/images/,namespace==k8s.io'; several are alternatives.",
    ),
]


def run(
    c: Context,
    filters: Filters,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Those to come, until it is interrupted.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            show_default=False,
            help="Those since then: RFC 3339, or a duration before now such as 10m.",
        ),
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="Of every namespace, whatever -n says.")
    ] = False,
    zero: o.Zero = False,
) -> None:
    """Print what has been changed, as containerd's events."""
    from imgtool.cli import events as view

    c.out.check(view.EVENTS, zero=zero)
    rows = view.rows(c, filters, following=follow, since=since, all_namespaces=all_namespaces)
    c.out.rows(view.EVENTS, rows, view.COLUMNS, zero=zero, header=False)
