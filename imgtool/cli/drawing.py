"""`imgtool tree`: what `inspect` finds of images, with referrers, drawn for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imgtool.cli.inspection import WHOLE, inspect
from imgtool.cli.output import Row, safe, short, size_text
from imgtool.cli.tree import bare, mark_repeats, tell_platforms
from imgtool.errors import ImgtoolError
from imgtool.model import EMPTY
from imgtool.oci import media, platforms
from imgtool.oci.descriptor import parse
from imgtool.oci.referrers import Referrers, by_subject

if TYPE_CHECKING:
    from imgtool.cli.context import Context

_UNICODE = ("├── ", "└── ", "│   ", "    ")
_ASCII = ("|-- ", "`-- ", "|   ", "    ")


def show(
    c: Context,
    names: Sequence[str],
    *,
    referrers: bool,
    whole: bool,
    exact: bool,
    ascii: bool,
    zero: bool,
) -> None:
    """Print the trees of images, and of content by its digest. Those that fail are reported.

    Args:
        referrers: with what has them as its subject, for which all content records are read.
        whole, exact, ascii: as for `text`.
        zero: names end with NUL.
    """
    kind = WHOLE.also("referrers")
    c.out.check(kind, zero=zero)
    about = _about(c) if referrers and c.out.shows("tree", zero=zero) else EMPTY
    rows = c.failures.for_each(names, lambda word: _row(c, word, about))
    if c.format == "table" and not (c.quiet or zero):
        for row in rows:
            for line in text(row, whole=whole, exact=exact, ascii=ascii):
                c.out.write(line)
    else:
        c.out.rows(kind, rows, {}, zero=zero)


def _row(c: Context, word: str, about: Referrers) -> Row:
    row = inspect(c, word, about)
    mark_repeats(row["tree"])
    tell_platforms(c.store().content(c.namespace), row["tree"])
    return row


def _about(c: Context) -> Referrers:
    lost: list[ImgtoolError] = []
    found = by_subject(c.store().content(c.namespace), on_error=lost.append)
    if lost:
        c.failures.warn(
            f"content of '{c.namespace}' that may be about an image cannot be read: {lost[0].message}"
            + (f", and {len(lost) - 1} more" if len(lost) > 1 else ""),
            hint="imgtool fsck tells all that is damaged",
        )
    return found


def text(row: Row, *, whole: bool, exact: bool, ascii: bool) -> Iterator[str]:
    """The lines of an image's tree, each with its line feed: the name and the size of all that is there,
    then what it is made of: what it is, digest, size, what it runs on, and its artifact or media type
    where the line does not tell already.

    Args:
        row: has `name`, `size`, `referrers` and `tree`.
        whole: digests are not cut.
        exact: sizes in bytes.
        ascii: draw with characters that every terminal has.
    """
    beside = row["referrers"]
    size = "-" if row["size"] is None else size_text(row["size"], exact=exact)
    more = f", referrers {size_text(beside['size'], exact=exact)}" if beside["count"] else ""
    yield f"{safe(row['name'])} {size}{more}\n"
    fork, corner, line, blank = _ASCII if ascii else _UNICODE
    todo = [("", True, _role(row["tree"]), row["tree"])]
    while todo:
        indent, is_last, role, branch = todo.pop()
        told = _told(role, branch, whole=whole, exact=exact)
        yield f"{indent}{corner if is_last else fork}{safe(told)}\n"
        below = [(_part(branch, child, n), child) for n, child in enumerate(branch.get("children", ()))]
        below += [("referrer", referrer) for referrer in branch.get("referrers", ())]
        deeper = indent + (blank if is_last else line)
        todo += reversed([(deeper, part is below[-1], *part) for part in below])


def _told(role: str, branch: Mapping[str, Any], *, whole: bool, exact: bool) -> str:
    words = [role, short(branch["digest"], whole=whole), size_text(branch["size"], exact=exact)]
    words += _runs_on(branch)
    if branch.get("artifactType"):
        words.append(branch["artifactType"])
    elif role == "blob" or (role == "config" and not media.is_config(branch["mediaType"])):
        words.append(branch["mediaType"])
    words += [f"({mark})" for mark in _marks(branch)]
    return " ".join(words)


def _runs_on(branch: Mapping[str, Any]) -> list[str]:
    if "platform" not in branch:
        return list(branch.get("platforms", ()))
    platform = parse(bare(branch, "platform"), "descriptor").platform
    return [platforms.format(platforms.normalize(platform))] if platform else []


def _marks(branch: Mapping[str, Any]) -> Iterator[str]:
    if "absent" in branch:
        yield "missing" if branch["absent"] == "missing" else "absent by choice"
    if "repeated" in branch:
        yield "repeated"
    if "cut" in branch:
        yield "cut"


def _part(parent: Mapping[str, Any], child: Mapping[str, Any], number: int) -> str:
    """What `child` is to a document that has it as its part of that number."""
    if number == 0 and media.is_manifest(parent["mediaType"]) and parent["mediaType"] != media.OCI_ARTIFACT:
        return "config"
    return _role(child)


def _role(branch: Mapping[str, Any]) -> str:
    media_type = branch["mediaType"]
    if media.is_index(media_type):
        return "index"
    if media.is_manifest(media_type):
        return "manifest"
    return "layer" if media.is_layer(media_type) else "config" if media.is_config(media_type) else "blob"
