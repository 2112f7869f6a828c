"""Random changes of a store beside the same changes of a few dicts: after each, both must say the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, FailedPrecondition, NotFound
from imgtool.fieldpaths import merge_image
from imgtool.model import ContentInfo, Image, replace
from imgtool.stores import Commit, Put, Store

from .things import image, read

NAMESPACES = st.sampled_from(["default", "k8s.io"])
NAMES = st.sampled_from(["a", "A", "a/b", "../a", "é"])
BLOBS = st.sampled_from([b"one", b"two", b"three"])
REFS = st.sampled_from(["r", "r/s"])
LABELS = st.dictionaries(st.sampled_from(["k", "x.io/l"]), st.sampled_from(["", "v", "w"]), max_size=2)
PATHS = st.lists(
    st.sampled_from(["labels", "labels.k", "labels.x.io/l", "target", "annotations", "annotations.k"]),
    max_size=2,
)


class Machine(RuleBasedStateMachine):
    """`images` and `content` are what the store must hold, `ingests` the bytes that it must keep."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.images: dict[tuple[str, str], Image] = {}
        self.content: dict[tuple[str, bytes], dict[str, str]] = {}
        self.ingests: dict[tuple[str, str], bytes] = {}

    @rule(ns=NAMESPACES, name=NAMES, data=BLOBS, labels=LABELS)
    def create(self, ns: str, name: str, data: bytes, labels: dict[str, str]) -> None:
        new = image(name, data, labels, annotations=labels)
        if (ns, name) in self.images:
            with pytest.raises(AlreadyExists):
                self.store.images(ns).create(new)
        else:
            self.images[ns, name] = self.store.images(ns).create(new)
            assert timeless(self.images[ns, name]) == timeless(new)

    @rule(ns=NAMESPACES, name=NAMES, data=BLOBS, labels=LABELS, paths=PATHS)
    def update(self, ns: str, name: str, data: bytes, labels: dict[str, str], paths: list[str]) -> None:
        new, old = image(name, data, labels, annotations=labels), self.images.get((ns, name))
        if old is None:
            with pytest.raises(NotFound):
                self.store.images(ns).update(new, *paths)
        else:
            self.images[ns, name] = self.store.images(ns).update(new, *paths)
            assert timeless(self.images[ns, name]) == timeless(merge_image(old, new, paths))

    @rule(ns=NAMESPACES, name=NAMES, new=NAMES)
    def rename(self, ns: str, name: str, new: str) -> None:
        old, there = self.images.get((ns, name)), self.images.get((ns, new))
        if name == new:
            return
        if old is None and there is None:
            with pytest.raises(NotFound):
                self.store.images(ns).rename(name, new)
        elif old and there and timeless(replace(old, name=new)) != timeless(there):
            with pytest.raises(AlreadyExists):
                self.store.images(ns).rename(name, new)
        else:
            moved = self.store.images(ns).rename(name, new)
            assert timeless(moved) == timeless(there or replace(old or moved, name=new))
            self.images.pop((ns, name), None)
            self.images[ns, new] = moved

    @rule(ns=NAMESPACES, name=NAMES, data=BLOBS)
    def delete(self, ns: str, name: str, data: bytes) -> None:
        old = self.images.get((ns, name))
        if old is None:
            with pytest.raises(NotFound):
                self.store.images(ns).delete(name, target=Digest.of(data))
        elif old.target.digest != Digest.of(data):
            with pytest.raises(FailedPrecondition):
                self.store.images(ns).delete(name, target=Digest.of(data))
        else:
            assert self.store.images(ns).delete(name, target=Digest.of(data)) == self.images.pop((ns, name))

    @rule(ns=NAMESPACES, ref=REFS, data=BLOBS)
    def write(self, ns: str, ref: str, data: bytes) -> None:
        with self.store.content(ns).writer(ref) as writer:
            assert writer.digest() == Digest.of(self.ingests.get((ns, ref), b""))
            writer.write(data)
        self.ingests[ns, ref] = self.ingests.get((ns, ref), b"") + data

    @rule(ns=NAMESPACES, ref=REFS)
    def abort(self, ns: str, ref: str) -> None:
        if self.ingests.pop((ns, ref), None) is None:
            with pytest.raises(NotFound):
                self.store.content(ns).abort(ref)
        else:
            self.store.content(ns).abort(ref)

    @rule(ns=NAMESPACES, ref=REFS, data=BLOBS, labels=LABELS)
    def replay_and_commit(self, ns: str, ref: str, data: bytes, labels: dict[str, str]) -> None:
        self.ingests.pop((ns, ref), None)
        with self.store.content(ns).writer(ref, expected=None) as writer:
            writer.replay()
            writer.write(data)
            if (ns, data) in self.content:
                with pytest.raises(AlreadyExists):
                    writer.commit(labels=labels)
            else:
                assert writer.commit(labels=labels).digest == Digest.of(data)
                self.content[ns, data] = said(labels)

    @rule(ns=NAMESPACES, name=NAMES, data=BLOBS, labels=LABELS, replace=st.booleans())
    def publish(self, ns: str, name: str, data: bytes, labels: dict[str, str], replace: bool) -> None:
        with self.store.content(ns).stage(algorithm="sha256") as writer:
            writer.write(data)
            put = Put(image(name, data, labels), replace, needs=frozenset([Digest.of(data)]))
            (outcome,) = self.store.publish(ns, [Commit(writer, labels=labels)], [put]).images
        self.content[ns, data] = said({**self.content.get((ns, data), {}), **labels})
        old = self.images.get((ns, name))
        if old is None or (replace and old.target != put.image.target):
            assert isinstance(outcome, Image)
            assert timeless(outcome) == timeless(put.image)
            self.images[ns, name] = outcome
        elif old.target.digest == Digest.of(data):
            assert outcome == old
        else:
            assert isinstance(outcome, AlreadyExists)

    @rule(ns=NAMESPACES, data=BLOBS, labels=LABELS)
    def label(self, ns: str, data: bytes, labels: dict[str, str]) -> None:
        info = ContentInfo(Digest.of(data), 0, labels)
        if (ns, data) not in self.content:
            with pytest.raises(NotFound):
                self.store.content(ns).update(info, "labels.k")
        else:
            self.content[ns, data] = said({**self.content[ns, data], "k": labels.get("k", "")})
            assert self.store.content(ns).update(info, "labels.k").labels == self.content[ns, data]

    @rule(ns=NAMESPACES, data=BLOBS)
    def forget(self, ns: str, data: bytes) -> None:
        if self.content.pop((ns, data), None) is None:
            with pytest.raises(NotFound):
                self.store.content(ns).delete(Digest.of(data))
        else:
            self.store.content(ns).delete(Digest.of(data))

    @rule(ns=NAMESPACES)
    def delete_namespace(self, ns: str) -> None:
        if any(key[0] == ns for key in [*self.images, *self.content]):
            with pytest.raises(FailedPrecondition):
                self.store.namespaces.delete(ns)
        elif any(found.name == ns for found in self.store.namespaces.list()):
            self.store.namespaces.delete(ns)
            self.ingests = {key: data for key, data in self.ingests.items() if key[0] != ns}

    @invariant()
    def both_say_the_same(self) -> None:
        for ns in ("default", "k8s.io"):
            images = [self.images[key] for key in sorted(self.images) if key[0] == ns]
            assert list(self.store.images(ns).list()) == images
            assert self.store.images(ns).names() == [image.name for image in images]
            content = self.store.content(ns)
            infos = {info.digest: info.labels for info in content.list()}
            assert infos == {Digest.of(data): labels for (n, data), labels in self.content.items() if n == ns}
            for n, data in self.content:
                assert n != ns or read(content, Digest.of(data)) == data
            sizes = {status.ref: status.offset for status in content.statuses()}
            assert sizes == {ref: len(data) for (n, ref), data in self.ingests.items() if n == ns}


def timeless(image: Image) -> Image:
    """`image` as it reads back, but for its times."""
    annotations = said(image.target.annotations)
    target = replace(image.target, annotations=annotations)
    return replace(image, target=target, labels=said(image.labels), created=0, updated=0)


def said(labels: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in labels.items() if v}


def test_random_changes_leave_what_they_leave_in_dicts(make_store: Callable[[], Store]) -> None:
    """The orders that nobody thought of."""

    class NewMachine(Machine):
        def __init__(self) -> None:
            super().__init__(make_store())

    run_state_machine_as_test(
        NewMachine,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
        ),
    )
