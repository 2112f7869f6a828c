"""Manifests and indexes as gc sees them: what they refer to, and nothing else of them.

Opened is only what may be such a document: not what a document calls a layer or a config, nor what
is too large for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from imgtool import workers
from imgtool.digest import Digest
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument
from imgtool.oci import blob, manifest, media

if TYPE_CHECKING:
    from imgtool.model import Referred
    from imgtool.oci.manifest import Manifest
    from imgtool.stores import Provider, Store

# What is known of content before it is opened: the media type of a manifest or index, or one of these.
LEAF = "leaf"
UNKNOWN = "unknown"

_CACHE = "gc-documents"
_FEW = 64  # not worth keeping
_MANY = 300  # worth a process of its own
_NOTHING: dict[str, Any] = {}

Typed = tuple[str, str]
"""A digest, and what is known of its content."""


class Document(NamedTuple):
    """What a manifest or index refers to; documents inside its descriptors are taken apart as well."""

    name: str  # "manifest" or "index"
    digests: Sequence[str]
    kinds: Sequence[str]  # as many; none where all are leaves
    subject: Digest | None

    @property
    def children(self) -> Iterator[Typed]:
        return zip(self.digests, self.kinds or repeat(LEAF), strict=False)

    @property
    def leaves(self) -> Iterable[str]:
        return (name for name, kind in self.children if kind == LEAF) if self.kinds else self.digests


class Documents:
    """Manifests and indexes, each read once, however often it is met and in however many namespaces.

    Args:
        follow: of the store's settings; with "labels" nothing is opened, and everything is a leaf.
    """

    def __init__(self, follow: str) -> None:
        self.followed = follow != "labels"
        self.referrers: dict[Typed, Digest] = {}  # to their subjects, of those that were read
        self._known: dict[Typed, Document | None] = {}
        self._kept: dict[str, dict[str, Any]] = {}
        self._new = 0

    def read(self, provider: Provider, digest: str, size: int, kind: str) -> Document | None:
        """What the content refers to; None if it is a leaf.

        Args:
            provider: where its bytes are.
            digest: its name.
            size: how many they are.
            kind: what is known of it.

        Raises:
            NotFound: `provider` does not have it.
            DataLoss: it has other bytes, or a manifest is malformed.
        """
        if not self.followed or kind == LEAF:
            return None
        node = digest, kind
        if node not in self._known:
            kept = self._kept.get(kind, _NOTHING)
            if digest in kept:
                document = _thawed(kept[digest])
            else:
                document = _read(provider, Digest(digest), kind, size)
                self._new += 1
            self._known[node] = document
            if document and document.subject:
                self.referrers[node] = document.subject
        return self._known[node]

    def read_ahead(self, provider: Provider, sizes: Mapping[Digest, int], nodes: Sequence[Typed]) -> None:
        """Have what `read` is going to be asked read by several processes, if it is much.

        Args:
            provider: where the bytes are.
            sizes: of what it has, in bytes.
            nodes: what is going to be read, and what is not followed.
        """
        if not self.followed or len(nodes) < 2 * _MANY:
            return
        opened = {kind: self._kept.get(kind, _NOTHING) for _, kind in nodes if media.has_children(kind)}
        new = [
            (name, kind, sizes[cast(Digest, name)])
            for name, kind in nodes
            if kind in opened
            and name not in opened[kind]
            and (name, kind) not in self._known
            and name in sizes
        ]
        if len(new) < 2 * _MANY:
            return
        for found in workers.share(partial(_read_all, provider), new, _MANY):
            for digest, kind, frozen in found:
                self._kept.setdefault(kind, {})[digest] = frozen
                self._new += 1

    def recall(self, store: Store) -> None:
        """Take over what an earlier gc read. A digest names its bytes, so it is right for ever; only that
        the bytes are still whole is not looked at again.
        """
        if self.followed:
            kept = store.recall(_CACHE)
            is_ours = isinstance(kept, dict) and all(isinstance(of, dict) for of in kept.values())
            self._kept = kept if is_ours else {}

    def keep(self, store: Store) -> None:
        """Keep what was asked for, for the next gc, if much of it is new."""
        if self._new > max(_FEW, len(self._known) // 16):
            kept: dict[str, dict[str, Any]] = {}
            for (digest, kind), document in self._known.items():
                kept.setdefault(kind, {})[digest] = document and _frozen(document)
            store.keep(_CACHE, kept)

    def known(self, node: Typed) -> Document | None:
        """What has been read of `node`; None if nothing, or if it is a leaf."""
        return self._known.get(node)


def of_record(told: Referred, kind: str) -> Document | None:
    """The document of which a record tells; None if it is not to be believed of content known as `kind`."""
    if kind not in (UNKNOWN, told.media_type) or not media.has_children(told.media_type):
        return None
    return Document(_called(told.media_type), told.digests.split(), _kinds(told.types), told.subject)


def _frozen(document: Document) -> list[Any]:
    subject = document.subject and str(document.subject)
    return [document.name, " ".join(document.digests), " ".join(document.kinds), subject]


def _thawed(kept: Any) -> Document | None:
    if kept is None:
        return None
    name, digests, kinds, subject = kept
    return Document(name, digests.split(), kinds.split(), subject and Digest(subject))


@lru_cache
def kind_of(media_type: str) -> str:
    """What a descriptor with `media_type` lets know of its content."""
    if media.has_children(media_type):
        return media_type
    return LEAF if media.is_layer(media_type) or media.is_config(media_type) else UNKNOWN


_NAME = "[a-z]+/[a-z0-9][a-z0-9.+-]{0,99}"
_TYPE = f'"{_NAME}"'
_DIGEST = '"(?:(?:sha256|blake3):[0-9a-f]{64}|sha512:[0-9a-f]{128})"'
_NUMBER = "(?:0|[1-9][0-9]{0,17})"
_PART = (
    f'{{ "mediaType" : {_TYPE} , '
    f'(?:"digest" : {_DIGEST} , "size" : {_NUMBER}|"size" : {_NUMBER} , "digest" : {_DIGEST}) }}'
)


def _spaced(form: str) -> re.Pattern[str]:
    return re.compile(form.replace(" ", "[ \t\r\n]*"))


# An image's manifest as most programs write it, with nothing but what each has. So no key is there
# twice, or could be taken for another.
_USUAL = _spaced(
    f' {{ "schemaVersion" : 2 , "mediaType" : "({_NAME})" , '
    f'"config" : {_PART} , "layers" : \\[ {_PART} (?:, {_PART} )*\\] }} '
)


def _usual(raw: bytes, kind: str) -> Document | None:
    """What `raw` refers to, at a tenth of the cost, if it is such a manifest; else None."""
    if not (raw.isascii() and (kind == UNKNOWN or media.is_image(kind))):
        return None
    text = raw.decode()
    found = _USUAL.fullmatch(text)
    if found is None or not (found[1] == kind or (kind == UNKNOWN and media.is_image(found[1]))):
        return None
    # Of what is quoted then, these are the types and digests; a type has no colon, a digest no slash.
    quoted = text.split('"')[1::2]
    _, *types = (word for word in quoted if "/" in word)
    digests = [word for word in quoted if ":" in word]
    return Document("manifest", digests, _kinds(tuple(types)), None)


def _read(provider: Provider, digest: Digest, kind: str, size: int) -> Document | None:
    try:
        raw = blob.document(provider, digest, size) if kind == UNKNOWN else blob.read(provider, digest)
        if raw is None:
            return None
        if usual := _usual(raw, kind):
            return usual
        media_type = manifest.detect(raw) if kind == UNKNOWN else kind
        if media_type is None:
            return None
        return _document(manifest.parse(raw, media_type, f"manifest {digest}"))
    except InvalidArgument as error:
        raise DataLoss(
            f"cannot tell what is garbage: {error.message}",
            hint="gc removes nothing until the images or leases that reach it are deleted",
        ) from None


def _read_all(
    provider: Provider, nodes: Sequence[tuple[str, str, int]]
) -> list[tuple[str, str, list[Any] | None]]:
    """What can be read of digests whose kind and size are given, as the cache has it."""
    all = []
    for digest, kind, size in nodes:
        with suppress(ImgtoolError):  # is told by who reads it again
            document = _read(provider, Digest(digest), kind, size)
            all.append((str(digest), kind, document and _frozen(document)))
    return all


def _document(found: Manifest) -> Document:
    children = [*manifest.parts(found)]
    digests = [digest for digest, _ in children]
    kinds = _kinds(tuple(media_type for _, media_type in children))
    return Document(_called(found.media_type), digests, kinds, found.subject and found.subject.digest)


def _called(media_type: str) -> str:
    return "index" if media.is_index(media_type) else "manifest"


@lru_cache
def _kinds(types: tuple[str, ...]) -> Sequence[str]:
    """What is known of children with these media types; nothing where all are leaves."""
    kinds = [*map(kind_of, types)]
    return kinds if any(kind != LEAF for kind in kinds) else ()
