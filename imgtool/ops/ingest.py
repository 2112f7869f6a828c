"""Take bytes into a store, under names: stage all of them, verify, then publish in one step.

A source is staged whole before its names are published, so that what is refused leaves nothing
under a name. Of an image with very much content, parts are published before, and leases hold them
until it has its names. Bytes are always read and hashed, also those that the store already has:
publishing replaces a damaged object by the good bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from imgtool.errors import AlreadyExists, ImgtoolError, NotFound, from_oserror
from imgtool.model import Image
from imgtool.oci.compression import FileSource, Prefixed
from imgtool.ops import sources
from imgtool.ops.dry import DryIngester
from imgtool.ops.hold import lease_for, lease_until_named
from imgtool.ops.ingest_archive import is_archive, stage_archive
from imgtool.ops.ingest_file import opened, peek, stage_file
from imgtool.ops.ingest_layout import stage_layout
from imgtool.ops.sources import Source
from imgtool.ops.staging import Ingested, Staged, Wanted
from imgtool.stores import Commit, Ingester, Put, Records, Store

# So much is published in one step, to share the syncs.
_BATCH_FILES = 512
_BATCH_BYTES = 256 << 20


class Ingest:
    """One call of ingest.

    Args:
        store: where to.
        namespace: whose.
        wanted: the options.
        on_error: called with each failure; the others go on.
        say: called with what the user should know of a source, such as what is absent by choice.
        progress: called with the number of bytes of each content that is staged.
        dry_run: read and judge everything, and keep nothing.
    """

    def __init__(
        self,
        store: Store,
        namespace: str,
        wanted: Wanted,
        *,
        on_error: Callable[[ImgtoolError], None],
        say: Callable[[str], None],
        progress: Callable[[int], None],
        dry_run: bool = False,
    ) -> None:
        self._store = store
        self._records: Records = store.dry_run() if dry_run else store
        self._dry = DryIngester() if dry_run else None
        self._ns = namespace
        self._wanted = wanted
        self._on_error = on_error
        self._say = say
        self._progress = progress
        self._leases: list[str] = []  # of parts whose image has no name yet

    def run(self, from_: Iterable[Source]) -> Iterator[Ingested]:
        """Ingest every source; yields a row for each name, when it is durable.

        Raises:
            ImgtoolError: what concerns all sources, such as a full disk.
        """
        batch: list[Staged] = []
        try:
            for source in from_:
                staged = self._try(source)
                if staged is None:
                    continue
                batch.append(staged)
                count, size = sum(len(s.commits) for s in batch), sum(s.size() for s in batch)
                if count >= _BATCH_FILES or size >= _BATCH_BYTES or staged.nameless:
                    yield from self._publish(batch)
                    batch = []
            if batch:  # nothing makes no store, and waits for no lock
                yield from self._publish(batch)
        finally:
            for staged in batch:
                staged.close()
            self._release()
            if self._dry is not None:
                self._dry.close()

    def _try(self, source: Source) -> Staged | None:
        try:
            return self._stage(source)
        except OSError as error:
            self._on_error(from_oserror(error, "cannot read"))
        except ImgtoolError as error:
            self._on_error(error)
        return None

    def _stage(self, source: Source) -> Staged:
        content: Ingester = self._dry or self._store.content(self._ns)
        if source.kind == sources.LAYOUT:
            return stage_layout(content, source, self._wanted, self._progress, self._land)
        with opened(source) as here:
            archive = source.kind in (sources.OCI_ARCHIVE, sources.DOCKER_ARCHIVE)
            if source.kind == sources.AUTO:
                head, here = peek(here)
                archive = is_archive(head, source.what)
            if not archive:
                return stage_file(content, here, self._wanted, self._progress)
            readable = Prefixed(here.head, FileSource(here.fd, source.path))
            return stage_archive(content, readable, source, self._wanted, self._progress, self._land)

    def _land(self, commits: Sequence[Commit]) -> None:
        """See `ingest_images.Land`."""
        if self._dry is None:
            hold = lease_until_named(c.expected for c in commits if c.expected)
            self._store.publish(self._ns, commits, hold=hold, lease=self._wanted.lease)
            self._leases.append(hold.id)
        for commit in commits:
            commit.writer.close()

    def _release(self) -> None:
        """Let go of the parts: their images have names, or never will."""
        for id in self._leases:
            with suppress(ImgtoolError):  # then it expires
                self._store.leases(self._ns).delete(id)
        self._leases.clear()

    def _publish(self, batch: Sequence[Staged]) -> Iterator[Ingested]:
        for staged in batch:
            for note in staged.notes:
                self._say(note)
        commits = [commit for staged in batch for commit in staged.commits]
        puts = [Put(image, self._wanted.replace) for staged in batch for image in staged.images]
        nameless = [c.expected for staged in batch if staged.nameless for c in staged.commits if c.expected]
        hold = lease_for(nameless[0]) if nameless and self._wanted.lease is None else None
        if self._dry is not None:
            published = self._records.publish(self._ns, puts=puts, lease=self._wanted.lease)
        else:
            published = self._store.publish(self._ns, commits, puts, hold=hold, lease=self._wanted.lease)
        rows = iter(zip(puts, published.images, strict=True))
        for staged in batch:
            if staged.nameless:
                yield from (
                    Ingested(c.writer.digest(), "-", c.writer.status().offset) for c in staged.commits
                )
            for put, outcome in islice(rows, len(staged.images)):
                if isinstance(outcome, AlreadyExists) and self._wanted.if_absent:
                    outcome = self._existing(put)
                if isinstance(outcome, ImgtoolError):
                    self._on_error(outcome)
                else:
                    yield Ingested(outcome.target.digest, outcome.name, outcome.target.size)

    def _existing(self, put: Put) -> Image | ImgtoolError:
        """The image that is there; or this one, where that was deleted meanwhile."""
        try:
            return self._records.images(self._ns).get(put.image.name)
        except NotFound:
            again = put._replace(needs=frozenset([put.image.target.digest]))
            return self._records.publish(self._ns, puts=[again], lease=self._wanted.lease).images[0]
