"""Referrers: documents about other content, such as signatures, found by their `subject`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from imgtool.digest import Digest
from imgtool.errors import DataLoss, NotFound
from imgtool.model import Descriptor
from imgtool.oci import blob, manifest

if TYPE_CHECKING:
    from imgtool.errors import ImgtoolError
    from imgtool.model import ContentInfo
    from imgtool.stores import ContentStore, OnError

Referrers = Mapping[Digest, Sequence[Descriptor]]


def by_subject(content: ContentStore, *, on_error: OnError = None) -> Referrers:
    """The referrers in a namespace, by what they are about, in byte order of their digests. Each is
    described as a registry's referrers API does it: without an artifact type of its own it has the
    media type of its config.

    All records are read, and of the content what may be a document: begins as JSON does and has at most
    4 MiB. Annotations are left out, so that many documents take little memory.

    Args:
        on_error: called for records and content that cannot be read, and may be about something; None
            raises at the first.

    Raises:
        DataLoss: one cannot be read.
    """
    found: dict[Digest, list[Descriptor]] = {}
    for info in content.list(on_error=on_error):
        try:
            about = _read(content, info)
        except NotFound:
            continue  # removed since it was listed
        except DataLoss as error:
            _report(error, on_error)
            continue
        if about:
            subject, referrer = about
            found.setdefault(subject, []).append(referrer)
    return found


def _report(error: ImgtoolError, on_error: OnError) -> None:
    if on_error is None:
        raise error
    on_error(error)


def _read(content: ContentStore, info: ContentInfo) -> tuple[Digest, Descriptor] | None:
    """Subject and referrer; None where the content is no document, or one about nothing."""
    raw = blob.document(content, info.digest, info.size)
    if raw is None or (b'"subject"' not in raw and b"\\u" not in raw):
        return None  # most are not, and need not be parsed
    media_type = manifest.detect(raw)
    if media_type is None:
        return None
    document = manifest.parse(raw, media_type, f"manifest {info.digest}")
    if document.subject is None:
        return None
    artifact_type = document.artifact_type or (document.config.media_type if document.config else "")
    return document.subject.digest, Descriptor(
        media_type, info.digest, info.size, artifact_type=artifact_type
    )
