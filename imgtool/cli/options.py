"""The options and arguments that several commands share; `imgtool.cli.words` says what they mean."""

from __future__ import annotations

from typing import Annotated

import typer

Names = Annotated[
    list[str],
    typer.Argument(metavar="[NAME]...", default_factory=list, show_default=False, help="- reads stdin."),
]
Name = Annotated[str, typer.Argument(metavar="NAME")]
FilterArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="[FILTER]...",
        default_factory=list,
        show_default=False,
        help="containerd's, such as 'name~=alpine,labels.env==prod'; several are alternatives.",
    ),
]
Filters = Annotated[
    list[str],
    typer.Option(
        "--filter",
        metavar="FILTER",
        default_factory=list,
        show_default=False,
        help="Those that match; may be repeated.",
    ),
]
All = Annotated[bool, typer.Option("--all", help="Every one of the namespace.")]
Zero = Annotated[bool, typer.Option("-0", "--zero", help="Names end with NUL, on stdin and stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")]
Labels = Annotated[
    list[str],
    typer.Option(
        "-l",
        "--label",
        metavar="KEY=VALUE",
        default_factory=list,
        show_default=False,
        help="Set a label; KEY= removes it.",
    ),
]
LabelArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="[KEY=VALUE]...",
        default_factory=list,
        show_default=False,
        help="KEY= removes the label.",
    ),
]
IfDigest = Annotated[
    str | None,
    typer.Option(
        "--if-digest", metavar="DIGEST", show_default=False, help="Only where the target is DIGEST."
    ),
]
ReplaceAll = Annotated[bool, typer.Option("--replace-all", help="Those given replace all that are there.")]
IgnoreMissing = Annotated[bool, typer.Option("--ignore-missing", help="An absent name is no failure.")]
Lease = Annotated[
    str | None,
    typer.Option("--lease", metavar="ID", show_default=False, help="A lease that is to hold it as well."),
]
Sync = Annotated[bool, typer.Option("--sync", help="Run gc before returning.")]
Bytes = Annotated[bool, typer.Option("--bytes", help="Exact sizes.")]
NoTrunc = Annotated[bool, typer.Option("--no-trunc", help="Whole digests and labels.")]
