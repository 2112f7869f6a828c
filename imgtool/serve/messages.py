"""The nouns of `imgtool.model` as messages, and back. Nothing is judged here: the store does that."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from imgtool.digest import Digest
from imgtool.model import ContentInfo, Descriptor, Image, IngestStatus, Lease, Namespace
from imgtool.serve.proto import content_pb2, images_pb2, leases_pb2, namespaces_pb2, types_pb2

_SECOND = 1_000_000_000


def timestamp(ns: int) -> Timestamp | None:
    """Nanoseconds since the epoch; None, which leaves a field unset, for a time that is not known."""
    return Timestamp(seconds=ns // _SECOND, nanos=ns % _SECOND) if ns else None


def descriptor(target: Descriptor) -> types_pb2.Descriptor:
    return types_pb2.Descriptor(
        media_type=target.media_type,
        digest=target.digest,
        size=target.size,
        annotations=target.annotations,
    )


def to_descriptor(message: types_pb2.Descriptor) -> Descriptor:
    """Its digest is whatever the client sent."""
    return Descriptor(message.media_type, Digest(message.digest), message.size, dict(message.annotations))


def image(image: Image) -> images_pb2.Image:
    return images_pb2.Image(
        name=image.name,
        labels=image.labels,
        target=descriptor(image.target),
        created_at=timestamp(image.created),
        updated_at=timestamp(image.updated),
    )


def to_image(message: images_pb2.Image) -> Image:
    """Without its times, which are the store's to set."""
    return Image(message.name, to_descriptor(message.target), dict(message.labels))


def namespace(namespace: Namespace) -> namespaces_pb2.Namespace:
    return namespaces_pb2.Namespace(name=namespace.name, labels=namespace.labels)


def to_namespace(message: namespaces_pb2.Namespace) -> Namespace:
    return Namespace(message.name, dict(message.labels))


def info(info: ContentInfo) -> content_pb2.Info:
    return content_pb2.Info(
        digest=info.digest,
        size=info.size,
        created_at=timestamp(info.created),
        updated_at=timestamp(info.updated),
        labels=info.labels,
    )


def to_info(message: content_pb2.Info) -> ContentInfo:
    """Only what an update looks at. A digest that is none raises InvalidArgument: it becomes a path."""
    return ContentInfo(Digest.parse(message.digest), message.size, dict(message.labels))


def ingest(status: IngestStatus) -> content_pb2.Status:
    return content_pb2.Status(
        started_at=timestamp(status.started),
        updated_at=timestamp(status.updated),
        ref=status.ref,
        offset=status.offset,
        total=status.total,
        expected=status.expected,
    )


def lease(lease: Lease) -> leases_pb2.Lease:
    return leases_pb2.Lease(id=lease.id, created_at=timestamp(lease.created), labels=lease.labels)
