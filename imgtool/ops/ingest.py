"""Take bytes into a store, under names: stage all of them, verify, then publish in one step.

A source is staged whole before anything of it is published, so that what is refused leaves nothing
under a name. Bytes are always read and hashed, also those that the store already has: publishing
replaces a damaged object by the good bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from imgtool.digest import BLAKE3, Digest
from imgtool.errors import (
    AlreadyExists,
    FailedPrecondition,
    ImgtoolError,
    InvalidArgument,
    NotFound,
    from_oserror,
)
from imgtool.model import Descriptor, Image, Lease, Platform
from imgtool.ops import sources
from imgtool.ops.dry import DryIngester
from imgtool.ops.hold import lease_for
from imgtool.ops.sources import Source
from imgtool.stores import Commit, Ingester, Put, Store, Writer

# So much is published in one step, to share the syncs.
_BATCH_FILES = 512
_BATCH_BYTES = 256 << 20

OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class Wanted:
    """What is asked for besides the sources; see imgtool-ingest(1)."""

    names: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    media_type: str = OCTETS
    expected_digest: Digest | None = None
    expected_size: int | None = None
    algorithm: str = BLAKE3
    ref: str | None = None
    platform: Platform | None = None
    if_absent: bool = False
    replace: bool = False


@dataclass(frozen=True)
class Ingested:
    """One line of the result. `name` is `-` for content that only a lease holds."""

    digest: Digest
    name: str
    size: int


@dataclass
class Staged:
    """What one source becomes when it is published."""

    commits: list[Commit] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    hold: Lease | None = None
    notes: list[str] = field(default_factory=list)

    def size(self) -> int:
        return sum(commit.writer.status().offset for commit in self.commits)

    def close(self) -> None:
        for commit in self.commits:
            commit.writer.close()


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
        self._dry_run = dry_run
        self._ns = namespace
        self._wanted = wanted
        self._on_error = on_error
        self._say = say
        self._progress = progress

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
                if count >= _BATCH_FILES or size >= _BATCH_BYTES or staged.hold:
                    yield from self._publish(batch)
                    batch = []
            yield from self._publish(batch)
        finally:
            for staged in batch:
                staged.close()

    def _try(self, source: Source) -> Staged | None:
        try:
            return self._stage(source)
        except OSError as error:
            self._on_error(from_oserror(error, "cannot read"))
        except ImgtoolError as error:
            self._on_error(error)
        return None

    def _stage(self, source: Source) -> Staged:
        content: Ingester = DryIngester() if self._dry_run else self._store.content(self._ns)
        if source.kind == sources.FILE:
            return stage_file(content, source, self._wanted, self._progress)
        from imgtool.ops.ingest_layout import stage_layout

        return stage_layout(content, source, self._wanted, self._progress)

    def _publish(self, batch: Sequence[Staged]) -> Iterator[Ingested]:
        for staged in batch:
            for note in staged.notes:
                self._say(note)
        commits = [commit for staged in batch for commit in staged.commits]
        puts = [Put(image, self._wanted.replace) for staged in batch for image in staged.images]
        hold = next((staged.hold for staged in batch if staged.hold), None)
        if self._dry_run:
            outcomes: Sequence[Image | ImgtoolError] = [self._would_put(put) for put in puts]
        else:
            outcomes = self._store.publish(self._ns, commits, puts, hold=hold).images
        if hold is not None:
            for commit in batch[-1].commits:
                yield Ingested(commit.writer.digest(), "-", commit.writer.status().offset)
        for put, outcome in zip(puts, outcomes, strict=True):
            if isinstance(outcome, AlreadyExists) and self._wanted.if_absent:
                outcome = self._store.images(self._ns).get(put.image.name)
            if isinstance(outcome, ImgtoolError):
                self._on_error(outcome)
            else:
                yield Ingested(outcome.target.digest, outcome.name, outcome.target.size)

    def _would_put(self, put: Put) -> Image | ImgtoolError:
        try:
            there: Image | None = self._store.images(self._ns).get(put.image.name)
        except NotFound:
            there = None
        try:
            return put.over(there)
        except AlreadyExists as error:
            return error


def stage_file(content: Ingester, source: Source, wanted: Wanted, progress: Callable[[int], None]) -> Staged:
    """Stage a plain file, a pipe or stdin, to become an image.

    Raises:
        InvalidArgument: it is empty and has a name; and as `stage_bytes`.
    """
    commit = stage_bytes(content, source, wanted, progress)
    try:
        return _named(source, wanted, commit)
    except BaseException:
        commit.writer.close()
        raise


def stage_bytes(content: Ingester, source: Source, wanted: Wanted, progress: Callable[[int], None]) -> Commit:
    """Stage the bytes of a plain file, a pipe or stdin. The commit has their size and digest.

    Raises:
        InvalidArgument: it is a directory or device.
        FailedPrecondition: size or digest are not those expected.
        NotFound: it is not there.
    """
    fd = _open(source)
    try:
        expected = wanted.expected_digest
        algorithm = expected.algorithm if expected else wanted.algorithm
        if wanted.ref is None:
            writer: Writer = content.stage(algorithm=algorithm)
        else:
            writer = content.writer(wanted.ref, algorithm=algorithm)
            writer.replay()
        try:
            size = writer.copy_from(fd, wanted.expected_size)
            what = _what(source)
            if wanted.expected_size not in (None, size):
                found = f"{size} bytes" if size < (wanted.expected_size or 0) else "more bytes"
                raise FailedPrecondition(f"{what} has {found}, expected {wanted.expected_size}")
            digest = writer.digest()
            if expected not in (None, digest):
                raise FailedPrecondition(f"{what} is {digest}, expected {expected}")
            writer.finish()
            progress(size)
            return Commit(writer, size=size, expected=digest)
        except BaseException:
            writer.close()
            raise
    finally:
        if source.path != sources.STDIN:
            os.close(fd)


def _named(source: Source, wanted: Wanted, commit: Commit) -> Staged:
    digest, size = commit.expected, commit.size
    assert digest is not None
    assert size is not None
    names = list(wanted.names)
    if not names and source.path != sources.STDIN:
        names = [source.base_name]
    if not size and names:
        raise InvalidArgument(
            f"{_what(source)} is empty, which no image can be",
            hint="imgtool content ingest stores empty content",
        )
    target = Descriptor(wanted.media_type, digest, size)
    return Staged(
        commits=[commit],
        images=[Image(name, target, wanted.labels) for name in names],
        hold=None if names else lease_for(digest),
    )


def _what(source: Source) -> str:
    return "stdin" if source.path == sources.STDIN else f"'{source.path}'"


def _open(source: Source) -> int:
    if source.path == sources.STDIN:
        return 0
    try:
        fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_oserror(error, "cannot open source") from None
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return fd
    os.close(fd)
    kind = "a directory" if stat.S_ISDIR(mode) else "a device"
    raise InvalidArgument(f"source '{source.path}' is {kind}, expected a file or a pipe")
