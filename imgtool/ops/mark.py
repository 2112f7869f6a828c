"""What is kept: the roots of a namespace, and what leads from one thing to the next.

The rules are containerd's (`core/metadata/gc.go`): everything within one namespace, roots from
images, leases, ingests and labels, edges from labels. Beyond those, unless the store's settings say
`follow = "labels"`, manifests and indexes are read here, so that an image without labels keeps its
parts, and a manifest with a `subject` lives as long as its subject.

As in containerd an edge may lead to what is not there; what refers back to that is reached all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import DataLoss
from imgtool.names import is_expired, is_past
from imgtool.ops.documents import LEAF, UNKNOWN, Document, Documents, kind_of
from imgtool.ops.labels import (
    BACK,
    BACK_IMAGE,
    FLAT_LABEL,
    IMAGE,
    REF,
    REF_IMAGE,
    ROOT,
    labelled,
    only_refers,
    referred,
)
from imgtool.ops.recorded import Recorded

if TYPE_CHECKING:
    from imgtool.stores import ContentStore, OnError, Store

# What a node is, where it is no content that is followed.
INGEST = "ingest"
FLAT = "flat"
FLAT_IMAGE = "flat image"
_NO_CONTENT = frozenset({IMAGE, FLAT_IMAGE, INGEST})
_NOT_FOLLOWED = _NO_CONTENT | {FLAT}

Node = tuple[str, str]
"""What gc goes through. First its name: a digest, the name of an image, the ref of an ingest. Then how
it is followed: IMAGE, INGEST, FLAT (content that is kept and not followed), FLAT_IMAGE (an image whose
target is), or of other content what is known of it before it is opened (see `ops.documents`).
"""

Marked = dict[str, set[str]]
"""The names of nodes, by their kind."""

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
        content = store.content(name)
        self.recorded = Recorded(content, documents, on_error)
        targets = store.images(name).targets(on_error=on_error)
        self.images = {n: targets[n] for n in targets if n not in without} if without else targets
        self.ingests: dict[str, Digest | None] = {}
        self.roots: list[Root] = []
        self.expired_leases: list[str] = []
        self.held: set[str] = set()  # ingests, by leases
        self._documents = documents
        self._back: dict[Node, list[Edge]] = {}
        self._marked: Marked | None = None
        self._unreached: set[Digest] = set()  # once marked: by roots alone, or kept without being followed
        self._find_roots(store, content, clock.wall() if now is None else now, on_error)

    def _find_roots(self, store: Store, content: ContentStore, now: int, on_error: OnError) -> None:
        for name, image in self.images.items():
            node = name, IMAGE
            if not (image.labels and is_expired(image.labels, now)):
                self.roots.append(Root("image", name, node))
            if image.labels:
                self._refers_back(node, image.labels)
        for digest, labels in self.recorded.labels.items():
            if not only_refers(labels):
                node = digest, UNKNOWN
                self._refers_back(node, labels)
                self.roots += (Root("label", key, node) for key, _ in labelled(labels, ROOT))
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
        for status in content.statuses():
            self.ingests[status.ref] = status.expected
            if status.expires is not None and not is_past(status.expires, now):
                self.roots.append(Root("ingest", status.ref, (status.ref, INGEST)))

    def _refers_back(self, node: Node, labels: Mapping[str, str]) -> None:
        for key, parent in referred(labels, BACK, BACK_IMAGE):
            self._back.setdefault(parent, []).append((node, key))

    # --- where things lead ---

    def edges(self, node: Node) -> list[Edge]:
        """Where `node` leads; nowhere, if it is not there and nothing refers back to it."""
        name, kind = node
        if kind in _NOT_FOLLOWED:
            return self._edges_of_others(name, kind)
        document = self.recorded.document(name, kind)
        children = [(child, document.name) for child in document.children] if document else []
        labels = (
            self.recorded.labels_of(name)
            if any(self.recorded.only_labelled(node, document))
            else self.recorded.labels.get(cast(Digest, name))
        )
        return [*self._back.get((name, UNKNOWN), ()), *children, *_labelled_edges(labels, document)]

    def _leads_to(self, node: Node) -> tuple[Document | None, list[Node]]:
        """As `edges`, without what makes them, and with the document instead of those that it makes."""
        name, kind = node
        if kind == IMAGE and not self._back:  # most images have nothing but a target
            image = self.images.get(name)
            if image and not image.labels:
                return None, [(image.digest, kind_of(image.media_type))]
        if kind in _NOT_FOLLOWED:
            return None, [following for following, _ in self._edges_of_others(name, kind)]
        document = self.recorded.document(name, kind)
        edges = _labelled_edges(self.recorded.labels.get(cast(Digest, name)), document)
        following = [child for child, _ in edges] if edges else []
        following += ((digest, UNKNOWN) for digest in self.recorded.only_labelled(node, document))
        if self._back:
            following += (child for child, _ in self._back.get((name, UNKNOWN), ()))
        return document, following

    def _edges_of_others(self, name: str, kind: str) -> list[Edge]:
        if kind == INGEST:
            expected = self.ingests.get(name)
            return [((expected, UNKNOWN), "expected")] if expected else []
        image = self.images.get(name)
        if kind != IMAGE:
            return [((image.digest, FLAT), "target")] if image and kind == FLAT_IMAGE else []
        edges = [*self._back.get((name, IMAGE), ())] if self._back else []
        if image:
            edges.append(((image.digest, kind_of(image.media_type)), "target"))
            if image.labels:
                edges += ((child, key) for key, child in referred(image.labels, REF, REF_IMAGE))
        return edges

    # --- what is reached ---

    def agree(self, other: Space) -> bool:
        """Whether what is kept is the same as in `other`, from what was found in the store alone: then
        nothing need be marked again.
        """
        return (
            self.name == other.name
            and self.recorded.agrees(other.recorded)
            and self.images == other.images
            and self.ingests == other.ingests
            and self.roots == other.roots
            and self.held == other.held
            and self.expired_leases == other.expired_leases
        )

    def dead(self) -> set[Digest]:
        """The content of this namespace that is not kept."""
        marked = self.mark()
        return _unmarked(self._unreached, marked, _NO_CONTENT)

    def expected(self) -> set[Digest]:
        """What ingests that are kept expect: objects of it are kept, recorded here or not."""
        return {digest for ref in self.mark().get(INGEST, ()) if (digest := self.ingests.get(ref))}

    def followed(self) -> set[str]:
        """The names of content that is reached and leads further, also of what is not there."""
        return _content(self.mark(), _NOT_FOLLOWED)

    def dead_images(self) -> list[str]:
        """The images whose time is up and that nothing refers to."""
        marked = self.mark()
        dead = self.images.keys() - marked.get(IMAGE, set()) - marked.get(FLAT_IMAGE, set())
        return [name for name in self.images if name in dead] if dead else []

    def nodes(self) -> Iterator[Node]:
        """All that is reached, also what is not there."""
        return ((name, kind) for kind, names in self.mark().items() for name in names)

    def _walk(self, starts: Iterable[Node], marked: Marked | None = None) -> Marked:
        """Add to `marked` all that `starts` lead to, and themselves: step by step away from them."""
        marked = {} if marked is None else marked
        leaves = marked.setdefault(LEAF, set())
        leading = {*self.recorded.leading(), *(name for name, _ in self._back)}  # more than a leaf does
        step = list(starts)
        while step:
            new = []
            for node in step:
                name, kind = node
                known = marked.get(kind)
                if known is None:
                    known = marked[kind] = set()
                if name not in known:
                    known.add(name)
                    if kind != LEAF or name in leading:
                        new.append(node)
            self.recorded.read_ahead(new)
            step = []
            for node in new:
                document, following = self._leads_to(node)
                step += following
                if document and (document.kinds or not leading.isdisjoint(document.digests)):
                    step += document.children
                elif document:  # most are of leaves alone
                    leaves.update(document.digests)
        return marked

    def mark(self) -> Marked:
        """All that is reached, also what is not there. `edges` tells of subjects from then on."""
        if self._marked is None:
            marked = self._walk(root.node for root in self.roots)
            self._unreached = _unmarked(set(self.recorded.sizes), marked, _NOT_FOLLOWED)
            if self._documents.followed and (referrers := self._find_referrers(marked)):
                self._walk(referrers, marked)  # that no label tells of
            self._marked = marked
        return self._marked

    def _find_referrers(self, marked: Marked) -> list[Node]:
        """Read what is not reached, and make edges from subjects to their referrers. Returns the
        referrers whose subject is in `marked`.

        What a document calls a layer is not opened, so documents come first: those that labels tell,
        then what is small.
        """
        referrers: dict[str, Digest] = {  # also those that were read for another namespace
            name: subject
            for (name, kind), subject in self._documents.referrers.items()
            if name in marked.get(kind, ()) and name in self.recorded.sizes
        }
        referrers.update(self.recorded.referrers())
        leaves = set[str]()
        recorded = self.recorded
        for _, _, digest in sorted(
            (not recorded.is_labelled(digest), recorded.sizes[digest], digest) for digest in self._unreached
        ):
            if digest not in leaves and (document := self._read_unreached(digest)):
                leaves.update(document.leaves)
                if document.subject:
                    referrers[digest] = document.subject
        new = _unmarked(set(referrers.values()), marked, _NOT_FOLLOWED)
        for name, subject in referrers.items():
            self._back.setdefault((subject, UNKNOWN), []).append(((name, UNKNOWN), "subject"))
        return [(name, UNKNOWN) for name, subject in referrers.items() if subject not in new]

    def _read_unreached(self, digest: Digest) -> Document | None:
        try:
            return self.recorded.document(digest, UNKNOWN)
        except DataLoss as error:
            raise DataLoss(
                f"cannot tell what is garbage: {error.message}, and it may be about an image",
                hint=f"ingest it again, which heals it; or give it up with imgtool content rm {digest}",
            ) from None


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


def _unmarked(names: set[Digest], marked: Marked, without: Collection[str]) -> set[Digest]:
    """Those of `names` that are not marked, but for the kinds `without`."""
    for kind, found in marked.items():
        if names and kind not in without:
            names = names - cast("set[Digest]", found)
    return names


def _content(marked: Marked, without: Collection[str]) -> set[str]:
    """The names of content that is marked, but for the kinds `without`."""
    return set().union(*(names for kind, names in marked.items() if kind not in without))


def _labelled_edges(labels: Mapping[str, str] | None, document: Document | None) -> list[Edge]:
    """What the labels of content tell that its document does not."""
    if not labels or (document and document.digests == [*labels.values()]):
        return []
    told = set(document.digests) if document else set()
    if told.issuperset(labels.values()):
        return []
    more = {key: value for key, value in labels.items() if value not in told}
    return [(child, key) for key, child in referred(more, REF, REF_IMAGE)]
