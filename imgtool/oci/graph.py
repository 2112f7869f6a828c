"""What a descriptor stands for: everything that it reaches, walked without recursion.

Documents come from outside, so the walk is bounded in depth and number and visits nothing twice
(FAULTS T13). It reads manifests and indexes and, for platforms, configs; never a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from imgtool.digest import Digest
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument, NotFound
from imgtool.model import EMPTY, Descriptor, Platform
from imgtool.oci import blob, descriptor, media, platforms
from imgtool.oci.manifest import Manifest, parse
from imgtool.oci.strictjson import LIMIT, load_object

if TYPE_CHECKING:
    from imgtool.stores import Provider

DEPTH_MAX = 32
COUNT_MAX = 100_000

Present = Callable[[Digest], bool]
Opened = Mapping[tuple[Digest, str], Manifest]


class Node(NamedTuple):
    """A descriptor where the walk met it first.

    `present`: its content is there, or inline in the descriptor. `optional`: it may be absent by
    choice. `manifest`: what it says, where it is present and has children.
    """

    descriptor: Descriptor
    depth: int
    parent: Digest | None
    present: bool
    optional: bool
    manifest: Manifest | None = None


class Gaps:
    """What a walk tells of as not there."""

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self._absent: dict[Digest, bool] = {}
        for node in nodes:
            self.add(node)

    def add(self, node: Node) -> None:
        """Count `node` in."""
        digest = node.descriptor.digest
        if not node.present:
            self._absent[digest] = node.optional and self._absent.get(digest, True)

    def missing(self) -> list[Digest]:
        """What is absent and must not be, each once: the graph is incomplete."""
        return [digest for digest, by_choice in self._absent.items() if not by_choice]

    def absent(self) -> list[Digest]:
        """What is absent by choice, each once: manifests of an index that are not there at all, and
        layers that have urls or may not be passed on.
        """
        return [digest for digest, by_choice in self._absent.items() if by_choice]


class Extent(Gaps):
    """What a walk tells as a whole. It keeps no document, of which a graph may have gigabytes.

    `size`: the bytes of what is present, each content once.
    """

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self.size = 0
        self._present: set[bytes] = set()
        super().__init__(nodes)

    def add(self, node: Node) -> None:
        super().add(node)
        d = node.descriptor
        if node.present and (place := _packed(d.digest)) not in self._present:
            self._present.add(place)
            self.size += d.size


def walk(
    provider: Provider,
    roots: Iterable[Descriptor],
    present: Present,
    *,
    wrong: type[ImgtoolError] = DataLoss,
) -> Iterator[Node]:
    """Every descriptor that `roots` reach, depth first, in the order of the documents.

    A digest is met again only where it stands for something else: a document of another type or a
    leaf, or absent where it may be and where it may not.

    Args:
        provider: has the manifests.
        roots: where to begin; depth 0.
        present: whether content is there.
        wrong: as for `blob.read`.

    Raises:
        InvalidArgument: a document is malformed, or larger than 4 MiB together with those above it;
            one digest with two sizes; deeper than 32 or more than 100,000 descriptors.
    """
    seen: set[tuple[Digest, str, bool]] = set()
    # ~size of what was met as a leaf: most are, and 100,000 of them fit 20 MB here, not in `seen`.
    sizes: dict[bytes, int] = {}
    count = 0
    stack: list[tuple[Digest | None, bool, Iterator[Descriptor]]] = [(None, False, iter(roots))]
    while stack:
        parent, of_index, siblings = stack[-1]
        d = next(siblings, None)
        if d is None:
            stack.pop()
            continue
        place = _packed(d.digest)
        known = sizes.setdefault(place, d.size)
        if d.size not in (known, ~known):
            raise InvalidArgument(f"content {d.digest} has two sizes: {max(known, ~known)} and {d.size}")
        here = d.data is not None or present(d.digest)
        optional = of_index or bool(d.urls) or media.is_nondistributable(d.media_type)
        kind = d.media_type if media.has_children(d.media_type) else ""
        key = (d.digest, kind, here or optional)
        if not kind and (here or optional):
            if known < 0:
                continue
            sizes[place] = ~d.size
        elif key in seen:
            continue
        else:
            seen.add(key)
        count += 1
        depth = len(stack) - 1
        if depth > DEPTH_MAX or count > COUNT_MAX:
            raise InvalidArgument(
                f"graph has more than {DEPTH_MAX} levels below its root, at {d.digest}"
                if depth > DEPTH_MAX
                else f"graph has more than {COUNT_MAX} descriptors"
            )
        if kind and here and depth:
            # What a document lists stays in memory while the walk is below it.
            open_bytes = d.size + sum(abs(sizes[_packed(above)]) for above, *_ in stack if above)
            if open_bytes > LIMIT:
                raise InvalidArgument(
                    f"documents from the root to {d.digest} have {open_bytes} bytes together, "
                    f"at most {LIMIT} are read"
                )
        manifest = open_manifest(provider, d, wrong=wrong) if here else None
        yield Node(d, depth, parent, here, optional, manifest)
        if manifest:
            stack.append((d.digest, manifest.is_index, iter(manifest.children())))


def open_manifest(
    provider: Provider, target: Descriptor, *, wrong: type[ImgtoolError] = DataLoss
) -> Manifest | None:
    """The manifest or index that `target` names; None if it is a leaf.

    Args:
        wrong: as for `blob.read`.

    Raises:
        InvalidArgument: it is malformed, or larger than 4 MiB.
        NotFound: `provider` does not have it.
    """
    if not media.has_children(target.media_type):
        return None
    kind = "index" if media.is_index(target.media_type) else "manifest"
    return parse(_read(provider, target, wrong), target.media_type, f"{kind} {target.digest}")


def image_platforms(provider: Provider, target: Descriptor, opened: Opened = EMPTY) -> list[str]:
    """What `target` runs on, for a person: normalised, sorted, each once, `linux/arm/v7`.

    A descriptor's own platform counts before what lies below it, an image's configuration where
    nothing else says it; attestations run on `unknown` and are left out. What is absent, or is no
    document of the kind that it should be, adds nothing.

    Args:
        provider: has the documents.
        target: where to begin.
        opened: documents that need not be read again.

    Raises:
        DataLoss: a document in the store does not have its bytes.
    """
    found: set[str] = set()
    seen: set[Digest] = set()
    todo = [(target, 0)]
    while todo:
        d, depth = todo.pop()
        if d.digest in seen:
            continue
        platform = d.platform
        if platform is None:
            seen.add(d.digest)
            try:
                manifest = opened.get((d.digest, d.media_type)) or open_manifest(provider, d)
                if manifest:
                    if depth < DEPTH_MAX and len(seen) < COUNT_MAX:
                        todo += [(c, depth + 1) for c in manifest.children()]
                    continue
                platform = _config_platform(provider, d)
            except (InvalidArgument, NotFound):
                continue
        if platform and platform.os and "unknown" not in (platform.os, platform.architecture):
            found.add(platforms.format(platforms.normalize(platform)))
    return sorted(found)


def _config_platform(provider: Provider, config: Descriptor) -> Platform | None:
    if not media.is_config(config.media_type):
        return None
    document = load_object(_read(provider, config, DataLoss), f"config {config.digest}")
    os, architecture, variant = (document.get(k) for k in ("os", "architecture", "variant"))
    for value in (os, architecture, variant):
        if not isinstance(value, str | None):
            raise InvalidArgument(f"config {config.digest} has a platform that is not text")
    return Platform(os=os or "", architecture=architecture or "", variant=variant or "")


def _read(provider: Provider, target: Descriptor, wrong: type[ImgtoolError]) -> bytes:
    content = descriptor.inline(target)
    return blob.read(provider, target, wrong=wrong) if content is None else content


def _packed(digest: Digest) -> bytes:
    """`digest` in less than half of its memory."""
    return digest.algorithm.encode() + bytes.fromhex(digest.encoded)
