"""Rules that every store applies alike, in the moment of a change, to what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound
from imgtool.model import ContentInfo, Image, Lease, References, replace, without_empty
from imgtool.names import EXPIRE, GC_REF, expiry, is_label_of, is_past


def check_live(lease: Lease) -> Lease:
    """`lease`, if it can hold something.

    Raises:
        NotFound: its time is up: the next gc removes it.
    """
    if (end := expiry(lease.labels)) is not None and is_past(end, clock.wall()):
        raise NotFound(
            f"lease '{lease.id}' has expired at {clock.format_time(end)}",
            hint=f"imgtool lease label -x 24h {lease.id} renews it",
        )
    return lease


def expected(there: Image | None, name: str, target: Digest | None = None) -> Image:
    """`there`, which is to be the image called `name`.

    Raises:
        NotFound: there is none.
        FailedPrecondition: as `check_target`.
    """
    if there is None:
        raise NotFound(f"image '{name}' not found")
    check_target(there, target)
    return there


def check_target(there: Image, target: Digest | None) -> None:
    """
    Raises:
        FailedPrecondition: `there` points to another digest than `target`, if that is given.
    """
    if target is not None and there.target.digest != target:
        raise FailedPrecondition(f"image '{there.name}' has target {there.target.digest}, expected {target}")


def check_seen(there: Image, seen: Image | None) -> None:
    """
    Raises:
        FailedPrecondition: `there` is another record than `seen`, if that is given.
    """
    if seen is not None and there != seen:
        raise FailedPrecondition(f"image '{there.name}' has been changed")


def renamed(name: str, new: str, old: Image | None, there: Image | None, target: Digest | None) -> Image:
    """The image called `new` when `name` has been renamed to that; `stores.ImageStore.rename` says how.

    Args:
        old, there: what `name` and `new` were before.
        target: what the image must point to, if given.
    """
    moved = replace(expected(old or there, name, target), name=new, updated=clock.now())
    if there is None:
        return moved
    if replace(there, created=moved.created, updated=moved.updated) != moved:
        same = there.target.digest == moved.target.digest
        other = "other labels or annotations" if same else f"target {there.target.digest}"
        raise AlreadyExists(f"image '{new}' already exists, with {other}")
    return there


def check_needs(
    needs: Iterable[Digest],
    namespace: str,
    recorded: Callable[[Digest], ContentInfo | None],
    object_size: Callable[[Digest], int | None],
) -> None:
    """
    Args:
        needs: what must be there and whole.
        recorded: the record of a digest in `namespace`; object_size: the bytes of its object. None where
            there is none.

    Raises:
        NotFound: one of `needs` has no record there.
        DataLoss: one has, and its object is missing or of another size.
    """
    for digest in needs:
        info = recorded(digest)
        if info is None:
            raise NotFound(f"content '{digest}' not found in namespace '{namespace}'")
        if object_size(digest) != info.size:
            raise DataLoss(
                f"object '{digest}' is missing from the store or has another size",
                hint="ingest the content again: that heals it",
            )


def check_unheld(image: str, leases: Iterable[Lease]) -> None:
    """
    Raises:
        FailedPrecondition: one of `leases` whose time is not past lists `image`.
    """
    now = clock.wall()
    for lease in leases:
        if image in lease.resources.get("images", ()) and not is_past(expiry(lease.labels), now):
            raise FailedPrecondition(f"lease '{lease.id}' holds image '{image}'")


def renewed(there: Lease, hold: Lease) -> Lease:
    """What becomes of the lease `there` when `hold` comes to it: labels and resources are added, and it ends
    when the later of the two does, or never.
    """
    longer = max(there, hold, key=_end)
    labels = without_empty({**there.labels, **hold.labels, EXPIRE: longer.labels.get(EXPIRE, "")})
    resources = dict(there.resources)
    for type, ids in hold.resources.items():
        resources[type] = tuple(dict.fromkeys((*resources.get(type, ()), *ids)))
    return replace(there, labels=labels, resources=resources)


def _end(lease: Lease) -> float:
    end = expiry(lease.labels)
    return float("inf") if end is None else end


def corrected(
    before: References | None, references: References | None, *, is_document: bool
) -> References | None:
    """What a record tells that told `before`.

    Args:
        references: what its bytes say.
        is_document: they have been read for it now: then they are right, and nothing is told if this is None.
    """
    if not is_document and references is None:
        return before
    same = before and references and before._replace(unknown=references.unknown) == references
    return before if same else references


def are_labels_of(digests: str, labels: Mapping[str, str]) -> bool:
    """Whether labels tell gc of these children, and of nothing else: see `model.Referred.labelled`.

    Args:
        digests: joined by spaces.
        labels: those for gc.
    """
    return set(labels.values()) == set(digests.split()) and all(is_label_of(key, GC_REF) for key in labels)
