"""Content and unfinished writes for the commands: as rows, and as bytes on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from imgtool.cli.output import NAMESPACE, NEVER, Kind, Row, labels_text, short, size_text
from imgtool.cli.words import names_from
from imgtool.clock import format_time
from imgtool.digest import Digest, new_hasher
from imgtool.errors import DataLoss, InvalidArgument

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.model import ContentInfo, IngestStatus
    from imgtool.stores import Provider

_CHUNK = 1 << 20

CONTENT = Kind("content", ("namespace", "digest", "size", "labels", "created", "updated"), "digest")
DIGESTS = Kind("content", ("namespace", "digest"), "digest")
WRITES = Kind(
    "ingests",
    ("namespace", "ref", "offset", "total", "started", "updated", "expires", "expected"),
    "ref",
)
REFS = Kind("ingests", ("namespace", "ref"), "ref")

DIGEST_ONLY: Mapping[str, Callable[[Row], str]] = {"DIGEST": itemgetter("digest")}
REF_ONLY: Mapping[str, Callable[[Row], str]] = {"REF": itemgetter("ref")}


def row(namespace: str, info: ContentInfo) -> dict[str, Any]:
    """What the record of content says."""
    return {
        "namespace": namespace,
        "digest": info.digest,
        "size": info.size,
        "labels": dict(sorted(info.labels.items())),
        "created": format_time(info.created),
        "updated": format_time(info.updated),
    }


def listed(c: Context, filters: Sequence[str], *, all_namespaces: bool) -> Iterator[Row]:
    """The rows of the content that matches, by namespace and digest. What cannot be read is reported."""
    for namespace in c.namespaces(all_namespaces):
        for info in c.store().content(namespace).list(*filters, on_error=c.failures.add):
            yield row(namespace, info)


def columns(*, whole: bool, exact: bool, namespaces: bool = False) -> Mapping[str, Callable[[Row], str]]:
    """The table of content: ctr's columns, with the time instead of the age.

    Args:
        whole: digests and labels are not cut.
        exact: sizes in bytes.
        namespaces: with a first column for the namespace.
    """
    return {
        **(NAMESPACE if namespaces else {}),
        "DIGEST": lambda r: short(r["digest"], whole=whole),
        "SIZE": lambda r: size_text(r["size"], exact=exact),
        "CREATED": itemgetter("created"),
        "LABELS": lambda r: labels_text(r["labels"], whole=whole),
    }


def write_row(namespace: str, status: IngestStatus) -> dict[str, Any]:
    """What is known of an unfinished write."""
    return {
        "namespace": namespace,
        "ref": status.ref,
        "offset": status.offset,
        "total": status.total or None,
        "started": format_time(status.started),
        "updated": format_time(status.updated),
        "expires": None if status.expires is None else format_time(status.expires),
        "expected": status.expected,
    }


def write_columns(*, exact: bool) -> Mapping[str, Callable[[Row], str]]:
    """The table of unfinished writes.

    Args:
        exact: sizes in bytes.
    """
    return {
        "REF": itemgetter("ref"),
        "SIZE": lambda r: size_text(r["offset"], exact=exact),
        "STARTED": itemgetter("started"),
        "EXPIRES": lambda r: r["expires"] or NEVER,
    }


def digest_of(c: Context, word: str) -> Digest:
    """The digest that `word` is, or that the image of that name points to.

    Raises:
        NotFound: there is no such image.
    """
    try:
        return Digest.parse(word)
    except InvalidArgument:
        return c.store().images(c.namespace).get(word).target.digest


def parse_digest(word: str) -> Digest:
    """The digest that `word` is.

    Raises:
        InvalidArgument: it is none. Whoever means an image is told how to go on.
    """
    try:
        return Digest.parse(word)
    except InvalidArgument as error:
        ways = [*([error.hint] if error.hint else []), "imgtool resolve tells the digest of an image"]
        raise InvalidArgument(error.message, hint="; ".join(ways)) from None


def cat(c: Context, words: Sequence[str], find: Callable[[str], Digest], *, what: str, zero: bool) -> None:
    """Write content to stdout, one after the other, past what fails.

    Args:
        words: as on the command line; `-` reads further ones from stdin.
        find: from a word to its digest.
        what: what a word is.
        zero: those on stdin end with NUL.
    """
    content = c.store().content(c.namespace)
    for _ in c.failures.for_each(names_from(words, zero, what), lambda word: _cat(c, content, find(word))):
        pass


def _cat(c: Context, content: Provider, digest: Digest) -> None:
    """
    Raises:
        DataLoss: what was written is not what `digest` names.
        InvalidArgument: stdout is a terminal, and what comes next is binary.
    """
    hasher, write = new_hasher(digest.algorithm), c.out.stream()
    with content.reader(digest) as reader:
        while data := reader.read(_CHUNK):
            hasher.update(data)
            write(data)
    found = Digest.from_hasher(digest.algorithm, hasher)
    if found != digest:
        raise DataLoss(
            f"object '{digest}' hashes to {found}",
            hint="what was written is damaged; ingest the content again: that heals the store",
        )
