"""Manifests and indexes: what a document refers to, and nothing about what that is for.

OCI image manifest and index, docker schema 2 manifest and list, and the OCI artifact manifest. One
document is one kind: what another program could read as the other kind is refused (CVE-2021-41190).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import EMPTY, Descriptor, References
from imgtool.oci import descriptor, media
from imgtool.oci.strictjson import check_keys, kind, load_object

_TOLD_MAX = 1 << 16
_MANIFEST_FIELDS = frozenset({"config", "layers", "blobs"})
_INDEX_FIELDS = frozenset({"manifests"})
_FIELDS = (
    *_MANIFEST_FIELDS,
    *_INDEX_FIELDS,
    "schemaVersion",
    "mediaType",
    "subject",
    "artifactType",
    "annotations",
)


class Manifest(NamedTuple):
    """A document that refers to other content.

    `layers` are the blobs of an OCI artifact manifest, which has no `config`. `subject` is what the
    document is about, not a part of it: see `children`. `is_stated`: its bytes tell its media type, as
    `detect` reads them.
    """

    media_type: str
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = EMPTY
    is_stated: bool = True

    @property
    def is_index(self) -> bool:
        return media.is_index(self.media_type)

    def children(self) -> tuple[Descriptor, ...]:
        """What lives as long as this document, in its order and as often as it occurs there: config
        and layers, or manifests. The subject is no child: a referrer lives as long as its subject,
        not the other way.
        """
        config = () if self.config is None else (self.config,)
        return (*config, *self.layers, *self.manifests)


def parse(raw: bytes, media_type: str, what: str) -> Manifest:
    """The manifest or index `raw`.

    Args:
        raw: the document.
        media_type: what its descriptor says it is; one for which `media.has_children` holds.
        what: names it in messages.

    Raises:
        InvalidArgument: it is not JSON as `strictjson` reads it, not of that type, of two types at
            once, a docker schema 1 manifest, or a field is wrong.
    """
    document = load_object(raw, what)
    check_keys(document, _FIELDS, what)
    _refuse_schema1(document, what)
    stated = document.get("mediaType")
    if stated not in (None, "", media_type):
        said = f"'{stated[:100]}'" if isinstance(stated, str) else kind(stated)
        raise InvalidArgument(f"{what} says that it is {said}, its descriptor says '{media_type}'")
    foreign = document.keys() & (_MANIFEST_FIELDS if media.is_index(media_type) else _INDEX_FIELDS)
    if foreign:
        raise InvalidArgument(
            f"{what} is '{media_type}' and has '{min(foreign)}': index and manifest at once"
        )
    version = document.get("schemaVersion")
    if media_type != media.OCI_ARTIFACT and not (type(version) is int and version == 2):
        found = "missing" if version is None else repr(version)[:20]
        raise InvalidArgument(f"schemaVersion of {what} is {found}, expected 2")

    def many(key: str) -> tuple[Descriptor, ...]:
        found = document.get(key)
        if found is None:
            return ()
        if not isinstance(found, list):
            raise InvalidArgument(f"'{key}' of {what} is {kind(found)}, expected an array")
        return tuple(descriptor.parse(d, f"{key}[{i}] of {what}") for i, d in enumerate(found))

    def one(key: str) -> Descriptor | None:
        found = document.get(key)
        return None if found is None else descriptor.parse(found, f"{key} of {what}")

    def given(key: str, absent: Any) -> Any:
        found = document.get(key)
        return absent if found is None else found

    config = one("config")
    if config is None and not media.is_index(media_type) and media_type != media.OCI_ARTIFACT:
        raise InvalidArgument(f"{what} has no config")
    return Manifest(
        media_type=media_type,
        config=config,
        layers=many("blobs" if media_type == media.OCI_ARTIFACT else "layers"),
        manifests=many("manifests"),
        subject=one("subject"),
        artifact_type=descriptor.artifact_type(given("artifactType", ""), what),
        annotations=descriptor.text_map(given("annotations", {}), f"annotations of {what}"),
        is_stated=bool(stated)
        or media_type == (media.OCI_INDEX if "manifests" in document else media.OCI_MANIFEST),
    )


def detect(raw: bytes) -> str | None:
    """The media type of the manifest or index `raw` by what it says of itself; None if it is
    neither, or not well-formed.
    """
    try:
        document = load_object(raw, "document")
        media_type = document.get("mediaType")
        if not media_type:
            media_type = media.OCI_INDEX if "manifests" in document else media.OCI_MANIFEST
        if isinstance(media_type, str) and media.has_children(media_type):
            return parse(raw, media_type, "document").media_type
    except InvalidArgument:
        pass
    return None


def parts(found: Manifest) -> Iterator[tuple[Digest, str]]:
    """The children and their media types, also those of documents inside the descriptors.

    Raises:
        InvalidArgument: such a document is malformed.
    """
    todo = [found]
    while todo:
        for child in todo.pop().children():
            yield child.digest, child.media_type
            inline = descriptor.inline(child)
            if inline is not None and media.has_children(child.media_type):
                todo.append(parse(inline, child.media_type, f"manifest {child.digest}"))


def references(found: Manifest) -> References | None:
    """What a content record may tell of a document, so that it need not be read; None where that would be
    more than 64 KiB, one digest has two media types, or the bytes alone would not tell what it is.

    Raises:
        InvalidArgument: as `parts`.
    """
    if not found.is_stated:
        return None
    children: dict[Digest, str] = {}
    size = 0
    for digest, media_type in parts(found):
        if digest not in children:
            size += len(digest) + len(media_type)
        if size > _TOLD_MAX or children.setdefault(digest, media_type) != media_type:
            return None
    return References(found.media_type, children, found.subject and found.subject.digest)


def _refuse_schema1(document: dict[str, Any], what: str) -> None:
    stated = document.get("mediaType")
    if "fsLayers" in document or (isinstance(stated, str) and stated in media.DOCKER_SCHEMA1):
        raise InvalidArgument(
            f"{what} is a docker schema 1 manifest, which no current tool writes or runs",
            hint="pull or copy the image again with a tool that converts it: skopeo copy --format oci",
        )
