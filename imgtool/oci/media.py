"""Media types: the known ones, their families, and the labels that tell them to a collector.

The families and label names are containerd's (`core/images/mediatypes.go`, `handlers.go`), so that
a store which only follows labels sees the same graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import Descriptor
from imgtool.names import GC_REF

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
# Only in release candidates of image-spec 1.1, but signers wrote it.
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
OCTETS = "application/octet-stream"

# On a referrer, by the digest of its subject: the back reference of containerd 2.x.
SUBJECT_LABEL = "containerd.io/gc.bref.content.subject"
SUBJECT = "io.containerd.manifest.subject"  # annotation of a descriptor that is a referrer

_MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
_CHECKPOINTS = frozenset(
    {
        "application/vnd.containerd.container.criu.checkpoint.criu.tar",
        "application/vnd.containerd.container.checkpoint.config.v1+proto",
    }
)
_LAYERS = frozenset(
    {
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.erofs.layer.v1",
    }
)
_NONDISTRIBUTABLE = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)
# RFC 6838, section 4.2.
_NAME = "[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_SYNTAX = re.compile(f"{_NAME}/{_NAME}", re.ASCII)


def check(value: object, what: str) -> str:
    """`value` if it is a media type: `type/subtype`, without parameters (RFC 6838).

    Raises:
        InvalidArgument: it is not.
    """
    if not (isinstance(value, str) and _SYNTAX.fullmatch(value)):
        found = f"'{value[:80]}'" if isinstance(value, str) else "not text"
        raise InvalidArgument(f"{what} is {found}, expected a media type")
    return value


def is_manifest(media_type: str) -> bool:
    """Whether it is a document with layers or blobs: OCI, docker schema 2, or the OCI artifact manifest."""
    return media_type in _MANIFESTS or media_type == OCI_ARTIFACT


def is_image(media_type: str) -> bool:
    """Whether it is a document with a config and layers: OCI or docker schema 2."""
    return media_type in _MANIFESTS


def is_index(media_type: str) -> bool:
    """Whether it is a document that lists manifests: OCI index or docker manifest list."""
    return media_type in _INDEXES


def has_children(media_type: str) -> bool:
    """Whether it is a document that refers to other content; all other types are leaves."""
    return is_manifest(media_type) or is_index(media_type)


def is_config(media_type: str) -> bool:
    """Whether it is an image's configuration, which says what the image runs on."""
    return media_type in _CONFIGS


def is_layer(media_type: str) -> bool:
    """Whether it is a file system layer."""
    return (
        media_type.startswith("application/vnd.oci.image.layer.") or media_type.partition("+")[0] in _LAYERS
    )


def is_nondistributable(media_type: str) -> bool:
    """Whether it is a layer that may be absent, because its licence forbids to pass it on."""
    return media_type.startswith(_NONDISTRIBUTABLE)


def gc_labels(children: Iterable[Descriptor]) -> dict[str, str]:
    """The labels by which a collector finds `children` from their parent's content record.

    Args:
        children: those that are there, in the order of the document; each kind is numbered for itself.
    """
    labels: dict[str, str] = {}
    counts: dict[str, int] = {}
    for child in children:
        if SUBJECT in child.annotations:
            key = referrer_label(child.digest)
        else:
            prefix = _gc_prefix(child.media_type)
            n = counts.get(prefix, 0)
            counts[prefix] = n + 1
            key = f"{prefix}{n}" if n or prefix.endswith(".") else prefix
        labels[key] = child.digest
    return labels


def referrer_label(referrer: Digest) -> str:
    """The label on the content record of a subject that keeps its `referrer`; the value is the digest."""
    return f"{GC_REF}.referrer.sha256.{referrer.encoded[:12]}"


def _gc_prefix(media_type: str) -> str:
    if is_config(media_type) or media_type in _CHECKPOINTS:
        return f"{GC_REF}.config"
    if media_type in _MANIFESTS:
        return f"{GC_REF}.m."
    if is_layer(media_type):
        return f"{GC_REF}.l."
    return f"{GC_REF}."
