"""What the tests of gc make again and again: content, documents about it, and what is left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from imgtool.digest import Digest
from imgtool.model import ContentInfo, Descriptor, Image, Lease, References
from imgtool.oci import media
from imgtool.oci.manifest import detect, parse, references
from imgtool.stores import Commit, Store

NS = "default"
OTHER = "other"
REF = "containerd.io/gc.ref.content"
REF_IMAGE = "containerd.io/gc.ref.image"
BACK = "containerd.io/gc.bref.content"
BACK_IMAGE = "containerd.io/gc.bref.image"
ROOT = "containerd.io/gc.root"
FLAT = "containerd.io/gc.flat"
EXPIRE = "containerd.io/gc.expire"
LAYER = "application/vnd.oci.image.layer.v1.tar"
EMPTY = media.OCI_EMPTY


def add(
    store: Store,
    data: bytes,
    namespace: str = NS,
    labels: Mapping[str, str] | None = None,
    told: References | None = None,
    *,
    is_document: bool = False,
) -> Digest:
    """Put `data` into the content of a namespace."""
    with store.content(namespace).stage(algorithm="sha256") as writer:
        writer.write(data)
        writer.finish()
        commit = Commit(writer, labels=labels or {}, references=told, is_document=is_document)
        return store.publish(namespace, [commit]).content[0].digest


def add_told(store: Store, data: bytes, namespace: str = NS, *, labelled: bool = False) -> Digest:
    """Put a document into the content, with what it refers to; with labels for that, too, as ingest does."""
    media_type = detect(data)
    assert media_type
    document = parse(data, media_type, "document")
    labels = media.gc_labels(document.children()) if labelled else {}
    return add(store, data, namespace, labels, references(document), is_document=True)


def label(store: Store, digest: Digest, labels: Mapping[str, str], namespace: str = NS) -> None:
    """Set labels of content."""
    store.content(namespace).update(ContentInfo(digest, 0, labels), *(f"labels.{key}" for key in labels))


def tag(store: Store, name: str, digest: Digest, media_type: str, namespace: str = NS, **fields: Any) -> None:
    """Make an image that points to `digest`."""
    store.images(namespace).create(Image(name, Descriptor(media_type, digest, 1), **fields))


def hold(store: Store, id: str, digests: Sequence[str], **labels: str) -> None:
    """Make a lease on content."""
    names = {"expire": EXPIRE, "flat": FLAT}
    store.leases(NS).create(
        Lease(id, {names[key]: value for key, value in labels.items()}, {"content": tuple(digests)})
    )


def entry(digest: Digest, media_type: str = LAYER, **fields: Any) -> dict[str, Any]:
    """A descriptor, as a document has it."""
    return {"mediaType": media_type, "digest": digest, "size": 1, **fields}


def manifest(config: Digest, *layers: Digest, subject: Digest | None = None, **fields: Any) -> bytes:
    """An image manifest."""
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": entry(config, media.OCI_CONFIG),
        "layers": [entry(layer) for layer in layers],
        **fields,
    }
    if subject:
        document["subject"] = entry(subject, media.OCI_MANIFEST)
    return json.dumps(document).encode()


def index(*manifests: Mapping[str, Any]) -> bytes:
    """An image index of descriptors."""
    document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": manifests}
    return json.dumps(document).encode()


def recorded(store: Store, namespace: str = NS) -> set[Digest]:
    """The content of a namespace."""
    return {info.digest for info in store.content(namespace).list()}


def objects(store: Store) -> set[Digest]:
    """The objects of a store."""
    return {digest for digest, _ in store.objects()}
