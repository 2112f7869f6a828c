"""Stage the images of a bundle, a layout or an archive: the graph is judged, then its content taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from imgtool.digest import Digest
from imgtool.errors import FailedPrecondition, InvalidArgument, NotFound
from imgtool.model import Descriptor, Image, Platform
from imgtool.oci import graph, media, platforms
from imgtool.oci.graph import Graph
from imgtool.oci.layout import Root, find_roots
from imgtool.ops.sources import Source
from imgtool.ops.staging import Staged, Wanted
from imgtool.stores import Commit, Provider, Writer

_NAMED_AT_MOST = 5  # digests in a message


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


def stage_images(bundle: Bundle, source: Source, wanted: Wanted) -> Staged:
    """Stage all images of a bundle, or the one that `source.ref` names.

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
    found = graph.collect(
        bundle,
        _once(root.descriptor for root in roots),
        lambda digest: digest not in excluded and bundle.has(digest),
        wrong=FailedPrecondition,
    )
    _check(found, source, excluded)
    staged = Staged(images=_images(source, roots, wanted), notes=_notes(found, source, excluded))
    labels = _labels(found)
    try:
        for node in found.nodes:
            d = node.descriptor
            if node.present and d.digest in labels:
                commit = Commit(bundle.take(d), size=d.size, expected=d.digest, labels=labels.pop(d.digest))
                staged.commits.append(commit)
    except BaseException:
        staged.close()
        raise
    return staged


def _for_platform(
    bundle: Bundle, roots: Sequence[Root], source: Source, platform: Platform | None
) -> tuple[Sequence[Root], frozenset[Digest]]:
    """The roots that are for `platform`, and the digests of manifests that are not."""
    if platform is None:
        return roots, frozenset()
    kept = [root for root in roots if _fits(root.descriptor, platform)]
    fitting: set[Digest] = set()
    others: set[Digest] = set()
    for node in graph.walk(
        bundle, _once(root.descriptor for root in kept), bundle.has, wrong=FailedPrecondition
    ):
        if media.is_manifest(node.descriptor.media_type):
            (fitting if _fits(node.descriptor, platform) else others).add(node.descriptor.digest)
    if not fitting:
        raise NotFound(f"{source.what} has no image for platform '{platforms.format(platform)}'")
    return kept, frozenset(others - fitting)


def _fits(d: Descriptor, platform: Platform) -> bool:
    return d.platform is None or platforms.matches(platform, platforms.normalize(d.platform))


def _check(found: Graph, source: Source, excluded: frozenset[Digest]) -> None:
    missing = [digest for digest in found.missing() if digest not in excluded]
    if missing:
        more = f" and {len(missing) - _NAMED_AT_MOST} more" if len(missing) > _NAMED_AT_MOST else ""
        raise InvalidArgument(
            f"{source.what} is incomplete: {', '.join(missing[:_NAMED_AT_MOST])}{more} missing",
            hint="copy the image again; only manifests of an index and foreign layers may be absent",
        )


def _notes(found: Graph, source: Source, excluded: frozenset[Digest]) -> list[str]:
    absent = [digest for digest in found.absent() if digest not in excluded]
    notes = [f"{source.what}: {digest} is absent by choice" for digest in absent]
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
            raise InvalidArgument(f"{source.what} has two images called '{name}'")
    return list(named.values())


def _labels(found: Graph) -> dict[Digest, dict[str, str]]:
    """For each content the labels that tell a collector what it keeps; referrers by their subject."""
    present = {node.descriptor.digest for node in found.nodes if node.present}
    labels: dict[Digest, dict[str, str]] = {digest: {} for digest in present}
    for node in found.nodes:
        if node.manifest is None:
            continue
        children = [child for child in node.manifest.children() if child.digest in present]
        labels[node.descriptor.digest].update(media.gc_labels(children))
        subject = node.manifest.subject
        if subject is not None:
            labels[node.descriptor.digest][media.SUBJECT_LABEL] = subject.digest
            if subject.digest in present:
                key = media.referrer_label(node.descriptor.digest)
                labels[subject.digest][key] = node.descriptor.digest
    return labels


def _once(descriptors: Iterable[Descriptor]) -> list[Descriptor]:
    """Each content once: one index.json may name the same image many times."""
    return list({d.digest: d for d in descriptors}.values())
