"""Labels as gc reads them: roots, references forth and back. The rules are containerd's
(`core/metadata/gc.go`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.names import GC_LABELS, GC_REF, is_label_of
from imgtool.ops.documents import UNKNOWN, Typed

ROOT = "containerd.io/gc.root"
FLAT_LABEL = "containerd.io/gc.flat"
REF = GC_REF
REF_IMAGE = "containerd.io/gc.ref.image"
BACK = "containerd.io/gc.bref.content"
BACK_IMAGE = "containerd.io/gc.bref.image"
_REFERS = "containerd.io/gc.ref."

IMAGE = "image"
"""What stands for what is known of content where an image is referred to."""


def references(labels: Mapping[str, str]) -> Iterator[Digest]:
    """The content that labels refer to; what is no digest names nothing that there is."""
    for _, value in labelled(labels, REF):
        try:
            yield Digest.parse(value)
        except InvalidArgument:
            continue


def referred(labels: Mapping[str, str], content: str, image: str) -> Iterator[tuple[str, Typed]]:
    """The labels that refer, and what to: content by the key `content`, images by the key `image`."""
    for key, value in labelled(labels, content):
        yield key, (value, UNKNOWN)
    for key, value in labelled(labels, image):
        yield key, (value, IMAGE)


def only_refers(labels: Mapping[str, str]) -> bool:
    """Whether no label makes a root or a back reference, as those of most manifests."""
    return all(key.startswith(_REFERS) or not key.startswith(GC_LABELS) for key in labels)


def labelled(labels: Mapping[str, str], key: str) -> Iterator[tuple[str, str]]:
    """The labels `key`, `key.…` and `key/…`."""
    return ((label, value) for label, value in labels.items() if is_label_of(label, key))
