"""Stage the images of an archive, OCI or docker, in one pass forward: a pipe cannot be read twice.

Every regular member is staged under the digest that its bytes have, as it comes by; what it is called
only serves to find it. Judged is what has come, at the end; what nobody needs is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING

from imgtool.digest import ALGORITHMS, SHA256, Digest
from imgtool.errors import FailedPrecondition, InvalidArgument, NotFound
from imgtool.model import Descriptor, Platform, replace
from imgtool.oci import blob, compression, descriptor, docker, media, tar
from imgtool.oci.compression import Readable
from imgtool.oci.layout import IMAGE_NAME, REF_NAME, Root, check_version, roots_of
from imgtool.oci.references import parse_docker
from imgtool.oci.strictjson import LIMIT, load_object
from imgtool.oci.tar import Member, TarReader
from imgtool.ops import sources
from imgtool.ops.ingest_images import stage_images
from imgtool.ops.sources import Source
from imgtool.ops.staging import Staged, Wanted
from imgtool.stores import Ingester, Reader, Writer

if TYPE_CHECKING:
    from typing import Self

_LAYOUT, _INDEX = "oci-layout", "index.json"
# What describes the archive: kept in memory, and there once.
_METADATA = (_LAYOUT, _INDEX, docker.MANIFEST, "repositories")
_BLOB = re.compile(r"blobs/([^/]+)/([^/]+)")
_ONLY_ARCHIVES = re.compile(
    r"oci-layout|index\.json|manifest\.json|repositories|blobs(/.*)?"
    r"|(sha256:)?[0-9a-f]{64}(\.json|\.tar[.a-z0-9]*)?(/.*)?"
)
_REGISTRY = "docker/registry/v2"
_LINKS_MAX = 8


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
    except InvalidArgument:
        return  # cut off, or none


def stage_archive(
    content: Ingester, readable: Readable, source: Source, wanted: Wanted, progress: Callable[[int], None]
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
        if nameless and source.path == sources.STDIN and not wanted.names:
            raise InvalidArgument("the archive on stdin has an image without a name", hint="give --name")
        return stage_images(bundle, source, wanted)


class ArchiveBundle:
    """The members of an archive, staged: an `ingest_images.Bundle`. `with` drops what was not taken."""

    def __init__(
        self, content: Ingester, readable: Readable, source: Source, progress: Callable[[int], None]
    ) -> None:
        self._content = content
        self._what = source.what
        self._progress = progress
        self._metadata: dict[str, bytes] = {}
        self._members: dict[str, Digest] = {}
        self._links: dict[str, str | None] = {}
        self._other: dict[str, Digest] = {}  # what a blob's name says, and what its bytes are
        self._staged: dict[Digest, Writer] = {}
        self._by_digest = False  # docker's paths say nothing; OCI's do
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
            FailedPrecondition: what is called so has other bytes.
            InvalidArgument: what is called so is a link.
        """
        name = f"blobs/{digest.algorithm}/{digest.encoded}"
        if digest in self._staged and (self._by_digest or name in self._members):
            return True
        if digest in self._other:
            raise FailedPrecondition(
                f"content {digest} in {self._what} hashes to {self._other[digest]}",
                hint="the archive is damaged; copy it again",
            )
        if name in self._links:
            raise InvalidArgument(f"member '{name}' of {self._what} is a link, which a blob cannot be")
        return False

    def reader(self, digest: Digest) -> Reader:
        """See `stores.Provider`."""
        if not self.has(digest):
            raise NotFound(f"{self._what} has no blob {digest}")
        return self._staged[digest].reader()

    def take(self, wanted: Descriptor) -> Writer:
        """See `ingest_images.Bundle`."""
        if not self.has(wanted.digest):
            inline = descriptor.inline(wanted)
            if inline is None:
                raise NotFound(f"{self._what} has no blob {wanted.digest}")
            self._stage(inline, wanted.digest.algorithm)
        size = self._staged[wanted.digest].status().offset
        if size != wanted.size:
            raise FailedPrecondition(
                f"content {wanted.digest} in {self._what} has {size} bytes, expected {wanted.size}"
            )
        return self._staged.pop(wanted.digest)

    def close(self) -> None:
        for writer in self._staged.values():
            writer.close()
        self._staged.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
            self._add_content(name, member.size, reader)

    def _add_content(self, name: str, size: int, reader: TarReader) -> None:
        named = _BLOB.fullmatch(name)
        algorithm = named[1] if named and named[1] in ALGORITHMS else SHA256
        writer = self._content.stage(algorithm=algorithm)
        try:
            for chunk in reader.chunks():
                writer.write(chunk)
            digest = self._keep(writer)
        except BaseException:
            writer.close()
            raise
        self._progress(size)
        if named:
            self._compare(f"{named[1]}:{named[2]}", digest)
        elif self._members.get(name, digest) != digest:
            raise self._twice(name)
        self._members[name] = digest

    def _compare(self, said: str, digest: Digest) -> None:
        """Remember a blob whose name says something else than its bytes."""
        if said != digest:
            try:
                self._other[Digest.parse(said)] = digest
            except InvalidArgument:
                return  # no digest that a descriptor could have

    def _stage(self, data: bytes, algorithm: str = SHA256) -> Digest:
        writer = self._content.stage(algorithm=algorithm)
        writer.write(data)
        return self._keep(writer)

    def _keep(self, writer: Writer) -> Digest:
        writer.finish()
        digest = writer.digest()
        if digest in self._staged:
            writer.close()
        else:
            self._staged[digest] = writer
        return digest

    def _twice(self, name: str) -> InvalidArgument:
        return InvalidArgument(f"member '{name}' of {self._what} is there twice, with different content")

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
        self._by_digest = True
        what = f"'{docker.MANIFEST}' of {self._what}"
        if docker.MANIFEST not in self._metadata:
            if "repositories" in self._metadata or any(n.endswith("/layer.tar") for n in self._members):
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
        config = self._described(entry.config, media.DOCKER_CONFIG)
        layers = []
        for name in entry.layers:
            layer = self._described(name, docker.LAYER)
            with self._staged[layer.digest].reader() as reader:
                if compression.detect(reader.read_at(compression.HEAD, 0)):
                    layer = replace(layer, media_type=docker.LAYER_GZIP)
            layers.append(layer)
        raw = docker.manifest(config, layers)
        digest = self._stage(raw)
        platform = self._platform(config)
        return Descriptor(media.DOCKER_MANIFEST, digest, len(raw), platform=platform)

    def _described(self, path: str, media_type: str) -> Descriptor:
        """The descriptor of what `manifest.json` calls `path`, links followed among the members."""
        name = tar.normal_name(path)
        for _ in range(_LINKS_MAX):
            if name is None or name in self._members:
                break
            name = self._links.get(name)
        digest = self._members.get(name) if name else None
        if digest is None:
            raise InvalidArgument(f"{self._what} has no member '{path}', which '{docker.MANIFEST}' names")
        return Descriptor(media_type, digest, self._staged[digest].status().offset)

    def _platform(self, config: Descriptor) -> Platform | None:
        document = load_object(blob.read(self, config, wrong=FailedPrecondition), f"config {config.digest}")
        os, architecture, variant = (document.get(key) or "" for key in ("os", "architecture", "variant"))
        if not all(isinstance(text, str) for text in (os, architecture, variant)):
            raise InvalidArgument(f"config {config.digest} has a platform that is not text")
        return Platform(os=os, architecture=architecture, variant=variant) if os and architecture else None


def _called(target: Descriptor, name: str) -> Descriptor:
    """`target` with the annotations that containerd gives it for a name."""
    reference = parse_docker(name)
    tag = str(reference.digest or reference.tag)
    return replace(target, annotations={IMAGE_NAME: name, REF_NAME: tag})
