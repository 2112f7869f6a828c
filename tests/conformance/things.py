"""What the suites make again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.errors import ImgtoolError
from imgtool.model import Descriptor, Image
from imgtool.stores import ContentStore, Store

NS = "default"
OTHER = "other"
TYPE = "application/vnd.oci.image.manifest.v1+json"
ABSENT = Digest.of(b"nobody has these bytes")


def target(data: bytes = b"x", /, **fields: Any) -> Descriptor:
    """A descriptor of `data`."""
    return Descriptor(**{"media_type": TYPE, "digest": Digest.of(data), "size": len(data), **fields})


def image(name: str, data: bytes = b"x", /, labels: Mapping[str, str] | None = None, **fields: Any) -> Image:
    """An image that points to `data`; `fields` are its target's."""
    return Image(name, target(data, **fields), labels or {})


def add(store: Store, data: bytes, namespace: str = NS, **labels: str) -> Digest:
    """Put `data` into the content of a namespace."""
    with store.content(namespace).writer("add") as writer:
        writer.write(data)
        return writer.commit(labels=labels).digest


def begin(content: ContentStore, ref: str, data: bytes = b"", **options: Any) -> None:
    """Write `data` to an ingest, and leave it unfinished."""
    with content.writer(ref, **options) as writer:
        writer.write(data)


def read(content: ContentStore, digest: Digest) -> bytes:
    with content.reader(digest) as reader:
        return reader.read()


def each_raises(error: type[ImgtoolError], *calls: Callable[[], object]) -> None:
    for call in calls:
        with pytest.raises(error):
            call()


@contextmanager
def ticking() -> Iterator[list[int]]:
    """The wall clock before the block and, at its end, after it."""
    times = [time.time_ns()]
    yield times
    times.append(time.time_ns())


@contextmanager
def unchanged(store: Store, namespace: str = NS) -> Iterator[None]:
    """What happens in the block must leave the store's records as they are."""
    before = records(store, namespace)
    yield
    assert records(store, namespace) == before


def records(store: Store, namespace: str = NS) -> list[Any]:
    """All that the store says of a namespace."""
    return [
        list(store.namespaces.list()),
        list(store.images(namespace).list()),
        list(store.content(namespace).list()),
        list(store.leases(namespace).list()),
    ]


def time_is_between(ns: int, times: list[int]) -> bool:
    """Whether `ns` lies within; file systems and clocks may differ by one tick."""
    return times[0] - 20_000_000 <= ns <= times[1] + 20_000_000


each_way_to_be_no_name = pytest.mark.parametrize(
    "name", ["", "a\0b", "\udcff", "a" * 32769], ids=["empty", "nul", "no-utf8", "too-long"]
)
