"""The nouns of `imgtool.model` as messages, and back. Nothing is judged here: the store does that."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from imgtool.digest import Digest
from imgtool.model import Descriptor, Image, Namespace
from imgtool.serve.proto import images_pb2, namespaces_pb2, types_pb2

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
