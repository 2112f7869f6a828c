"""What goes out when images are exported: which content, and under which digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from imgtool.digest import ALGORITHMS, BLAKE3, SHA256, Digest, new_hasher
from imgtool.errors import DataLoss, InvalidArgument, NotFound
from imgtool.model import Descriptor, Image, Platform, replace
from imgtool.oci import descriptor, graph, media, platforms
from imgtool.oci.manifest import Manifest
from imgtool.oci.strictjson import LIMIT
from imgtool.oci.tar import MEMBERS_MAX
from imgtool.ops import export_documents as documents
from imgtool.ops import sources

if TYPE_CHECKING:
    from imgtool.stores import ContentStore, Reader

HEALED = "ingest the content again: that heals it"

_CHUNK = 1 << 20
_NAMED_AT_MOST = 5  # digests in a message
_DIRECTORIES_MAX = 1 + len(ALGORITHMS)


class Object(NamedTuple):
    """Bytes of the store: `name` is the digest under which it has them, `digest` the one under which they
    go out.
    """

    name: Digest
    digest: Digest


class Member(NamedTuple):
    """What goes out at a path: a directory where that ends with a slash, an object of the store, or the
    bytes `data`.
    """

    path: str
    size: int = 0
    data: bytes = b""
    object: Object | None = None


class Exported(NamedTuple):
    """One line of the result: an image, and the digest under which it goes out."""

    digest: Digest
    name: str
    size: int


@dataclass
class Parcel:
    """All that goes out together.

    `objects` are digests and sizes. What the store does not have under its digest is in `made`, or it
    has it under the one in `other`. `notes` and `warnings` are for the user.
    """

    images: list[Exported] = field(default_factory=list)
    documents: dict[str, bytes] = field(default_factory=dict)
    objects: dict[Digest, int] = field(default_factory=dict)
    made: dict[Digest, bytes] = field(default_factory=dict)
    other: dict[Digest, Digest] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def members(self) -> Iterator[Member]:
        """The files in the order of an archive: what describes it, then the blobs by digest."""
        for path, data in self.documents.items():
            yield Member(path, len(data), data)
        yield Member("blobs/")
        algorithm = ""
        for digest in sorted(self.objects):
            if digest.algorithm != algorithm:
                algorithm = digest.algorithm
                yield Member(f"blobs/{algorithm}/")
            path, size = documents.blob_path(digest), self.objects[digest]
            if digest in self.made:
                yield Member(path, size, self.made[digest])
            else:
                yield Member(path, size, object=Object(self.other.get(digest, digest), digest))


def plan(content: ContentStore, images: Sequence[Image], kind: str, platform: Platform | None) -> Parcel:
    """Find out what goes out for `images`. Reads documents, and of plain files those that the store has
    under a digest which does not leave it.

    Args:
        images: each name once, in the order in which they are listed.
        kind: oci, oci-archive or docker-archive.
        platform: leave out the manifests that say they are for another.

    Raises:
        DataLoss: something is missing that should be there, or is damaged or malformed.
        NotFound: an image has no manifest for the platform.
        InvalidArgument: an image or its name does not go into an archive of that kind, or they are too
            many for one.
    """
    found = _Plan(content, images, platform)
    parcel = found.parcel
    for_docker = b""
    if kind == sources.DOCKER_ARCHIVE:
        chosen = ((image.name, found.for_docker(image)) for image in images)
        for_docker = documents.docker_manifest(chosen)
    roots = [(image.name, found.root(image)) for image in images]
    parcel.images = [Exported(root.digest, name, root.size) for name, root in roots]
    parcel.documents = {"oci-layout": documents.LAYOUT, "index.json": documents.index(roots)}
    if for_docker:
        parcel.documents["manifest.json"] = for_docker
    for image in images:
        found.collect(image)
        _check_extent(parcel, kind)
    found.tell()
    return parcel


class _Plan:
    def __init__(self, content: ContentStore, images: Sequence[Image], platform: Platform | None) -> None:
        self.parcel = Parcel()
        self._content = content
        self._platform = platform
        self._collected: set[tuple[Digest, str]] = set()
        self._absent: list[Digest] = []
        self._blake3: list[Digest] = []
        self._sha256: dict[Digest, Digest] = {}
        for image in images:
            if not self._has(image.target.digest):
                raise DataLoss(f"image '{image.name}': target {image.target.digest} is missing", hint=HEALED)
        self._excluded = self._for_others(images, platform) if platform else frozenset()

    def for_docker(self, image: Image) -> Manifest:
        """The one manifest that an image means to docker.

        Raises:
            NotFound: it has several, and none for the platform.
        """
        with _damage(image):
            target = self._best(image) if media.is_index(image.target.media_type) else image.target
            return graph.open_manifest(self._content, target) or Manifest(target.media_type)

    def root(self, image: Image) -> Descriptor:
        """The target of an image as it goes out: a manifest or index, under a digest that others know.

        Raises:
            DataLoss: it is damaged, or of another size.
        """
        target = image.target
        if media.has_children(target.media_type):
            return self._renamed(target)
        file = self._renamed(Descriptor(target.media_type, target.digest, target.size))
        self.parcel.objects[file.digest] = file.size
        self._make(documents.EMPTY)
        raw = documents.artifact(file, image.name)
        return replace(
            target,
            media_type=media.OCI_MANIFEST,
            digest=self._make(raw),
            size=len(raw),
            artifact_type=file.media_type,
            urls=(),
            data=None,
        )

    def collect(self, image: Image) -> None:
        """Find all content that the target of an image reaches, once the roots of all are known.

        Raises:
            DataLoss: some is missing, and not by choice.
        """
        target = image.target
        done = target.digest, target.media_type
        if done in self._collected or not media.has_children(target.media_type):
            return
        self._collected.add(done)
        missing: list[Digest] = []
        with _damage(image):
            for node in graph.walk(self._content, [target], self._goes_out):
                if node.present:
                    self._add(node)
                elif node.descriptor.digest not in self._excluded:
                    (self._absent if node.optional else missing).append(node.descriptor.digest)
        if missing:
            raise DataLoss(f"image '{image.name}': {_listed(missing)} missing from the store", hint=HEALED)

    def tell(self) -> None:
        """Say what the user should know of what was collected."""
        notes = {"absent by choice": self._absent, "for other platforms": sorted(self._excluded)}
        for why, digests in notes.items():
            if digests:
                self.parcel.notes.append(f"not exported, {why}: {_listed(digests)}")
        if self._blake3:
            self.parcel.warnings.append(f"other tools do not know blake3 digests: {_listed(self._blake3)}")

    def _add(self, node: graph.Node) -> None:
        d, parcel = node.descriptor, self.parcel
        if node.depth or d.digest.algorithm != BLAKE3:
            parcel.objects[d.digest] = d.size
            if d.digest.algorithm == BLAKE3:
                self._blake3.append(d.digest)
        inline = descriptor.inline(d)
        if inline is not None and not self._has(d.digest):
            parcel.made[d.digest] = inline

    def _for_others(self, images: Sequence[Image], platform: Platform) -> frozenset[Digest]:
        """The manifests that are not for the platform.

        Raises:
            NotFound: an image has none that is.
        """
        fitting, others = set[Digest](), set[Digest]()
        for image in images:
            if not media.has_children(image.target.media_type):
                continue
            any_fits = False
            with _damage(image):
                for d in self._manifests(image.target):
                    fits = _fits(image.target, platform) and _fits(d, platform)
                    (fitting if fits else others).add(d.digest)
                    any_fits |= fits and self._is_there(d)
            if not any_fits:
                wanted = platforms.format(platform)
                raise NotFound(f"image '{image.name}' has no manifest for platform '{wanted}'")
        return frozenset(others - fitting)

    def _best(self, image: Image) -> Descriptor:
        """The manifest of an index that suits the platform best, or the only one."""
        candidates = [
            (d, self._runs_on(d))
            for d in self._manifests(image.target)
            if d.digest not in self._excluded and self._is_there(d)
        ]
        candidates = [(d, p) for d, p in candidates if "unknown" not in (p.os, p.architecture)]
        order = platforms.only(self._platform or platforms.host())
        fitting = [(d, p) for d, p in candidates if not p.os or order.accepts(p)]
        if len(candidates) == 1:
            fitting = candidates
        if not fitting:
            wanted = platforms.format(self._platform or platforms.host())
            there = ", ".join(sorted({platforms.format(p) for _, p in candidates}))
            raise NotFound(
                f"image '{image.name}' has no manifest for platform '{wanted}', and docker takes one of it",
                hint=f"choose one with --platform: {there}" if there else None,
            )
        best = order.sorted(p for _, p in fitting)[0]
        return next(d for d, p in fitting if p == best)

    def _runs_on(self, d: Descriptor) -> Platform:
        """What a manifest runs on, by its descriptor or else its config; empty if neither says."""
        if d.platform:
            return platforms.normalize(d.platform)
        found = graph.image_platforms(self._content, d)
        return platforms.parse(found[0]) if found else Platform()

    def _manifests(self, target: Descriptor) -> Iterator[Descriptor]:
        """Every manifest that `target` is or lists, as often as indexes do. Reads nothing but indexes."""
        if not media.is_index(target.media_type):
            yield target
            return
        indexes = {target.digest}
        for node in graph.walk(self._content, [target], lambda d: d in indexes and self._has(d)):
            for child in node.manifest.manifests if node.manifest else ():
                if media.is_index(child.media_type):
                    indexes.add(child.digest)
                elif media.is_manifest(child.media_type):
                    yield child

    def _goes_out(self, digest: Digest) -> bool:
        return digest not in self._excluded and self._has(digest)

    def _is_there(self, d: Descriptor) -> bool:
        return d.data is not None or self._has(d.digest)

    def _has(self, digest: Digest) -> bool:
        try:
            self._content.info(digest)
        except NotFound:
            return False
        return True

    def _renamed(self, target: Descriptor) -> Descriptor:
        """`target` under a digest that leaves the store: sha256 in the place of blake3."""
        if target.digest.algorithm != BLAKE3:
            return target
        with self._content.reader(target.digest) as reader:
            check_size(target.digest, reader.size, target.size)
            if target.digest not in self._sha256:
                self._sha256[target.digest] = _hashed_anew(reader, target.digest)
        digest = self._sha256[target.digest]
        self.parcel.objects[digest] = target.size
        self.parcel.other[digest] = target.digest
        return replace(target, digest=digest)

    def _make(self, data: bytes) -> Digest:
        """Add a blob that the store does not have."""
        digest = Digest.of(data)
        self.parcel.objects[digest] = len(data)
        self.parcel.made[digest] = data
        return digest


def _hashed_anew(reader: Reader, digest: Digest) -> Digest:
    """The sha256 of an object that is called `digest`.

    Raises:
        DataLoss: it is another object.
    """
    known, wanted = new_hasher(digest.algorithm), new_hasher(SHA256)
    while data := reader.read(_CHUNK):
        known.update(data)
        wanted.update(data)
    check_digest(digest, Digest.from_hasher(digest.algorithm, known), digest)
    return Digest.from_hasher(SHA256, wanted)


@contextmanager
def _damage(image: Image) -> Iterator[None]:
    """Say of what is wrong with a document that the store is damaged, and which image has it."""
    try:
        yield
    except (DataLoss, InvalidArgument) as error:
        raise DataLoss(f"image '{image.name}': {error.message}", hint=error.hint) from None


def _fits(d: Descriptor, platform: Platform) -> bool:
    return d.platform is None or platforms.matches(platform, platforms.normalize(d.platform))


def check_size(name: Digest, found: int, expected: int) -> None:
    """
    Raises:
        DataLoss: an object has another size.
    """
    if found != expected:
        raise DataLoss(f"object '{name}' has {found} bytes, expected {expected}", hint=HEALED)


def check_digest(name: Digest, found: Digest, expected: Digest) -> None:
    """
    Raises:
        DataLoss: the bytes of an object are others.
    """
    if found != expected:
        raise DataLoss(f"object '{name}' hashes to {found}, expected {expected}", hint=HEALED)


def _check_extent(parcel: Parcel, kind: str) -> None:
    """Refuse what would be written and never read: imgtool itself has these limits."""
    size = len(parcel.documents["index.json"])
    count = len(parcel.documents) + len(parcel.objects) + _DIRECTORIES_MAX
    if size > LIMIT or (kind != sources.LAYOUT and count > MEMBERS_MAX):
        raise InvalidArgument(
            f"so many images have an index.json of {size} bytes and {count} files or more; "
            f"at most {LIMIT} and {MEMBERS_MAX} are read",
            hint="export fewer at once",
        )


def _listed(digests: Sequence[Digest]) -> str:
    some = list(dict.fromkeys(digests))
    more = f" and {len(some) - _NAMED_AT_MOST} more" if len(some) > _NAMED_AT_MOST else ""
    return ", ".join(some[:_NAMED_AT_MOST]) + more
