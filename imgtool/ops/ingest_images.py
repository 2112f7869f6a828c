"""Stage the images of a bundle, a layout or an archive: the graph is judged, then its content taken.

The graph is walked twice, so that of a large one little is kept in memory: no document, and no writer
that another step can publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from imgtool.digest import Digest
from imgtool.errors import FailedPrecondition, InvalidArgument, NotFound
from imgtool.model import Descriptor, Image, Platform
from imgtool.oci import graph, manifest, media, platforms
from imgtool.oci.graph import Gaps, Node
from imgtool.oci.layout import Root, find_roots
from imgtool.ops.sources import Source
from imgtool.ops.staging import Staged, Wanted
from imgtool.stores import Commit, Provider, Writer

Land = Callable[[Sequence[Commit]], None]
"""Publishes a part of the content of an image that has much of it, before its names; ends the writers."""

_NAMED_AT_MOST = 5  # digests in a message
_NOTED_AT_MOST = 20  # digests in notes, a line each
_SHOWN = 140  # characters of a foreign name in a message
_PART = 512  # contents that are staged at once
_LABELLED_MAX = (
    4000  # children, each with a label: more do not fit a record, and gc reads the document itself
)


class Bundle(Provider, Protocol):
    """Images outside of a store. Its bytes nobody has vouched for."""

    @property
    def roots(self) -> Sequence[Root]:
        """Its images."""

    def has(self, digest: Digest) -> bool:
        """Whether it has content called so."""

    def take(self, wanted: Descriptor) -> Writer:
        """The content, staged, hashed and finished; for each digest once.

        Raises:
            FailedPrecondition: it is other than `wanted` says.
        """


def stage_images(bundle: Bundle, source: Source, wanted: Wanted, land: Land) -> Staged:
    """Stage all images of a bundle, or the one that `source.ref` names.

    Args:
        land: called with the first of more than 512 contents, so that not all are staged at once.

    Raises:
        InvalidArgument: a document is malformed, or content is missing that may not be.
        FailedPrecondition: content is other than its descriptor says.
        NotFound: no such image, or none for the platform.
    """
    for option, given in (("--ref", wanted.ref), ("--expected-size", wanted.expected_size)):
        if given is not None:
            raise InvalidArgument(f"{option} is for plain files, and {source.what} holds images")
    roots = bundle.roots
    if source.ref is not None:
        roots = find_roots(roots, source.ref, f"{source.what}")
    if not roots:
        return Staged(notes=[f"{source.what} holds no image"])
    roots, excluded = _for_platform(bundle, roots, source, wanted.platform)

    def present(digest: Digest) -> bool:
        return digest not in excluded and bundle.has(digest)

    def walk() -> Iterator[Node]:
        return graph.walk(bundle, (root.descriptor for root in roots), present, wrong=FailedPrecondition)

    survey = _Survey(walk())
    _check(survey, source, excluded)
    staged = Staged(images=_images(source, roots, wanted), notes=_notes(survey, source, excluded))
    try:
        for node in walk():
            if survey.is_taken(node):
                if len(staged.commits) == _PART:
                    land(staged.commits)
                    staged.commits.clear()
                d = node.descriptor
                labels = survey.labels(node, present)
                found = node.manifest
                told = found and manifest.references(found)
                staged.commits.append(Commit(bundle.take(d), d.size, d.digest, labels, told, bool(found)))
    except BaseException:
        staged.close()
        raise
    return staged


class _Survey:
    """What a first walk tells of a graph.

    `missing`: what is absent and must not be. `absent`: what is so by choice.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._documents: dict[Digest, str] = {}
        self._referrers: dict[Digest, dict[str, str]] = {}
        gaps = Gaps()
        for node in nodes:
            gaps.add(node)
            if node.manifest is not None:
                self._add_document(node.descriptor, node.manifest.subject)
        self.missing = gaps.missing()
        self.absent = gaps.absent()

    def is_taken(self, node: Node) -> bool:
        """Whether its content is taken where the walk meets `node`: there, and as a document where it
        is one and something else refers to it as mere bytes.
        """
        return node.present and (node.manifest is not None or node.descriptor.digest not in self._documents)

    def labels(self, node: Node, present: Callable[[Digest], bool]) -> dict[str, str]:
        """The labels that tell a collector what the content keeps; referrers are kept by their subject."""
        labels = dict(self._referrers.get(node.descriptor.digest, {}))
        if node.manifest is not None:
            children = node.manifest.children()
            if len(children) <= _LABELLED_MAX:
                labels |= media.gc_labels(c for c in children if c.data is not None or present(c.digest))
            if node.manifest.subject is not None:
                labels[media.SUBJECT_LABEL] = node.manifest.subject.digest
        return labels

    def _add_document(self, d: Descriptor, subject: Descriptor | None) -> None:
        called = self._documents.setdefault(d.digest, d.media_type)
        if called != d.media_type:
            raise InvalidArgument(
                f"content {d.digest} is '{called}' in one place, '{d.media_type}' in another"
            )
        if subject is not None:
            labels = self._referrers.setdefault(subject.digest, {})
            labels[media.referrer_label(d.digest)] = d.digest


