"""What is recorded of the content of a namespace, as gc goes by it: sizes, labels, and the documents of which
records tell; others are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from imgtool.digest import Digest
from imgtool.errors import DataLoss, NotFound
from imgtool.model import EMPTY
from imgtool.names import for_gc
from imgtool.ops.documents import LEAF, UNKNOWN, Document, Documents, Typed, of_record
from imgtool.ops.labels import BACK, REF, labelled

if TYPE_CHECKING:
    from imgtool.stores import ContentStore, OnError


class Recorded:
    """The content of one namespace.

    Args:
        content: of the namespace.
        documents: what is read already.
        on_error: for records that cannot be read, see `imgtool.stores`.

    Raises:
        DataLoss: a record cannot be read. Methods that need a document raise it for one that cannot be read.
    """

    def __init__(self, content: ContentStore, documents: Documents, on_error: OnError) -> None:
        self.sizes, self.labels, self._references = content.inventory(on_error=on_error)
        self._content = content
        self._documents = documents
        self._believed: dict[Typed, Document | None] = {}  # what records tell, always the same object

    def document(self, name: str, kind: str) -> Document | None:
        """What is recorded, and known as `kind`, if it is a document: as the record tells, or the bytes."""
        size = self.sizes.get(cast(Digest, name))
        return None if size is None else self._told(name, kind) or self._read(name, size, kind)

    def _told(self, name: str, kind: str) -> Document | None:
        """The document of which the record tells. Every namespace believes its own records alone."""
        told = self._references.get(cast(Digest, name))
        if told is None or kind == LEAF or not self._documents.followed:
            return None
        if (name, kind) not in self._believed:
            self._believed[name, kind] = of_record(told, kind)
        return self._believed[name, kind]

    def only_labelled(self, node: Typed, document: Document | None) -> Iterable[str]:
        """The children that labels name which were left out of `labels`, without those of `document`; none if
        that is what the record tells of `node`.
        """
        name, kind = node
        told = self._references.get(cast(Digest, name))
        if told is None or not told.labelled:
            return ()
        if document is None:
            return told.digests.split()
        if document is self._told(name, kind):
            return ()
        return set(told.digests.split()).difference(document.digests)

    def parts(self, digest: str) -> Iterator[str]:
        """The content that `digest` leads to, once its document was asked for."""
        document = self._known(digest)
        if document:
            yield from document.digests
        yield from self.only_labelled((digest, UNKNOWN), document)
        yield from (value for _, value in labelled(self.labels.get(cast(Digest, digest), EMPTY), REF))

    def subjects(self, digest: str) -> Iterator[str]:
        """The content that `digest` lives with, once its document was asked for."""
        document = self._known(digest)
        if document and document.subject:
            yield document.subject
        yield from (value for _, value in labelled(self.labels.get(cast(Digest, digest), EMPTY), BACK))

    def _known(self, digest: str) -> Document | None:
        return self._told(digest, UNKNOWN) or self._documents.known((digest, UNKNOWN))

    def labels_of(self, digest: str) -> Mapping[str, str]:
        """Those labels of content that are for gc; none where it is not recorded."""
        told = self._references.get(cast(Digest, digest))
        if told and told.labelled:
            with suppress(NotFound):  # removed since it was listed
                return for_gc(self._content.info(Digest(digest)).labels)
        return self.labels.get(cast(Digest, digest), EMPTY)

    def referrers(self) -> Iterator[tuple[Digest, Digest]]:
        """Those of which records tell, with their subjects."""
        for digest, told in self._references.items():
            if told.subject and (document := self._told(digest, UNKNOWN)) and document.subject:
                yield digest, document.subject

    def leading(self) -> Iterator[Digest]:
        """What has labels for gc."""
        yield from self.labels
        yield from (digest for digest, told in self._references.items() if told.labelled)

    def read_ahead(self, nodes: Sequence[Typed]) -> None:
        """Have those documents read by several processes of which no record tells, if it is much."""
        told = self._references
        untold = [node for node in nodes if node[0] not in told] if told else nodes
        self._documents.read_ahead(self._content, self.sizes, untold)

    def is_labelled(self, digest: Digest) -> bool:
        """Whether labels refer to something."""
        told = self._references.get(digest)
        return bool(told and told.labelled) or any(labelled(self.labels.get(digest, EMPTY), REF))

    def _read(self, digest: str, size: int, kind: str) -> Document | None:
        try:
            return self._documents.read(self._content, digest, size, kind)
        except NotFound:
            return None  # removed since it was listed

    def agrees(self, other: Recorded) -> bool:
        """Whether the same is recorded in `other`."""
        return (
            self.sizes == other.sizes
            and self.labels == other.labels
            and self._references == other._references
        )

    def compare(
        self, objects: Mapping[Digest, int], report: Callable[[Digest, DataLoss], None] | None = None
    ) -> None:
        """Compare the records with the objects that there are. What was removed meanwhile is forgotten.

        Args:
            objects: all, and their sizes in bytes.
            report: told of what is recorded and has no object, or one of another size.

        Raises:
            DataLoss: there is some, and nobody is told.
        """
        if self.sizes == objects or self.sizes.items() <= objects.items():  # the first is fast, and usual
            return
        for digest in [digest for digest, size in self.sizes.items() if objects.get(digest) != size]:
            try:
                self._content.reader(digest).close()
            except NotFound:
                del self.sizes[digest]
                self.labels.pop(digest, None)
                self._references.pop(digest, None)
            except DataLoss as error:
                if report is None:
                    raise
                report(digest, error)
