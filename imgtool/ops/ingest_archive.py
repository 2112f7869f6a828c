"""Stage the images of an archive, OCI or docker, in one pass forward: a pipe cannot be read twice.

Every regular member is kept under its name as it comes by, large ones staged, small ones in a spool;
a name only serves to find it. Judged is what has come, at the end; what nobody needs is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from imgtool.digest import ALGORITHMS, SHA256, Digest
from imgtool.errors import FailedPrecondition, InvalidArgument, NotFound
from imgtool.model import Descriptor, replace
from imgtool.oci import blob, compression, descriptor, docker, media, tar
from imgtool.oci.compression import Readable
from imgtool.oci.layout import IMAGE_NAME, REF_NAME, Root, check_version, roots_of
from imgtool.oci.references import parse_docker
from imgtool.oci.strictjson import LIMIT
from imgtool.oci.tar import Member, TarReader
from imgtool.ops import sources
from imgtool.ops.ingest_images import Land, stage_images
from imgtool.ops.sources import Source
from imgtool.ops.spool import KeptReader, Spool
from imgtool.ops.staging import Staged, Wanted
from imgtool.stores import Ingester, Reader, Writer

if TYPE_CHECKING:
    from typing import Self

_LAYOUT, _INDEX = "oci-layout", "index.json"
# What describes the archive: kept in memory, and there once.
_METADATA = (_LAYOUT, _INDEX, docker.MANIFEST, "repositories")
_BLOB = re.compile(r"blobs/([^/]+)/([^/]+)")
_SHA256_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_ONLY_ARCHIVES = re.compile(
    r"oci-layout|index\.json|manifest\.json|repositories|blobs(/.*)?"
    r"|(sha256:)?[0-9a-f]{64}(\.json|\.tar[.a-z0-9]*)?(/.*)?"
)
_REGISTRY = "docker/registry/v2"
_LINKS_MAX = 8
_SMALL = 16 << 10  # bytes of a member that goes to the spool
_SHOWN = 140  # characters of a foreign name in a message
_DAMAGED = "the archive is damaged; copy it again"


def is_archive(head: bytes, what: str) -> bool:
    """Whether `head`, the first bytes of a file, begin an archive of images: its first member is one
    that only those have. The root directory, which many tools write first, does not count.

    Args:
        what: names the file in messages.

    Raises:
        InvalidArgument: it is the packed storage folder of a registry, which is no archive of images
            although it holds some.
    """
    if len(head) < compression.HEAD:
        return False
    names = [name for name in islice(_first_names(head), 8) if name != "."]
    if any(name == _REGISTRY or name.startswith(f"{_REGISTRY}/") for name in names):
        raise InvalidArgument(
            f"{what} is the storage folder of a registry, packed; not an archive of images",
            hint="serve it with a registry, and copy the images from there; --as file keeps it as it is",
        )
    return bool(names) and _ONLY_ARCHIVES.fullmatch(names[0]) is not None


def _first_names(head: bytes) -> Iterator[str]:
    """The names of the members that begin in `head`; none if it is no tar archive."""
    try:
        for member in TarReader(compression.open_decompressed(compression.Prefixed(head))):
            yield tar.normal_name(member.name) or ""
            if member.size > len(head):
                return  # a few bytes may be decompressed to as many as one likes
    except InvalidArgument:
        return  # cut off, or none


def stage_archive(
    content: Ingester,
    readable: Readable,
    source: Source,
    wanted: Wanted,
    progress: Callable[[int], None],
    land: Land,
) -> Staged:
    """Stage the images of an archive, which may be compressed.

    Args:
        readable: its bytes, from the first on; they are read to the end.

    Raises:
        InvalidArgument: it is no archive of images, or malformed; it names no image, and neither
            does the source; and as `stage_images`.
    """
    with ArchiveBundle(content, readable, source, progress) as bundle:
        nameless = any(root.name is None for root in bundle.roots)
        if nameless and source.is_pipe and not wanted.names:
            raise InvalidArgument(
                f"the archive on {source.what} has an image without a name", hint="give --name"
            )
        return stage_images(bundle, source, wanted, land)


class _Found(NamedTuple):
    """What a docker archive's path stands for; its first bytes tell whether it is compressed."""

    digest: Digest
    size: int
    head: bytes


