"""Content, a lease and images in one step: what `Store.publish` and `Writer.commit` do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import atomic, images
from imgtool.disk.engine import CONTENT, LEASE, Edit, Engine
from imgtool.disk.writer import FileWriter
from imgtool.errors import ImgtoolError, InvalidArgument, NotFound
from imgtool.model import ContentInfo, Image, Lease, replace, without_empty
from imgtool.names import EXPIRE, check_labels, check_name
from imgtool.rules import check_live, corrected, renewed
from imgtool.stores import Commit, Published, Put


class Outcome(NamedTuple):
    """What was published, and which of the content had a record before."""

    published: Published
    existed: Sequence[bool]


def publish(
    engine: Engine,
    ns: str,
    commits: Sequence[Commit],
    puts: Sequence[Put] = (),
    hold: Lease | None = None,
    lease: str | None = None,
    *,
    keep: bool = False,
) -> Outcome:
    """See `stores.Store.publish`.

    Args:
        keep: content that has a record keeps its labels too.
    """
    writers = [_ours(commit.writer) for commit in commits]
    digests = []
    for commit, writer in zip(commits, writers, strict=True):
        check_labels(commit.labels)
        digests.append(writer.verified(commit.size, commit.expected))
    for writer in writers:
        writer.finish()
    # Before any lock is taken: syncing large content takes long.
    try:
        atomic.sync_files(writer.path for writer in writers if not writer.is_lent)
    except ImgtoolError:
        # Linux may take the bytes for written from here on: nobody shall sync these files once more.
        for writer in writers:
            with suppress(ImgtoolError):
                writer.drop()
        raise

    edits: list[Edit[Any]] = []
    existed = [False] * len(commits)
    for i, (commit, writer, digest) in enumerate(zip(commits, writers, digests, strict=True)):

        def arrive(old: ContentInfo | None, i: int = i, commit: Commit = commit) -> ContentInfo:
            if writers[i].is_lent and engine.object_size(digests[i]) != writers[i].size:
                raise writers[i].gone()
            existed[i] = old is not None
            return _content(old, digests[i], writers[i].size, commit, keep=keep)

        edits.append(Edit(CONTENT, digest, arrive, heals=True))
        if writer.lease is not None:
            edits.append(Edit(LEASE, writer.lease, landing(writer.lease, writer.ref, digest), alone=True))
    if hold is not None:
        edits.append(Edit(LEASE, check_name(hold.id, "lease id"), _renewing(hold)))
    first_put = len(edits)
    failed: dict[int, ImgtoolError] = {}
    named: list[Put] = []
    for i, put in enumerate(puts):
        try:
            edits.append(_noting(put, images.put(engine, ns, put, frozenset(digests)), named))
        except ImgtoolError as error:
            failed[i] = error
    if lease is not None:
        edits.append(Edit(LEASE, check_name(lease, "lease id"), _keeping(lease, digests, named)))
    outcomes = engine.apply(
        ns, edits, [(writer.path, digest) for writer, digest in zip(writers, digests, strict=True)]
    )
    for writer in writers:
        writer.drop()
    put_outcomes = iter(outcomes[first_put:])
    return Outcome(
        Published(
            content=[outcome for outcome in outcomes if isinstance(outcome, ContentInfo)],
            images=[failed[i] if i in failed else _image(next(put_outcomes)) for i in range(len(puts))],
        ),
        existed,
    )


def holding(id: str, kind: str, resources: Sequence[str]) -> Callable[[Lease | None], Lease]:
    """The change that makes a lease hold `resources` too.

    Raises, when it is made:
        NotFound: there is no such lease, or its time is past.
    """
    return lambda old: _with(check_live(_there(old, id)), kind, resources)


def letting_go(id: str, kind: str, resources: Sequence[str]) -> Callable[[Lease | None], Lease]:
    """The change that makes a lease hold `resources` no longer."""

    def change(old: Lease | None) -> Lease:
        lease = _there(old, id)
        kept = tuple(r for r in lease.resources.get(kind, ()) if r not in resources)
        others = {k: ids for k, ids in lease.resources.items() if k != kind}
        return replace(lease, resources={**others, kind: kept} if kept else others)

    return change


def landing(id: str, ref: str, digest: Digest) -> Callable[[Lease | None], Lease]:
    """The ingest under the lease becomes content under it, also where its time has passed meanwhile."""

    def change(old: Lease | None) -> Lease:
        return letting_go(id, "ingests", (ref,))(_with(_there(old, id), "content", (digest,)))

    return change


def _noting(put: Put, edit: Edit[Image], named: list[Put]) -> Edit[Image]:
    """`edit`, which publishes `put`, and adds it to `named` as it is then, where it succeeds."""

    def change(old: Image | None) -> Image | None:
        new = edit.change(old)
        named.append(put._replace(image=new or put.image))
        return new

    return edit._replace(change=change)


def _keeping(id: str, digests: Iterable[Digest], named: Iterable[Put]) -> Callable[[Lease | None], Lease]:
    """The change that makes a lease hold what was published; made when `named` is complete."""

    def change(old: Lease | None) -> Lease:
        needed = sorted({digest for put in named for digest in put.needs})
        lease = holding(id, "content", [*digests, *needed])(old)
        return _with(lease, "images", [put.image.name for put in named if EXPIRE in put.image.labels])

    return change


def _renewing(hold: Lease) -> Callable[[Lease | None], Lease]:
    return lambda old: renewed(old or replace(hold, created=clock.now()), hold)


def _content(
    old: ContentInfo | None, digest: Digest, size: int, commit: Commit, *, keep: bool
) -> ContentInfo:
    now = clock.now()
    if old is None:
        labels = without_empty(commit.labels)
        return ContentInfo(digest, size, labels, now, now, references=commit.references)
    labels = dict(old.labels) if keep else without_empty({**old.labels, **commit.labels})
    references = corrected(old.references, commit.references, is_document=commit.is_document)
    new = replace(old, labels=labels, size=size, references=references)
    return old if new == old else replace(new, updated=now)


def _with(lease: Lease, kind: str, resources: Iterable[str]) -> Lease:
    held = dict.fromkeys(lease.resources.get(kind, ()))
    then = held | dict.fromkeys(resources)
    return replace(lease, resources={**lease.resources, kind: tuple(then)}) if then != held else lease


def _there(lease: Lease | None, id: str) -> Lease:
    if lease is None:
        raise NotFound(f"lease '{id}' not found")
    return lease


def _ours(writer: object) -> FileWriter:
    if not isinstance(writer, FileWriter):
        raise InvalidArgument("a writer of another store cannot be published here")
    return writer


def _image(outcome: object) -> Image | ImgtoolError:
    assert isinstance(outcome, Image | ImgtoolError)
    return outcome
