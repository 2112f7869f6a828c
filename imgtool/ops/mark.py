"""What is kept: the roots of a namespace, and what leads from one thing to the next.

The rules are containerd's (`core/metadata/gc.go`): everything within one namespace, roots from
images, leases, ingests and labels, edges from labels. Beyond those, unless the store's settings say
`follow = "labels"`, manifests and indexes are read here, so that an image without labels keeps its
parts, and a manifest with a `subject` lives as long as its subject.

As in containerd an edge may lead to what is not there; what refers back to that is reached all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import DataLoss, InvalidArgument, NotFound
from imgtool.names import is_expired, is_past
from imgtool.oci import media
from imgtool.ops.documents import LEAF, UNKNOWN, Document, Documents, kind_of

if TYPE_CHECKING:
    from imgtool.model import ContentInfo, Image
    from imgtool.stores import OnError, Store

ROOT = "containerd.io/gc.root"
FLAT_LABEL = "containerd.io/gc.flat"
REF = media.GC_REF
REF_IMAGE = "containerd.io/gc.ref.image"
BACK = "containerd.io/gc.bref.content"
BACK_IMAGE = "containerd.io/gc.bref.image"
_OURS = "containerd.io/gc."
_REFERS = "containerd.io/gc.ref."

# What a node is, where it is no content that is followed.
IMAGE = "image"
INGEST = "ingest"
FLAT = "flat"
FLAT_IMAGE = "flat image"
_NO_CONTENT = frozenset({IMAGE, FLAT_IMAGE, INGEST})

Node = tuple[str, str]
"""What gc goes through. First its name: a digest, the name of an image, the ref of an ingest. Then how
it is followed: IMAGE, INGEST, FLAT (content that is kept and not followed), FLAT_IMAGE (an image whose
target is), or of other content what is known of it before it is opened (see `ops.documents`).
"""

Edge = tuple[Node, str]
"""Where it leads, and what makes it: the key of a label (a back reference's is a label of the node that
it leads to), "manifest", "index", "subject", or "target" of an image, "expected" by an ingest.
"""


class Root(NamedTuple):
    """What gc starts from. `kind` is "image", "lease", "label" or "ingest"; `name` is the image's, the
    id of the lease, the key of the label on the content `node`, the ref.
    """

    kind: str
    name: str
    node: Node


class Space:
    """One namespace: what it has, and what of that is reached. Takes no lock and writes nothing.

    Args:
        store: where it is.
        name: the namespace.
        documents: what is read already; to be shared by the namespaces of a store.
        now: leases, images and ingests whose time is up by then are no roots.
        without: images that are to count as deleted.
        on_error: for records that cannot be read, see `imgtool.stores`.

    Raises:
        DataLoss: a record cannot be read. All methods raise it for a manifest that cannot be read.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        documents: Documents,
        *,
        now: int | None = None,
        without: Collection[str] = (),
        on_error: OnError = None,
    ) -> None:
        self.name = name
        self.content = store.content(name)
        self.records: dict[str, ContentInfo] = {
            info.digest: info for info in self.content.list(on_error=on_error)
        }
        self.images: dict[str, Image] = {
            image.name: image
            for image in store.images(name).list(on_error=on_error)
            if image.name not in without
        }
        self.ingests: dict[str, Digest | None] = {}
        self.roots: list[Root] = []
        self.expired_leases: list[str] = []
        self.held: set[str] = set()  # ingests, by leases
        self._documents = documents
        self._back: dict[Node, list[Edge]] = {}
        self._marked: set[Node] | None = None
        self._find_roots(store, clock.wall() if now is None else now, on_error)

    def _find_roots(self, store: Store, now: int, on_error: OnError) -> None:
        for image in self.images.values():
            node = image.name, IMAGE
            if not is_expired(image.labels, now):
                self.roots.append(Root("image", image.name, node))
            if _tells(image.labels):
                self._refers_back(node, image.labels)
        for digest, info in self.records.items():
            if info.labels and not _only_refers(info.labels):
                node = digest, UNKNOWN
                self._refers_back(node, info.labels)
                self.roots += (Root("label", key, node) for key, _ in labelled(info.labels, ROOT))
        for lease in store.leases(self.name).list(on_error=on_error):
            if is_expired(lease.labels, now):
                self.expired_leases.append(lease.id)
                continue
            flat = FLAT_LABEL in lease.labels
            kinds = {"content": FLAT if flat else UNKNOWN, "images": FLAT_IMAGE if flat else IMAGE}
            for type, kind in (*kinds.items(), ("ingests", INGEST)):
                resources = lease.resources.get(type, ())
                self.roots += (Root("lease", lease.id, (name, kind)) for name in resources)
            self.held.update(lease.resources.get("ingests", ()))
        for status in self.content.statuses():
            self.ingests[status.ref] = status.expected
            if status.expires is not None and not is_past(status.expires, now):
                self.roots.append(Root("ingest", status.ref, (status.ref, INGEST)))

    def _refers_back(self, node: Node, labels: Mapping[str, str]) -> None:
        for key, parent in referred(labels, BACK, BACK_IMAGE):
            self._back.setdefault(parent, []).append((node, key))

    # --- where things lead ---

    def edges(self, node: Node) -> Iterator[Edge]:
        """Where `node` leads; nowhere, if it is not there and nothing refers back to it."""
        name, kind = node
        if kind == FLAT:
            return
        if kind in _NO_CONTENT:
            yield from self._edges_of_others(name, kind)
            return
        yield from self._back.get((name, UNKNOWN), ())
        info = self.records.get(name)
        if info is None:
            return
        document = self._read(info, kind)
        if document:
            for child in document.children:
                yield child, document.name
        if info.labels:
            told = {digest for digest, _ in document.children} if document else ()
            more = {key: value for key, value in info.labels.items() if value not in told}
            if more:
                yield from ((child, key) for key, child in referred(more, REF, REF_IMAGE))

    def _edges_of_others(self, name: str, kind: str) -> Iterator[Edge]:
        if kind == INGEST:
            if expected := self.ingests.get(name):
                yield (expected, UNKNOWN), "expected"
            return
        image = self.images.get(name)
        if kind == FLAT_IMAGE:
            if image:
                yield (image.target.digest, FLAT), "target"
            return
        yield from self._back.get((name, IMAGE), ())
        if image:
            yield (image.target.digest, kind_of(image.target.media_type)), "target"
            if _tells(image.labels):
                yield from ((child, key) for key, child in referred(image.labels, REF, REF_IMAGE))

    # --- what is reached ---

    def reached_from(self, roots: Iterable[Root]) -> set[Digest]:
        """The content of this namespace that would be kept if `roots` were its only ones."""
        self.mark()
        return self._recorded(self._walk(root.node for root in roots))

    def agree(self, other: Space) -> bool:
        """Whether what is kept is the same as in `other`, from what was found in the store alone: then
        nothing need be marked again.
        """
        return (
            self.name == other.name
            and self.records == other.records
            and self.images == other.images
            and self.ingests == other.ingests
            and self.roots == other.roots
            and self.held == other.held
            and self.expired_leases == other.expired_leases
        )

    def alive(self) -> set[Digest]:
        """The content of this namespace that is kept."""
        return self._recorded(self.mark())

    def expected(self) -> set[Digest]:
        """What ingests that are kept expect: objects of it are kept, recorded here or not."""
        refs = (name for name, kind in self.mark() if kind == INGEST)
        return {digest for ref in refs if (digest := self.ingests.get(ref))}

    def followed(self) -> set[str]:
        """The names of content that is reached and leads further, also of what is not there."""
        return _followed(self.mark())

    def dead_images(self) -> list[str]:
        """The images whose time is up and that nothing refers to."""
        marked = self.mark()
        return [
            name for name in self.images if (name, IMAGE) not in marked and (name, FLAT_IMAGE) not in marked
        ]

    def parts(self, digest: str) -> Iterator[str]:
        """The content that is led to by what is not `followed`, once `mark` has looked at it."""
        document = self._documents.known((digest, UNKNOWN))
        if document:
            yield from (child for child, _ in document.children)
        yield from (value for _, value in labelled(self.records[digest].labels, REF))

    def subjects(self, digest: str) -> Iterator[str]:
        """The content that what is not `followed` would live with, once `mark` has looked at it."""
        document = self._documents.known((digest, UNKNOWN))
        if document and document.subject:
            yield document.subject
        yield from (value for _, value in labelled(self.records[digest].labels, BACK))

    def _recorded(self, nodes: Iterable[Node]) -> set[Digest]:
        names = {name for name, kind in nodes if kind not in _NO_CONTENT}
        return {info.digest for name in names if (info := self.records.get(name))}

    def _walk(self, starts: Iterable[Node], marked: set[Node] | None = None) -> set[Node]:
        """Add to `marked` all that `starts` lead to, and themselves."""
        marked = set() if marked is None else marked
        todo = [node for node in starts if node not in marked]
        marked.update(todo)
        while todo:
            for node, _ in self.edges(todo.pop()):
                if node not in marked:
                    marked.add(node)
                    if node[1] != LEAF or self._may_lead_on(node[0]):
                        todo.append(node)
        return marked

    def _may_lead_on(self, name: str) -> bool:
        """Whether a leaf may have edges: most content is a leaf, and has none."""
        info = self.records.get(name)
        return bool(info and info.labels) or (name, UNKNOWN) in self._back

    def mark(self) -> set[Node]:
        """All that is reached, also what is not there. `edges` tells of subjects from then on."""
        if self._marked is None:
            marked = self._walk(root.node for root in self.roots)
            if self._documents.followed:  # the referrers that no label tells of
                self._walk(self._find_referrers(marked), marked)
            self._marked = marked
        return self._marked

    def _find_referrers(self, marked: set[Node]) -> list[Node]:
        """Read what is not reached, and make edges from subjects to their referrers. Returns the
        referrers that are reached that way.

        What a document calls a layer is not opened, so documents come first: those that labels tell,
        then what is small.
        """
        followed = _followed(marked)
        leaves = set[str]()
        documents = [  # `known` may be so from another namespace, which does not count
            (name, known)
            for name, kind in marked
            if kind != LEAF and name in self.records and (known := self._documents.known((name, kind)))
        ]
        unreached = [info for digest, info in self.records.items() if digest not in followed]
        unreached.sort(key=lambda info: (not any(labelled(info.labels, REF)), info.size))
        for info in unreached:
            if info.digest not in leaves and (document := self._read_unreached(info)):
                documents.append((info.digest, document))
                leaves.update(name for name, kind in document.children if kind == LEAF)
        found = []
        for name, document in documents:
            if document.subject:
                self._back.setdefault((document.subject, UNKNOWN), []).append(((name, UNKNOWN), "subject"))
                if document.subject in followed:
                    found.append((name, UNKNOWN))
        return found

    def _read_unreached(self, info: ContentInfo) -> Document | None:
        try:
            return self._read(info, UNKNOWN)
        except DataLoss as error:
            raise DataLoss(
                f"cannot tell what is garbage: {error.message}, and it may be about an image",
                hint=f"ingest it again, which heals it; or give it up with imgtool content rm {info.digest}",
            ) from None

    def _read(self, info: ContentInfo, kind: str) -> Document | None:
        try:
            return self._documents.read(self.content, info, kind)
        except NotFound:
            return None  # removed since it was listed