class ArchiveBundle:
    """The members of an archive: an `ingest_images.Bundle`. `with` drops what was not taken."""

    def __init__(
        self, content: Ingester, readable: Readable, source: Source, progress: Callable[[int], None]
    ) -> None:
        self._content = content
        self._what = source.what
        self._progress = progress
        self._spool = Spool()
        self._metadata: dict[str, bytes] = {}
        # By the key of its name: staged, or its place in the spool; None once it is taken.
        self._held: dict[str | bytes, Writer | int | None] = {}
        self._links: dict[str, str | None] = {}
        self._called: dict[Digest, str] = {}  # where docker's paths lead, which state no digest
        self._found: dict[str, _Found] = {}
        self._configs: dict[Digest, docker.Config] = {}
        try:
            reader = TarReader(compression.open_decompressed(readable, self._what), self._what)
            for member in reader:
                self._add(member, reader)
            self.roots = self._roots(source.kind)
        except BaseException:
            self.close()
            raise

    def has(self, digest: Digest) -> bool:
        """See `ingest_images.Bundle`.

        Raises:
            InvalidArgument: what is called so is a link.
        """
        name = self._name(digest)
        there = _key(name) in self._held
        if not there and name in self._links:
            raise InvalidArgument(f"member '{name}' of {self._what} is a link, which a blob cannot be")
        return there

    def reader(self, digest: Digest) -> Reader:
        """See `stores.Provider`."""
        held = self._get(digest)
        return KeptReader(self._spool.get(held)) if isinstance(held, int) else held.reader()

    def take(self, wanted: Descriptor) -> Writer:
        """See `ingest_images.Bundle`."""
        writer = self._taken(wanted)
        try:
            size, found = writer.status().offset, writer.digest()
            if found != wanted.digest:
                raise self._wrong(wanted.digest, found)
            if size != wanted.size:
                raise FailedPrecondition(
                    f"content {wanted.digest} in {self._what} has {size} bytes, expected {wanted.size}"
                )
        except BaseException:
            writer.close()
            raise
        return writer

    def close(self) -> None:
        for held in self._held.values():
            if held is not None and not isinstance(held, int):
                held.close()
        self._held.clear()
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The pass over the archive

    def _add(self, member: Member, reader: TarReader) -> None:
        name = tar.normal_name(member.name)
        if name is None:
            return  # nothing inside the archive could mean it
        if member.kind in (tar.SYMLINK, tar.HARD_LINK):
            self._links[name] = tar.link_target(member)
        elif member.kind != tar.FILE:
            return
        elif name in _METADATA:
            data = reader.read(LIMIT)
            if self._metadata.setdefault(name, data) != data:
                raise self._twice(name)
        else:
            self._hold(name, member.size, reader)

    def _hold(self, name: str, size: int, reader: TarReader) -> None:
        stated, algorithm = _stated(name)
        new: Writer | int
        if size <= _SMALL:
            new = self._spool.add(reader.read(_SMALL))
            self._progress(size)
        else:
            new = self._stage(map(self._told, reader.chunks()), algorithm)
        key = _key(name)
        old = self._held.setdefault(key, new)
        if old is new or old is None:
            return
        # A blob there twice is judged by its digest, anything else must be the same.
        digests = self._digest(old, algorithm), self._digest(new, algorithm)
        kept, dropped = (new, old) if digests[1] == stated else (old, new)
        self._held[key] = kept
        if not isinstance(dropped, int):
            dropped.close()
        if digests[0] != digests[1] and stated is None:
            raise self._twice(name)

    def _told(self, chunk: memoryview) -> memoryview:
        self._progress(len(chunk))
        return chunk

    def _stage(self, data: Iterable[bytes | memoryview], algorithm: str) -> Writer:
        writer = self._content.stage(algorithm=algorithm)
        try:
            for chunk in data:
                writer.write(chunk)
            writer.finish()
        except BaseException:
            writer.close()
            raise
        return writer

    def _digest(self, held: Writer | int, algorithm: str) -> Digest:
        return Digest.of(self._spool.get(held), algorithm) if isinstance(held, int) else held.digest()

    # What has come

    def _name(self, digest: Digest) -> str:
        return self._called.get(digest) or f"blobs/{digest.algorithm}/{digest.encoded}"

    def _get(self, digest: Digest) -> Writer | int:
        held = self._held[_key(self._name(digest))] if self.has(digest) else None
        if held is None:
            raise NotFound(f"{self._what} has no blob {digest}")
        return held

    def _taken(self, wanted: Descriptor) -> Writer:
        data = descriptor.inline(wanted)
        if data is None:
            held = self._get(wanted.digest)
            self._held[_key(self._name(wanted.digest))] = None
            if not isinstance(held, int):
                return held
            data = self._spool.get(held)
        return self._stage([data], wanted.digest.algorithm)

    def _roots(self, kind: str) -> Sequence[Root]:
        there = self._metadata
        if kind == sources.DOCKER_ARCHIVE or (kind != sources.OCI_ARCHIVE and _LAYOUT not in there):
            return self._docker_roots()
        for name in (_LAYOUT, _INDEX):
            if name not in there:
                raise InvalidArgument(f"{self._what} is no OCI archive: it has no member '{name}'")
        check_version(there[_LAYOUT], self._what)
        roots = roots_of(there[_INDEX], f"'{_INDEX}' of {self._what}")
        if not roots and kind != sources.OCI_ARCHIVE and docker.MANIFEST in there:
            return self._docker_roots()  # docker writes both, and some leave the index empty
        return roots

    def _docker_roots(self) -> Sequence[Root]:
        what = f"'{docker.MANIFEST}' of {self._what}"
        if docker.MANIFEST not in self._metadata:
            if "repositories" in self._metadata or any(str(key).endswith("/layer.tar") for key in self._held):
                raise InvalidArgument(
                    f"{self._what} has only the format of docker before 1.10, which imgtool does not read",
                    hint="load it with a docker of its time, and save it again with a newer one",
                )
            raise InvalidArgument(
                f"{self._what} is no archive of images: it has neither '{_LAYOUT}' nor '{docker.MANIFEST}'"
            )
        roots = []
        for entry in docker.parse_entries(self._metadata[docker.MANIFEST], what):
            target = self._docker_target(entry)
            roots += [Root(_called(target, name), name) for name in entry.names] or [Root(target, None)]
        return roots

    def _docker_target(self, entry: docker.Entry) -> Descriptor:
        found = self._find(entry.config)
        config = Descriptor(media.DOCKER_CONFIG, found.digest, found.size)
        parsed = self._config(config)
        stated = parsed.diff_ids or (None,) * len(entry.layers)
        if len(stated) != len(entry.layers):
            raise InvalidArgument(
                f"config {config.digest} in {self._what} has {len(stated)} layers, "
                f"'{docker.MANIFEST}' lists {len(entry.layers)}"
            )
        layers = []
        for path, diff_id in zip(entry.layers, stated, strict=True):
            layer = self._find(path)
            # The archive states no other digest of its layers.
            if diff_id not in (None, layer.digest) and not compression.detect(layer.head):
                raise self._wrong(diff_id or "", layer.digest)
            layers.append(Descriptor(docker.layer_type(layer.head), layer.digest, layer.size))
        raw = docker.manifest(config, layers)
        if len(raw) > LIMIT:
            raise InvalidArgument(
                f"the manifest of an image with {len(layers)} layers has {len(raw)} bytes, "
                f"at most {LIMIT} are read"
            )
        digest = Digest.of(raw)
        self._held.setdefault(_key(self._name(digest)), self._spool.add(raw))
        return Descriptor(media.DOCKER_MANIFEST, digest, len(raw), platform=parsed.platform)

    def _config(self, config: Descriptor) -> docker.Config:
        if config.digest not in self._configs:
            raw = blob.read(self, config, wrong=FailedPrecondition)
            self._configs[config.digest] = docker.parse_config(raw, f"config {config.digest}")
        return self._configs[config.digest]

    def _find(self, path: str) -> _Found:
        """What `manifest.json` calls `path`, links followed among the members."""
        name = tar.normal_name(path)
        for _ in range(_LINKS_MAX):
            if name is None or _key(name) in self._held:
                break
            name = self._links.get(name)
        held = self._held.get(_key(name)) if name else None
        if name is None or held is None:
            raise InvalidArgument(
                f"{self._what} has no member '{path[:_SHOWN]}', which '{docker.MANIFEST}' names"
            )
        if name not in self._found:
            self._found[name] = self._look(name, held)
        return self._found[name]

    def _look(self, name: str, held: Writer | int) -> _Found:
        stated, algorithm = _stated(name)
        digest = self._digest(held, algorithm)
        if stated not in (None, digest):
            raise self._wrong(stated or "", digest)
        self._called[digest] = name
        with self.reader(digest) as reader:
            return _Found(digest, reader.size, reader.read_at(compression.HEAD, 0))

    def _wrong(self, stated: str, found: Digest) -> FailedPrecondition:
        return FailedPrecondition(
            f"content {stated[:_SHOWN]} in {self._what} hashes to {found}", hint=_DAMAGED
        )

    def _twice(self, name: str) -> InvalidArgument:
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
        return InvalidArgument(f"member '{shown}' of {self._what} is there twice, with different content")


def _key(name: str) -> str | bytes:
    """What a member is kept under: the bytes of its digest take half as much memory as a blob's name."""
    found = _SHA256_BLOB.fullmatch(name)
    return bytes.fromhex(found[1]) if found else name


def _stated(name: str) -> tuple[str | None, str]:
    """The digest that the name of a blob states, and the algorithm to hash it with; None if it is no blob."""
    found = _BLOB.fullmatch(name)
    if found is None or found[1] not in ALGORITHMS:
        return None, SHA256
    return f"{found[1]}:{found[2]}", found[1]


def _called(target: Descriptor, name: str) -> Descriptor:
    """`target` with the annotations that containerd gives it for a name."""
    reference = parse_docker(name)
    tag = str(reference.digest or reference.tag)
    return replace(target, annotations={IMAGE_NAME: name, REF_NAME: tag})
