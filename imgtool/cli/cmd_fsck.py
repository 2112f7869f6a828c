"""`imgtool fsck`: the whole store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgtool.cli import options as o
from imgtool.cli.context import Context

if TYPE_CHECKING:
    from imgtool.ops.fsck import Problem


def run(
    c: Context,
    quick: Annotated[bool, typer.Option("--quick", help="Do not hash the objects.")] = False,
    zero: o.Zero = False,
) -> None:
    """Check every object, record and graph of the store, in all namespaces, and print what is wrong.

    An error is something that is lost or cannot be read: the exit status is 6. A remark is something
    that is not as imgtool writes it, and loses nothing.
    """
    from imgtool.cli.output import Kind
    from imgtool.cli.progress import Progress
    from imgtool.errors import DataLoss
    from imgtool.ops import fsck

    errors = 0

    def counted(problems: Iterator[Problem]) -> Iterator[dict[str, Any]]:
        nonlocal errors
        for problem in problems:
            errors += problem.level == fsck.ERROR
            yield problem._asdict()

    with Progress(c, "checking") as progress:
        c.out.rows(
            Kind("problems", fsck.Problem._fields),
            counted(fsck.check(c.root, quick=quick, progress=progress.add)),
            {
                "LEVEL": lambda r: str(r["level"]),
                "KIND": lambda r: str(r["kind"]),
                "NAME": lambda r: f"{r['namespace']}/{r['name']}" if r["namespace"] else str(r["name"]),
                "WHAT": lambda r: str(r["what"]),
            },
            zero=zero,
            header=False,
        )
    if errors:
        c.failures.add(DataLoss(f"store '{c.root}' has {errors} error{'s' * (errors != 1)}"))
