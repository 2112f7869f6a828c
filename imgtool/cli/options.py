"""The options and arguments that several commands share, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from imgtool.digest import Digest
from imgtool.errors import ImgtoolError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
Bytes = Annotated[bool, typer.Option("--bytes", help="Exact sizes.")]
NoTrunc = Annotated[bool, typer.Option("--no-trunc", help="Whole digests and labels.")]


def digest_or_none(text: str | None) -> Digest | None:
    """The digest of an option that may be absent.

    Raises:
        InvalidArgument: it is none.
    """
    return None if text is None else Digest.parse(text)


def pairs(words: Iterable[str], what: str = "label") -> dict[str, str]:
    """`KEY=VALUE` words as a mapping; the last one of a key counts.

    Raises:
        InvalidArgument: one has no `=`, or nothing before it.
    """
    result = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise InvalidArgument(f"{what} '{word}' is not KEY=VALUE", hint=f"{word or 'KEY'}= removes it")
        result[key] = value
    return result


def names_from(words: Sequence[str], zero: bool = False) -> list[str]:
    """The names given as arguments; in the place of `-` those on stdin, one a line, or each ended
    by NUL. stdin is read to its end before the first name is used.

    Raises:
        InvalidArgument: there are no arguments.
    """
    if not words:
        raise InvalidArgument("no name is given", hint="- reads names from stdin")
    names: list[str] = []
    for word in words:
        names += read_names("-", zero) if word == "-" else [word]
    return names


def read_names(path: str, zero: bool) -> list[str]:
    """The names in the file `path` (`-` is stdin), one a line, or each ended by NUL; empty ones are
    passed over. Bytes that are no UTF-8 are kept as Python keeps those of argv.

    Raises:
        NotFound, PermissionDenied, …: it cannot be read.
    """
    import sys

    if path != "-":
        with open(path, "rb") as file:
            data = file.read()
    elif sys.stdin is None:
        raise ImgtoolError("cannot read stdin: it is closed")
    else:
        data = sys.stdin.buffer.read()
    parts = data.split(b"\0" if zero else b"\n")
    return [part.decode("utf-8", "surrogateescape") for part in parts if part]


def label_paths(
    words: Sequence[str], replace_all: bool, field: str = "label"
) -> tuple[list[str], dict[str, str]]:
    """The field paths and the values that `KEY=VALUE` words ask for.

    Raises:
        InvalidArgument: there are none, and they are not to replace all.
    """
    if not (words or replace_all):
        raise InvalidArgument(f"no {field} is given", hint="KEY=VALUE sets one, KEY= removes it")
    new = pairs(words, field)
    return [f"{field}s"] if replace_all else [f"{field}s.{key}" for key in new], new
