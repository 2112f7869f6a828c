"""What words on the command line mean: names, `KEY=VALUE`, digests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from imgtool.digest import Digest
from imgtool.errors import ImgtoolError, InvalidArgument, from_oserror


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


def check_choice(words: Sequence[str], filters: Sequence[str], all: bool, what: str) -> None:
    """See that not two ways are used to say which things a command is to change.

    Args:
        what: one of the things.

    Raises:
        InvalidArgument: two are; or a filter is empty, which would match everything.
    """
    if any(not f.strip() for f in filters):
        raise InvalidArgument("--filter is empty", hint=f"use --all if you mean every {what}")
    if bool(words) + bool(filters) + all > 1:
        raise InvalidArgument(f"{what}s, --filter and --all exclude each other")


def names_from(words: Sequence[str], zero: bool = False, what: str = "name") -> list[str]:
    """The names given as arguments; in the place of `-` those on stdin, one a line, or each ended
    by NUL. stdin is read to its end before the first name is used.

    Args:
        what: what they are, for the message.

    Raises:
        InvalidArgument: there are no arguments.
    """
    if not words:
        raise InvalidArgument(f"no {what} is given", hint="- reads stdin")
    names: list[str] = []
    for word in words:
        names += read_names("-", zero) if word == "-" else [word]
    return names


def read_names(path: str, zero: bool) -> list[str]:
    """The names in the file `path` (`-` is stdin), one a line, or each ended by NUL; empty ones are
    passed over. Bytes that are no UTF-8 are kept as Python keeps those of argv.

    Raises:
        as `read_bytes`.
    """
    parts = read_bytes(path).split(b"\0" if zero else b"\n")
    return [part.decode("utf-8", "surrogateescape") for part in parts if part]


def read_bytes(path: str, limit: int = -1) -> bytes:
    """What is in the file `path`; `-` is stdin.

    Args:
        limit: read at most so many bytes; -1: all.

    Raises:
        NotFound, PermissionDenied, …: it cannot be read.
    """
    import sys

    if path == "-":
        if sys.stdin is None:
            raise ImgtoolError("cannot read stdin: it is closed")
        return sys.stdin.buffer.read(limit)
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        error.filename = path  # reading does not say
        raise from_oserror(error, "cannot read") from None


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