def _for_platform(
    bundle: Bundle, roots: Sequence[Root], source: Source, platform: Platform | None
) -> tuple[Sequence[Root], frozenset[Digest]]:
    """The roots that are for `platform`, and the digests of manifests that are not."""
    if platform is None:
        return roots, frozenset()
    kept = [root for root in roots if _fits(root.descriptor, platform)]
    fitting: set[Digest] = set()
    others: set[Digest] = set()
    for node in graph.walk(bundle, (root.descriptor for root in kept), bundle.has, wrong=FailedPrecondition):
        if media.is_manifest(node.descriptor.media_type):
            (fitting if _fits(node.descriptor, platform) else others).add(node.descriptor.digest)
    if not fitting:
        raise NotFound(f"{source.what} has no image for platform '{platforms.format(platform)}'")
    return kept, frozenset(others - fitting)


def _fits(d: Descriptor, platform: Platform) -> bool:
    return d.platform is None or platforms.matches(platform, platforms.normalize(d.platform))


def _check(found: _Survey, source: Source, excluded: frozenset[Digest]) -> None:
    missing = [digest for digest in found.missing if digest not in excluded]
    if missing:
        more = f" and {len(missing) - _NAMED_AT_MOST} more" if len(missing) > _NAMED_AT_MOST else ""
        raise InvalidArgument(
            f"{source.what} is incomplete: {', '.join(missing[:_NAMED_AT_MOST])}{more} missing",
            hint="copy the image again; only manifests of an index and foreign layers may be absent",
        )


def _notes(found: _Survey, source: Source, excluded: frozenset[Digest]) -> list[str]:
    absent = [digest for digest in found.absent if digest not in excluded]
    notes = [f"{source.what}: {digest} is absent by choice" for digest in absent[:_NOTED_AT_MOST]]
    if len(absent) > _NOTED_AT_MOST:
        notes.append(f"{source.what}: {len(absent) - _NOTED_AT_MOST} more are absent by choice")
    if excluded:
        notes.append(f"{source.what}: {len(excluded)} of its manifests are for other platforms and left out")
    return notes


def _images(source: Source, roots: Sequence[Root], wanted: Wanted) -> list[Image]:
    """The records to publish: names given, names in the layout, or made of the directory's name."""
    if wanted.expected_digest is not None:
        for root in roots:
            if root.descriptor.digest != wanted.expected_digest:
                raise FailedPrecondition(
                    f"{source.what} has {root.descriptor.digest}, expected {wanted.expected_digest}"
                )
    digests = dict.fromkeys(root.descriptor.digest for root in roots)
    if wanted.names:
        if len(digests) > 1:
            raise InvalidArgument(
                f"{source.what} has {len(digests)} images, and --name can name only one",
                hint=f"choose one with {source.chosen}",
            )
        return [Image(name, roots[0].descriptor, wanted.labels) for name in wanted.names]
    nameless = dict.fromkeys(root.descriptor.digest for root in roots if root.name is None)
    named: dict[str, Image] = {}
    for root in roots:
        name = root.name
        if name is None:
            name = source.stem if len(nameless) == 1 else f"{source.stem}@{root.descriptor.digest}"
        image = Image(name, root.descriptor, wanted.labels)
        if named.setdefault(name, image).target.digest != image.target.digest:
            raise InvalidArgument(f"{source.what} has two images called '{name[:_SHOWN]}'")
    return list(named.values())
