"""The options and arguments that several commands share; `imgtool.cli.words` says what they mean."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def several(what: str, help: str = "- reads stdin.") -> Any:
    """An argument of any number of words, also none, which the command then refuses in its own words."""
    return typer.Argument(metavar=f"[{what}]...", default_factory=list, show_default=False, help=help)


Names = Annotated[list[str], several("NAME")]
NamesOrDigests = Annotated[list[str], several("NAME|DIGEST", "Images, or digests of content; - reads stdin.")]
Digests = Annotated[list[str], several("DIGEST")]
Refs = Annotated[list[str], several("REF")]
Ids = Annotated[list[str], several("ID")]
Name = Annotated[str, typer.Argument(metavar="NAME")]
FilterArguments = Annotated[
    list[str],
    several("FILTER", "containerd's, such as 'name~=alpine,labels.env==prod'; several are alternatives."),
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
AllNamespaces = Annotated[
    bool, typer.Option("-A", "--all-namespaces", help="Every namespace, not only that of -n.")
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
LabelArguments = Annotated[list[str], several("KEY=VALUE", "KEY= removes the label.")]
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
Platform = Annotated[
    str | None,
    typer.Option("--platform", metavar="OS/ARCH", show_default=False, help="Leave out manifests for others."),
]
Ref = Annotated[
    str | None,
    typer.Option(
        "--ref", metavar="REF", show_default=False, help="Resume the unfinished write REF, or begin it."
    ),
]
ExpectedDigest = Annotated[
    str | None,
    typer.Option("--expected-digest", metavar="DIGEST", show_default=False, help="Refuse another digest."),
]
ExpectedSize = Annotated[
    int | None,
    typer.Option(
        "--expected-size", metavar="BYTES", min=0, show_default=False, help="Refuse a file of another size."
    ),
]
Algorithm = Annotated[
    str,
    typer.Option("--digest-algorithm", metavar="ALGORITHM", help="How to hash plain files."),
]
Reverse = Annotated[bool, typer.Option("--reverse", help="Last first.")]
Bytes = Annotated[bool, typer.Option("--bytes", help="Exact sizes.")]
NoTrunc = Annotated[bool, typer.Option("--no-trunc", help="Whole digests and labels.")]
