"""Leases for the commands: as rows, and as what words on the command line mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from imgtool.cli.contents import digest_of
from imgtool.cli.output import NAMESPACE, NEVER, Kind, Row, labels_text
from imgtool.cli.words import check_choice, names_from, pairs
from imgtool.clock import format_time, parse_duration, wall
from imgtool.digest import Digest
from imgtool.errors import InvalidArgument, NotFound
from imgtool.model import without_empty
from imgtool.names import EXPIRE, check_name, check_resource_type, expiry
from imgtool.ops.hold import HELD_FOR, require_lease

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.model import Lease
    from imgtool.stores import LeaseStore

LEASES = Kind("leases", ("namespace", "id", "labels", "created", "expires", "resources"), "id")
IDS = Kind("leases", ("namespace", "id"), "id")
RESOURCES = Kind("resources", ("namespace", "lease", "type", "id"), "id")

ID_ONLY: Mapping[str, Callable[[Row], str]] = {"ID": itemgetter("id")}
RESOURCE_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "LEASE": itemgetter("lease"),
    "TYPE": itemgetter("type"),
    "ID": itemgetter("id"),
}


def row(namespace: str, lease: Lease) -> dict[str, Any]:
    """What the record of `lease` says, and when it ends."""
    end = expiry(lease.labels)
    return {
        "namespace": namespace,
        "id": lease.id,
        "labels": dict(sorted(lease.labels.items())),
        "created": format_time(lease.created),
        "expires": None if end is None else format_time(end),
        "resources": {type: sorted(ids) for type, ids in sorted(lease.resources.items())},
    }


def listed(c: Context, filters: Sequence[str], *, all_namespaces: bool) -> Iterator[Row]:
    """The rows of the leases that match, by namespace and id. What cannot be read is reported."""
    for namespace in c.namespaces(all_namespaces):
        for lease in c.store().leases(namespace).list(*filters, on_error=c.failures.add):
            yield row(namespace, lease)


def columns(*, whole: bool, namespaces: bool) -> Mapping[str, Callable[[Row], str]]:
    """The table of leases: ctr's columns, and between them when each ends and how much it holds. Labels
    are those besides the one that tells the end.

    Args:
        whole: labels are not cut.
        namespaces: with a first column for the namespace.
    """
    return {
        **(NAMESPACE if namespaces else {}),
        "ID": itemgetter("id"),
        "CREATED AT": itemgetter("created"),
        "EXPIRES": lambda r: r["expires"] or NEVER,
        "RESOURCES": lambda r: str(sum(map(len, r["resources"].values()))),
        "LABELS": lambda r: labels_text(_besides_end(r), whole=whole),
    }


def _besides_end(row: Row) -> dict[str, str]:
    return {k: v for k, v in row["labels"].items() if k != EXPIRE or row["expires"] is None}


def resource_rows(namespace: str, lease: Lease, type: str | None = None) -> Iterator[Row]:
    """A row for each resource of a lease, by type and id.

    Args:
        type: only those of this type.
    """
    for kind, ids in sorted(lease.resources.items()):
        if type in (None, kind):
            for id in sorted(ids):
                yield resource_row(namespace, lease.id, kind, id)


def resource_row(namespace: str, lease: str, type: str, id: str) -> Row:
    """One resource."""
    return {"namespace": namespace, "lease": lease, "type": type, "id": id}


def usable(c: Context, id: str | None) -> str | None:
    """The lease that `--lease` names, which is looked at before anything is read or written.

    Raises:
        NotFound: there is none, or its time is up.
    """
    if id is not None:
        require_lease(c.store().leases(c.namespace), id)
    return id


def labels_of(words: Sequence[str], expiration: str | None, *, flat: bool = False) -> dict[str, str]:
    """The labels that `create` is asked for.

    Args:
        words: `KEY=VALUE`.
        expiration: a duration from now on, 0 for ever; None: 24 hours, unless a label says.
        flat: what the resources refer to is not kept.

    Raises:
        InvalidArgument: a word or the duration is malformed, or both say when it ends.
    """
    labels = pairs([*words, *expiring(words, expiration)])
    if expiration is None and EXPIRE not in labels:
        labels[EXPIRE] = format_time(wall() + HELD_FOR)
    if flat:
        from imgtool.ops.labels import FLAT_LABEL

        labels[FLAT_LABEL] = "true"
    return without_empty(labels)


def expiring(words: Sequence[str], expiration: str | None) -> list[str]:
    """What `--expires` asks for, as `KEY=VALUE`; nothing if it is not given.

    Args:
        words: the labels given beside.
        expiration: a duration from now on; 0 for ever.

    Raises:
        InvalidArgument: it is none, or a label says too when it ends.
    """
    if expiration is None:
        return []
    if EXPIRE in pairs(words):
        raise InvalidArgument(f"--expires and the label '{EXPIRE}' exclude each other")
    duration = parse_duration(expiration)
    return [f"{EXPIRE}={format_time(wall() + duration)}" if duration else f"{EXPIRE}="]


def selected(
    c: Context, leases: LeaseStore, words: Sequence[str], filters: Sequence[str], all: bool, zero: bool
) -> list[str]:
    """The ids of the leases that a command is to change: by id, by `--filter`, or `--all`, exactly one of
    the three. Records that cannot be read are reported, and left out, by the last two.

    Raises:
        InvalidArgument: none of the three is given, or two; a filter is empty or is no filter.
    """
    check_choice(words, filters, all, "lease")
    if filters or all:
        return [lease.id for lease in leases.list(*filters, on_error=c.failures.add)]
    return names_from(words, zero, "id")


def add(c: Context, id: str, type: str, words: Sequence[str], *, zero: bool, dry_run: bool) -> list[Row]:
    """Make a lease hold what `words` mean, all in one step in which no gc can take it; past what is not
    there.

    Raises:
        InvalidArgument: a lease holds nothing of that type.
        NotFound: there is no such lease, or its time is up.
    """
    check_resource_type(type)
    leases = c.records(dry_run=dry_run).leases(c.namespace)
    require_lease(leases, id)
    words = names_from(words, zero, "resource")
    found = list(c.failures.for_each(words, lambda word: _present(c, type, word)))
    if found:
        leases.add(id, type, *found, needs=[x for x in found if isinstance(x, Digest)])
    return [resource_row(c.namespace, id, type, resource) for resource in found]


def drop(
    c: Context,
    id: str,
    type: str,
    words: Sequence[str],
    *,
    zero: bool,
    ignore_missing: bool,
    dry_run: bool,
) -> list[Row]:
    """Make a lease let go of what `words` mean, past what it does not hold.

    Args:
        ignore_missing: what it does not hold is no failure; a name of which nobody knows what it means is.

    Raises:
        InvalidArgument: a lease holds nothing of that type.
        NotFound: there is no such lease.
    """
    check_resource_type(type)
    leases = c.records(dry_run=dry_run).leases(c.namespace)
    held = leases.get(id).resources.get(type, ())

    def one(word: str) -> str:
        try:
            resource = word if word in held or type != "content" else digest_of(c, word)
        except NotFound as error:
            raise NotFound(f"nothing to drop from lease '{id}': {error.message}") from None
        if resource not in held:
            raise _NotHeld(f"lease '{id}' does not hold {type} '{word}'")
        return resource

    ignored = _NotHeld if ignore_missing else None
    found = list(c.failures.for_each(names_from(words, zero, "resource"), one, ignore=ignored))
    if found:
        leases.remove(id, type, *found)
    return [resource_row(c.namespace, id, type, resource) for resource in found]


class _NotHeld(NotFound):
    """A lease does not hold what it is to let go of."""


def _present(c: Context, type: str, word: str) -> str:
    """The id of the resource that `word` means.

    Raises:
        NotFound: it is not there.
    """
    store = c.store()
    if type == "content":
        return store.content(c.namespace).info(digest_of(c, word)).digest
    if type == "ingests":
        return store.content(c.namespace).status(word).ref
    if type == "images":
        return store.images(c.namespace).get(word).name
    return check_name(word, "lease resource")