def spaces(
    store: Store,
    *,
    documents: Documents | None = None,
    without: Collection[tuple[str, str]] = (),
    on_error: OnError = None,
) -> list[Space]:
    """All namespaces of `store`, in the order of their names.

    Args:
        store: what to look at.
        documents: see `Space`.
        without: namespace and name of images that are to count as deleted.
        on_error: for records that cannot be read, see `imgtool.stores`.

    Raises:
        DataLoss: a record cannot be read.
    """
    documents = documents or Documents(store.settings.follow)
    now = clock.wall()
    names: dict[str, set[str]] = {}
    for namespace, image in without:
        names.setdefault(namespace, set()).add(image)
    return [
        Space(
            store,
            namespace.name,
            documents,
            now=now,
            without=names.get(namespace.name, ()),
            on_error=on_error,
        )
        for namespace in store.namespaces.list(on_error=on_error)
    ]


def _followed(marked: Iterable[Node]) -> set[str]:
    return {name for name, kind in marked if kind != FLAT and kind not in _NO_CONTENT}


def references(labels: Mapping[str, str], key: str = REF) -> Iterator[Digest]:
    """The digests in the labels `key`, `key.…` and `key/…`; what is no digest names nothing that there is."""
    for _, value in labelled(labels, key):
        try:
            yield Digest.parse(value)
        except InvalidArgument:
            continue


def referred(labels: Mapping[str, str], content: str, image: str) -> Iterator[tuple[str, Node]]:
    """The labels that refer, and what to: content by the key `content`, images by the key `image`."""
    for key, value in labelled(labels, content):
        yield key, (value, UNKNOWN)
    for key, value in labelled(labels, image):
        yield key, (value, IMAGE)


def _tells(labels: Mapping[str, str]) -> bool:
    """Whether any label may be for gc."""
    return any(key.startswith(_OURS) for key in labels)


def _only_refers(labels: Mapping[str, str]) -> bool:
    """Whether no label makes a root or a back reference, as those of most manifests."""
    return all(key.startswith(_REFERS) or not key.startswith(_OURS) for key in labels)


def labelled(labels: Mapping[str, str], key: str) -> Iterator[tuple[str, str]]:
    """The labels `key`, `key.…` and `key/…`."""
    end = len(key)
    for name, value in labels.items():
        if name.startswith(key) and name[end : end + 1] in ("", ".", "/"):
            yield name, value
