"""Images as trees: what a walk meets under what refers to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from imgtool.errors import DataLoss
from imgtool.model import EMPTY, Descriptor
from imgtool.oci import graph, media
from imgtool.oci.descriptor import parse, to_dict

if TYPE_CHECKING:
    from imgtool.digest import Digest
    from imgtool.oci.referrers import Referrers
    from imgtool.stores import Provider

UNFOLDED_MAX = 16 * 2**20  # bytes of documents that a tree shows
LEVELS_MAX = 32  # what lies deeper is shown without its referrers


class Tree:
    """The descriptors that a walk meets, each under the document that lists it; and referrers under what
    they are about, behind its parts.

    Args:
        target: the root.
        about: referrers by subject.
    """

    def __init__(self, target: Descriptor, about: Referrers = EMPTY) -> None:
        self._target = target
        self._about = about
        self._asked: set[Digest] = set()
        self._root = to_dict(target)
        self._folded = {_place(target): self._root}
        self._waiting: deque[tuple[Descriptor, dict[str, Any], int]] = deque()
        self._base = 0
        self._bytes = 0
        self._is_too_deep = False
        self.referrers = 0

    @property
    def is_cut(self) -> bool:
        """Whether it has more documents than it shows."""
        return self._bytes > UNFOLDED_MAX or self._is_too_deep

    @property
    def limit(self) -> str:
        """How much it shows at most, where it is cut."""
        if self._bytes > UNFOLDED_MAX:
            return f"{UNFOLDED_MAX >> 20} MiB of documents"
        return f"{LEVELS_MAX} levels above a referrer"

    @property
    def is_beside(self) -> bool:
        """Whether the walk has come to a referrer: what it meets is no part of the target."""
        return self._base > 0

    def roots(self) -> Iterator[Descriptor]:
        """Where the walk is to begin: at the target, then at the referrers that it has led to."""
        yield self._target
        while self._waiting:
            referrer, branch, self._base = self._waiting.popleft()
            self._folded[_place(referrer)] = branch
            yield referrer

    def add(self, node: graph.Node) -> None:
        """Unfold the document of `node`, if it is one. Nodes come in the order of the walk."""
        here = self._folded.pop(_place(node.descriptor), None)
        if here is None:
            return
        manifest = node.manifest
        if manifest:
            self._bytes += node.descriptor.size
            if self._bytes > UNFOLDED_MAX:
                here["cut"] = True
                return
            if manifest.artifact_type:
                here["artifactType"] = manifest.artifact_type
            if manifest.subject:
                here["subject"] = to_dict(manifest.subject)
            children = [(_place(child), to_dict(child)) for child in manifest.children()]
            here["children"] = [branch for _, branch in children]
            # Of all places of a digest the walk comes next to the one met last; of siblings, to the first.
            self._folded.update(reversed(children))
        self._hang(node.descriptor.digest, here, self._base + node.depth)

    def finished(self, *extents: graph.Extent) -> dict[str, Any]:
        """The tree, with what is `absent` marked."""
        gone = {str(digest): "by choice" for extent in extents for digest in extent.absent()}
        gone |= {str(digest): "missing" for extent in extents for digest in extent.missing()}
        for branch in _branches(self._root) if gone else ():
            if branch["digest"] in gone:
                branch["absent"] = gone[branch["digest"]]
        return self._root

    def _hang(self, digest: Digest, here: dict[str, Any], level: int) -> None:
        referrers = self._about.get(digest)
        if referrers is None or digest in self._asked:
            return
        self._asked.add(digest)
        if level >= LEVELS_MAX:
            here["cut"] = self._is_too_deep = True
            return
        self.referrers += len(referrers)
        here["referrers"] = [to_dict(referrer) for referrer in referrers]
        self._waiting += zip(referrers, here["referrers"], [level + 1] * len(referrers), strict=True)


def _place(descriptor: Descriptor) -> tuple[Digest, str]:
    return descriptor.digest, descriptor.media_type


def mark_repeats(root: dict[str, Any]) -> None:
    """Mark as `repeated` each branch whose digest stands elsewhere in the tree, unfolded or further up."""
    unfolded = {branch["digest"] for branch in _branches(root) if "children" in branch}
    seen: set[str] = set()
    for branch in _branches(root):
        if "children" in branch:
            continue
        if branch["digest"] in seen or branch["digest"] in unfolded:
            branch["repeated"] = True
        seen.add(branch["digest"])


def tell_platforms(provider: Provider, root: dict[str, Any]) -> None:
    """Give each manifest of an image whose descriptor does not tell its platform the `platforms` that its
    configuration says. What cannot be read says nothing; whoever walked the image has told of it.
    """
    known: dict[str, list[str]] = {}
    for branch in _branches(root, referrers=False):
        children = branch.get("children")
        if not children or "platform" in branch or not media.is_manifest(branch["mediaType"]):
            continue
        config = children[0]
        if config["digest"] not in known:
            known[config["digest"]] = _platforms(provider, parse(bare(config, "data"), "config"))
        if known[config["digest"]]:
            branch["platforms"] = known[config["digest"]]


def _platforms(provider: Provider, config: Descriptor) -> list[str]:
    try:
        return graph.image_platforms(provider, config)
    except DataLoss:
        return []


def bare(branch: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The descriptor of `branch`, with no more than media type, digest, size and `keys`."""
    return {key: branch[key] for key in ("mediaType", "digest", "size", *keys) if key in branch}


def _branches(root: dict[str, Any], *, referrers: bool = True) -> Iterator[dict[str, Any]]:
    """All branches, in the order of the lines."""
    todo = [root]
    while todo:
        branch = todo.pop()
        yield branch
        if referrers:
            todo += reversed(branch.get("referrers", ()))
        todo += reversed(branch.get("children", ()))
