"""Letting images go that a retention policy does not keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from imgtool import clock
from imgtool.errors import FailedPrecondition, NotFound
from imgtool.names import is_expired
from imgtool.ops import gc
from imgtool.ops.retention import Found, Rule, Verdict, judge
from imgtool.rules import check_seen, check_unheld
from imgtool.stores import Garbage, Store


def run(
    store: Store,
    namespaces: Iterable[str],
    filters: Sequence[str],
    rules: Sequence[Rule],
    now: int,
    *,
    dry_run: bool = False,
    judged: Callable[[Verdict], None],
    left: Callable[[Verdict], None],
) -> Iterator[Verdict | Garbage]:
    """Delete the images that `rules` do not keep, then remove the garbage: first the verdict on each image
    that is gone, when it is, and last what gc has removed.

    The order makes it safe: all that a gc reads is read before the first image goes, so that where
    something cannot be read none does; then each is deleted only if it still is as it was judged, and no
    lease holds it by then. What is not looked at again are the others of its group: if the newest of
    them is deleted meanwhile, or its time passes, the older ones go all the same.

    Args:
        namespaces, filters: whose images the policy sees, and which of them.
        rules: checked ones; without any no image goes.
        now: in nanoseconds since the epoch.
        dry_run: delete and remove nothing, and tell what would be.
        judged: called with every verdict, before the first image goes.
        left: called for an image that has been changed, leased or deleted since it was judged.

    Raises:
        DataLoss: as `gc.find`; no image was deleted.
        Unavailable: as `gc.collect`.
    """
    verdicts = judge(images(store, namespaces, filters), rules, now) if rules else []
    for verdict in verdicts:
        judged(verdict)
    going = [verdict for verdict in verdicts if not verdict.keeps]
    if dry_run or going:
        garbage = gc.find(store, without=[(v.found.namespace, v.found.image.name) for v in going])
    with store.remembering():
        for verdict in going:
            if dry_run or delete(store, verdict.found):
                yield verdict
            else:
                left(verdict)
    yield garbage if dry_run else gc.collect(store)


def images(store: Store, namespaces: Iterable[str], filters: Sequence[str] = ()) -> Iterator[Found]:
    """What a policy sees, by namespace and name.

    Raises:
        DataLoss: a record cannot be read: nobody knows which of the others were the newest.
    """
    now = clock.wall()
    for namespace in namespaces:
        leases = [lease for lease in store.leases(namespace).list() if not is_expired(lease.labels, now)]
        held = {name: lease.id for lease in leases for name in lease.resources.get("images", ())}
        for image in store.images(namespace).list(*filters):
            yield Found(namespace, image, held.get(image.name), is_expired(image.labels, now))


def delete(store: Store, found: Found) -> bool:
    """Delete an image if it still is as it was judged, and no lease holds it; whether it was deleted. Else
    it stays for the next run. Comparing and deleting are one step.
    """
    images = store.images(found.namespace)
    try:
        images.delete(found.image.name, seen=found.image, unless_held=True)
    except NotFound:
        return False
    except FailedPrecondition:
        if _is_as_judged(store, found):
            raise  # it is about something else
        return False
    return True


def _is_as_judged(store: Store, found: Found) -> bool:
    try:
        there = store.images(found.namespace).get(found.image.name)
        check_seen(there, found.image)
        check_unheld(there.name, store.leases(found.namespace).list())
    except (NotFound, FailedPrecondition):
        return False
    return True
