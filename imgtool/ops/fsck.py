"""Check a store: every file by itself, then what the documents and labels say of other content.

Content that is not there is no error by itself: as in containerd, an image or a label may name what
a namespace does not have, and of an image some platforms or layers may be absent by choice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.disk.check import ERROR, REMARK, Files, Problem, settled
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument, NotFound
from imgtool.model import ContentInfo, Descriptor, References
from imgtool.oci import blob, graph, manifest, media
from imgtool.ops.labels import references

__all__ = ["ERROR", "REMARK", "Problem", "check"]

_UNREADABLE = -1


def check(
    root: str, *, quick: bool = False, progress: Callable[[int], None] = lambda _: None
) -> Iterator[Problem]:
    """All that is wrong with the store in `root`, over all namespaces. Where the settings cannot be
    read, the files alone are checked.

    Args:
        root: the directory; a store that is not there has no problems.
        quick: hash no object but the documents that are read.
        progress: called with the number of bytes that were hashed.

    Raises:
        FailedPrecondition, PermissionDenied: the store must not be read, see `disk.open_store`.
    """
    root = os.path.realpath(root)
    lost: set[str] = set()
    for problem in Files(root, quick=quick, progress=progress).problems():
        if problem.level == ERROR:
            lost.add(problem.name)
        yield problem
    # What stops us here, such as a directory that cannot be listed, is told already.
    with suppress(DataLoss), open_store(root) as store:
        for namespace in store.namespaces.list(on_error=_told):
            with suppress(ImgtoolError):
                yield from _Graph(store, namespace.name, lost).problems()


class _Graph:
    """What the images and the content of one namespace refer to.

    Args:
        lost: digests of which is told already that they cannot be read.
    """

    def __init__(self, store: DiskStore, ns: str, lost: set[str]) -> None:
        self._layout = store.engine.layout
        self._ns = ns
        self._images = store.images(ns)
        self._content = store.content(ns)
        self._lost = lost
        self._sound: set[tuple[Digest, str]] = set()

    def problems(self) -> Iterator[Problem]:
        for info in self._content.list(on_error=_told):
            path = self._layout.content_record(self._ns, info.digest)
            yield from self._tell(settled(partial(self._document, info.digest), path))
        for name in self._images.names(on_error=_told):
            yield from self._tell(settled(partial(self._image, name), self._layout.image(self._ns, name)))

    def _tell(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        self._lost.update(problem.name for problem in problems if problem.kind == "object")
        return problems

    def _image(self, name: str) -> list[Problem]:
        try:
            image = self._images.get(name)
        except (NotFound, DataLoss):
            return []  # the files' to tell
        remark = partial(Problem, REMARK, "image", self._ns, name)
        found = [
            remark(f"label refers to {digest}, which is not here") for digest in self._dead(image.labels)
        ]
        target = image.target
        if target.data is None and self._size(target.digest) is None:
            found.append(remark(f"target {target.digest} is not here"))
        return found + self._wrong(target, partial(Problem, ERROR, "image", self._ns, name), "target")

    def _document(self, digest: Digest) -> list[Problem]:
        """What is wrong with what one content, by its labels and by its bytes, refers to."""
        try:
            info = self._content.info(digest)
            document = self._read(info)
        except NotFound:
            return []
        except ImgtoolError as error:
            return self._unreadable(digest, error)
        problem = partial(Problem, namespace=self._ns, name=digest)
        found = [
            problem(REMARK, "content", what=f"label refers to {child}, which is not here")
            for child in self._dead(info.labels)
        ]
        told = info.references
        if told and not (document and _tells(told, document)):
            found.append(problem(ERROR, "content", what="its record tells wrongly what it refers to"))
        labelled = set(references(info.labels))
        for child in document.children() if document else ():
            found += self._wrong(child, partial(Problem, ERROR, "manifest", self._ns, digest), "child")
            may_be_absent = (
                (document and document.is_index)
                or child.urls
                or child.data is not None
                or media.is_nondistributable(child.media_type)
            )
            if not may_be_absent and child.digest not in labelled and self._size(child.digest) is None:
                found.append(problem(REMARK, "manifest", what=f"child {child.digest} is not here"))
        return list(dict.fromkeys(found))

    def _read(self, info: ContentInfo) -> manifest.Manifest | None:
        """The manifest or index that content is by its own words; None if it is neither."""
        raw = blob.document(self._content, info.digest, info.size)
        media_type = raw and manifest.detect(raw)
        return manifest.parse(raw, media_type, "document") if raw and media_type else None

    def _wrong(self, target: Descriptor, problem: Callable[[str], Problem], what: str) -> list[Problem]:
        """What is wrong with content that is here, read as what a descriptor says that it is.

        Args:
            problem: makes one of who has the descriptor.
            what: what the content is to that one.
        """
        size = self._size(target.digest)
        if target.data is None:
            if size is None or size == _UNREADABLE or target.digest in self._lost:
                return []
            if size != target.size:
                return [problem(f"{what} {target.digest} has {size} bytes, expected {target.size}")]
        if (target.digest, target.media_type) in self._sound:
            return []
        try:
            graph.open_manifest(self._content, target)
        except NotFound:
            return []
        except InvalidArgument as error:
            return [problem(f"{what}: {error.message}")]
        except ImgtoolError as error:
            return self._unreadable(target.digest, error)
        self._sound.add((target.digest, target.media_type))
        return []

    def _unreadable(self, digest: Digest, error: ImgtoolError) -> list[Problem]:
        """What there is to tell of an object that does not have its bytes, or of its record."""
        return [] if digest in self._lost else [Problem(ERROR, "object", "", digest, error.message)]

    def _dead(self, labels: Mapping[str, str]) -> list[Digest]:
        """What labels refer to and this namespace does not have."""
        return [d for d in dict.fromkeys(references(labels)) if self._size(d) is None]

    def _size(self, digest: Digest) -> int | None:
        """The size that the record says, or that it cannot be read; None where there is no record."""
        try:
            return self._content.info(digest).size
        except NotFound:
            return None
        except DataLoss:
            return _UNREADABLE


def _tells(told: References, document: manifest.Manifest) -> bool:
    """Whether what a record tells is what the document refers to."""
    try:
        children = set(manifest.parts(document))
    except InvalidArgument:
        return False
    subject = document.subject and document.subject.digest
    said = (document.media_type, children, subject)
    return said == (told.media_type, set(told.children.items()), told.subject)


def _told(error: ImgtoolError) -> None:
    """Pass over a record that cannot be read: the files' check has told of it."""
