"""The contracts: what a store does, whoever keeps the bytes.

The cut is containerd's (`core/content/content.go`, `core/images/image.go`, `core/leases/lease.go`):
**ContentStore = Manager + Provider + IngestManager + Ingester**, and **ImageStore**, each bound to
one namespace; **Store** joins them. `imgtool.disk` keeps them in files, `imgtool.memory` in dicts;
both pass the suites in `tests/conformance/`. Functions take the narrowest protocol that serves them.

Every method may raise InvalidArgument for an argument that could never be right, and PermissionDenied,
ResourceExhausted, Unavailable or ImgtoolError for what the machine refuses; only what says more is
listed. A change that raised has changed nothing, but for one exception: content that already exists
is put under the writer's lease all the same. A change that returned is durable.

`filters` are containerd's (see `imgtool.filters`): arguments are OR, commas inside one are AND, none
match everything. Lists are in byte order of the name, id or digest.

`on_error`: what to do with a record that cannot be read while listing. None raises at the first;
a function is called with the DataLoss for each, and the listing goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, ImgtoolError
from imgtool.model import (
    EMPTY,
    ContentInfo,
    Happening,
    Image,
    IngestStatus,
    Lease,
    Namespace,
    References,
    Referred,
    Settings,
    Target,
)

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

OnError = Callable[[ImgtoolError], None] | None


class Reader(Protocol):
    """Open content. The caller closes it; `with` does."""

    size: int

    def read(self, n: int = -1, /) -> bytes:
        """The next `n` bytes, fewer at the end, empty past it; -1 means all that is left."""

    def read_at(self, n: int, offset: int) -> bytes:
        """Up to `n` bytes from `offset`; the position of `read` stays."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Inventory(NamedTuple):
    """The content records of a namespace, as far as gc needs them."""

    sizes: dict[Digest, int]
    labels: dict[Digest, Mapping[str, str]]
    """Of those that have labels for gc (`containerd.io/gc.`): these labels, and maybe others. Where they are
    as `Referred.labelled` says, they are left out.
    """
    references: dict[Digest, Referred]
    """Of those whose record tells what they refer to."""


class Provider(Protocol):
    """Reads content."""

    def reader(self, digest: Digest) -> Reader:
        """Open the content called `digest`. Its bytes are not hashed here: who needs that reads with
        `imgtool.oci.blob.read`, or hashes on the way.

        Raises:
            NotFound: this namespace has no record of it.
            DataLoss: it has, and the object is missing or of another size.
        """


class Manager(Protocol):
    """Knows which content a namespace has, and its labels."""

    def info(self, digest: Digest) -> ContentInfo:
        """The record of `digest`.

        Raises:
            NotFound: this namespace has none.
            DataLoss: the record cannot be read.
        """

    def update(self, info: ContentInfo, *paths: str) -> ContentInfo:
        """Replace labels of `info.digest` by those in `info`; returns the record as it is then.

        Args:
            info: digest and labels; an empty value removes its label.
            paths: `labels` or `labels.KEY`; none replaces all labels.

        Raises:
            NotFound: this namespace has no record of it.
        """

    def list(self, *filters: str, on_error: OnError = None) -> Iterator[ContentInfo]:
        """The records that match. Fields: `digest`, `labels.KEY`."""

    def delete(self, digest: Digest) -> None:
        """Drop the record, also one that cannot be read. The bytes go with a later gc, when no
        namespace has them; images that refer to it are not asked.

        Raises:
            NotFound: this namespace has none.
        """


class Writer(Protocol):
    """One write that is under way. Closed without commit, a named one stays to be resumed; an
    anonymous one is gone.
    """

    @property
    def ref(self) -> str:
        """What names the write; empty for an anonymous one."""

    def status(self) -> IngestStatus: ...

    def digest(self) -> Digest:
        """The digest of the bytes so far."""

    def write(self, data: Buffer, /) -> int:
        """Append all of `data`; returns its length."""

    def copy_from(self, fd: int, limit: int | None = None) -> int:
        """Append what the file descriptor still gives, the fastest way there is.

        Args:
            fd: open for reading; a regular file is read from its current position.
            limit: read at most so many bytes and one more, to notice that there are too many.

        Returns:
            the number of bytes appended.
        """

    def truncate(self, size: int) -> None:
        """Start over.

        Raises:
            InvalidArgument: `size` is not 0.
        """

    def replay(self) -> None:
        """Go back to the start without dropping what is kept. What is written from here on is
        compared with the kept bytes; from the first difference on, those are replaced. So a repeat
        of a stream resumes it, and another stream is never mixed with it.
        """

    def reader(self) -> Reader:
        """Open the bytes written so far, which nobody else sees yet. It ends with the write."""

    def finish(self) -> None:
        """Say that all bytes are written, and free what the write holds open. They are durable only
        with `commit` or `Store.publish`.
        """

    def commit(
        self,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> ContentInfo:
        """Publish the bytes under their digest, durable, with a record in this namespace.

        Bytes that the store already has are replaced by these (which heals a damaged object).

        Args:
            size: what the length must be.
            expected: what the bytes must hash to; in another algorithm than the writer's it is
                computed anew.
            labels: of the new record.

        Raises:
            FailedPrecondition: length or digest differ; the ingest stays as it is.
            AlreadyExists: this namespace already had the record, which is unchanged; the ingest is gone.
            Unavailable: the bytes were lent, and are gone; the ingest stays, and opened anew it has none.
        """

    def close(self) -> None:
        """End without commit; nothing happens when it has been committed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class IngestManager(Protocol):
    """Knows the unfinished writes of a namespace."""

    def status(self, ref: str) -> IngestStatus:
        """
        Raises:
            NotFound: no such ingest.
        """

    def statuses(self, *filters: str) -> Iterator[IngestStatus]:
        """The ingests that match. Field: `ref`."""

    def abort(self, ref: str) -> None:
        """Drop an ingest and its bytes.

        Raises:
            NotFound: no such ingest.
            Unavailable: another process is writing it.
        """


class Ingester(Protocol):
    """Writes content."""

    def writer(
        self,
        ref: str,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        algorithm: str | None = None,
        lease: str | None = None,
    ) -> Writer:
        """Start or resume the write named `ref`, at the end of the bytes it has; also one that has
        expired, as long as no gc has come by. Brings the namespace into being.

        What another namespace has and lends (`Settings.lends`) need not be sent: where the write has no
        bytes of its own, and `size` is not another, it then stands at the end of those of `expected`,
        and only the writer's status counts them. Committed as it is, it adds the record. More may be
        written behind them, and `truncate` and `replay` begin with none; the other's content stays as it
        is. Where nothing is lent, nothing tells what others have.

        Args:
            ref: names the write while it lasts, not the content; 1 to 1,024 bytes of UTF-8.
            size: its length if known; a resumed write that was opened with another one starts over.
            expected: what the bytes will hash to; it also chooses the algorithm. An object of it is kept
                from gc as long as the ingest, whoever has it.
            algorithm: what to hash with where nothing is expected; sha256 unless said.
            lease: the lease that holds the ingest and then the content, if it is still there; without
                one a new ingest expires after 24 h, and a resumed one keeps the lease it has.

        Raises:
            AlreadyExists: `expected` is recorded in this namespace and whole.
            NotFound: no such lease, or its time is past.
            Unavailable: another process is writing `ref`.
        """

    def stage(self, *, algorithm: str) -> Writer:
        """Start an anonymous write, which cannot be resumed and leaves nothing when closed."""


class ContentStore(Manager, Provider, IngestManager, Ingester, Protocol):
    """The content of one namespace."""

    def inventory(self, *, on_error: OnError = None) -> Inventory:
        """All records, in byte order of the digests; much faster than `list` where little has changed."""


class ImageStore(Protocol):
    """The images of one namespace."""

    def get(self, name: str) -> Image:
        """
        Raises:
            NotFound: no such image.
            DataLoss: its record cannot be read.
        """

    def names(self, *, on_error: OnError = None) -> list[str]:
        """All names, without reading the records where that is possible: what cannot be read is then
        not noticed.
        """

    def list(self, *filters: str, on_error: OnError = None) -> Iterator[Image]:
        """The images that match. Fields: `name`, `target.digest`, `target.mediatype`,
        `labels.KEY`, `annotations.KEY` (of the target).
        """

    def targets(self, *, on_error: OnError = None) -> Mapping[str, Target]:
        """All images by their names, as far as gc needs them; much faster than `list`."""

    def create(self, image: Image, *, needs: Iterable[Digest] = ()) -> Image:
        """Add an image; its times are set here. Brings the namespace into being.

        Args:
            image: the record; its content need not be there, as in containerd.
            needs: digests that must be recorded here and whole in the moment the image appears,
                so that no gc can have taken them since the caller looked.

        Raises:
            AlreadyExists: the name is taken.
            NotFound: one of `needs` is not there.
        """

    def update(
        self, image: Image, *paths: str, if_target: Digest | None = None, needs: Iterable[Digest] = ()
    ) -> Image:
        """Replace parts of the image called `image.name`; `created` stays, `updated` is set.

        Args:
            image: the values.
            paths: `labels`, `labels.KEY`, `target`, `annotations`, `annotations.KEY`, applied in
                order; none replaces the whole record, labels and annotations too.
            if_target: change it only if its target has this digest.
            needs: as in `create`.

        Raises:
            NotFound: no such image, or one of `needs` is not there.
            DataLoss: one of `needs` is recorded, and its object is missing or of another size.
            FailedPrecondition: the target is not `if_target`.
        """

    def rename(self, name: str, new: str, *, if_target: Digest | None = None) -> Image:
        """Create `new` with the record of `name`, then delete `name`: two changes, in that order.
        A repeat after a crash between them finishes: `new` counts as created if it is as `name` is,
        but for its times. No other client's change comes between the two.

        Raises:
            NotFound: neither is there.
            AlreadyExists: `new` is there with another target or other labels.
            FailedPrecondition: the target is not `if_target`.
            InvalidArgument: both names are the same.
        """

    def delete(
        self, name: str, *, target: Digest | None = None, seen: Image | None = None, unless_held: bool = False
    ) -> Image:
        """Remove the record and return it; its content stays until gc. No other client's change comes
        between the comparisons and that.

        Args:
            target: remove it only if it points to this digest.
            seen: remove it only if the record is this one, in every field.
            unless_held: remove it only if no lease whose time is not past lists it as an image.

        Raises:
            NotFound: no such image.
            FailedPrecondition: the target is not `target`, the record not `seen`, or a lease lists it.
        """


class LeaseStore(Protocol):
    """The leases of one namespace. A lease holds resources, by type and id, until it is deleted or the
    time in its label `containerd.io/gc.expire` has passed. Types are those of `names.check_resource`.
    """

    def get(self, id: str) -> Lease:
        """
        Raises:
            NotFound: no such lease.
        """

    def list(self, *filters: str, on_error: OnError = None) -> Iterator[Lease]:
        """The leases that match. Fields: `id`, `labels.KEY`."""

    def create(self, lease: Lease) -> Lease:
        """
        Raises:
            AlreadyExists: the id is taken.
        """

    def update(self, lease: Lease, *paths: str) -> Lease:
        """Replace labels; `paths` as in Manager.update.

        Raises:
            NotFound: no such lease.
        """

    def delete(self, id: str) -> None:
        """Let go of all that the lease holds. Works also where its record cannot be read.

        Raises:
            NotFound: no such lease.
        """

    def add(self, id: str, type: str, *resources: str, needs: Iterable[Digest] = ()) -> None:
        """Hold `resources`; those it holds already stay. They need not exist.

        Args:
            needs: digests that must be recorded here and whole in the moment from which they are held.

        Raises:
            NotFound: no such lease, or its time is past; or one of `needs` is not there.
            DataLoss: one of `needs` is recorded, and its object is missing or of another size.
            InvalidArgument: no lease holds resources of that type, or content is no digest.
        """

    def remove(self, id: str, type: str, *resources: str) -> None:
        """Let go of `resources`; those it does not hold are passed over.

        Raises:
            NotFound: no such lease.
        """


class NamespaceStore(Protocol):
    """The namespaces of a store. One also comes into being with its first record or named write."""

    def get(self, name: str) -> Namespace:
        """
        Raises:
            NotFound: no such namespace.
        """

    def list(self, *filters: str, on_error: OnError = None) -> Iterator[Namespace]:
        """The namespaces that match. Fields: `name`, `labels.KEY`."""

    def create(self, namespace: Namespace) -> Namespace:
        """
        Raises:
            AlreadyExists: it is there.
        """

    def update(self, namespace: Namespace, *paths: str) -> Namespace:
        """Replace labels; `paths` as in Manager.update. An absent namespace is created, as in containerd."""

    def delete(self, name: str) -> None:
        """Remove an empty namespace; its leases and ingests go with it.

        Raises:
            NotFound: no such namespace.
            FailedPrecondition: it still has images or content.
        """


class Commit(NamedTuple):
    """Content to publish: a writer that has all its bytes, and what `Writer.commit` takes; and what a record
    of it may tell of what it refers to. With `is_document` it was read as a manifest or index: then nothing
    else may be told.
    """

    writer: Writer
    size: int | None = None
    expected: Digest | None = None
    labels: Mapping[str, str] = EMPTY
    references: References | None = None
    is_document: bool = False


class Put(NamedTuple):
    """An image to publish. A name that points to the same digest already is left as it is; with another
    it fails (AlreadyExists). With `replace`, only a name with the very same target is left as it is.
    """

    image: Image
    replace: bool = False
    needs: frozenset[Digest] = frozenset()

    def over(self, there: Image | None) -> Image:
        """The record that stands afterwards, where `there` stood before; `there` itself if nothing
        changes. Times are the store's to set.

        Raises:
            AlreadyExists: it has another target, and is not to be replaced.
        """
        if there is None:
            return self.image
        same = there.target.digest == self.image.target.digest
        if there.target == self.image.target or (same and not self.replace):
            return there
        if not self.replace:
            raise AlreadyExists(
                f"image '{there.name}' already exists, with target {there.target.digest}",
                hint="use --replace to point it to the new content",
            )
        return self.image


class Published(NamedTuple):
    """What `Store.publish` did: a record for each commit, and for each put the image or its error."""

    content: Sequence[ContentInfo]
    images: Sequence[Image | ImgtoolError]


class Entry(NamedTuple):
    """One change of a record, as a store remembers it.

    `time`: in nanoseconds since the epoch; 0 where nothing tells. `kind`: "image", "content", "lease" or
    "namespace". `old`, `new`: None where there was no such record, or is none then. `by_gc`: a gc was about
    to remove it, and nothing but its name is remembered.
    """

    time: int
    kind: str
    name: str
    old: Image | ContentInfo | Lease | Namespace | None = None
    new: Image | ContentInfo | Lease | Namespace | None = None
    by_gc: bool = False


class Litter(NamedTuple):
    """What an unfinished write left behind."""

    kind: str  # "ingest", or "temporary" for the files of a process that is gone
    namespace: str  # of an ingest, else empty
    name: str  # the ref of an ingest, else a name below `tmp/`
    size: int


class Garbage(NamedTuple):
    """What a gc removes. Content records, leases and images are by namespace."""

    content: Mapping[
        str, Sequence[Digest]
    ]  # in the order of removal: what refers comes before what it refers to
    leases: Mapping[str, Sequence[str]]
    objects: Mapping[Digest, int]  # and their sizes
    litter: Sequence[Litter]
    images: Mapping[str, Sequence[str]] = EMPTY  # those whose time is up


class ContentRecords(Manager, IngestManager, Protocol):
    """The content of one namespace, but for the bytes."""


class Records(Protocol):
    """Images, content records, leases and namespaces."""

    @property
    def namespaces(self) -> NamespaceStore: ...

    def images(self, namespace: str) -> ImageStore: ...

    def content(self, namespace: str) -> ContentRecords: ...

    def leases(self, namespace: str) -> LeaseStore: ...

    def publish(self, namespace: str, *, puts: Sequence[Put] = (), lease: str | None = None) -> Published:
        """See `Store.publish`."""


class Store(Records, Protocol):
    """Images, content, leases and namespaces over one set of bytes."""

    @property
    def settings(self) -> Settings:
        """How it behaves, as its owner has set it."""

    def content(self, namespace: str) -> ContentStore: ...

    def dry_run(self) -> Records:
        """These records, to try changes on: each is checked, and returns or raises what it would here, and
        nothing is written. `get`, `info` and further changes find what has been tried; lists need not.
        Nothing is locked: as the store is when it is looked at.
        """

    def publish(
        self,
        namespace: str,
        commits: Sequence[Commit] = (),
        puts: Sequence[Put] = (),
        *,
        hold: Lease | None = None,
        lease: str | None = None,
    ) -> Published:
        """Publish many things in one step, in which no gc can come between them: first all content,
        then the leases, then the images. Syncs are shared, so that thousands of files cost little more
        than one. A crash leaves a prefix of that order; content without a name is gc's.

        Args:
            commits: content; a digest that is recorded already keeps its record, and the labels
                given here are added to it.
            puts: images, each for itself: one that fails does not stop the others.
            hold: a lease to create, or to renew if its id is there, as `rules.renewed` says.
            lease: a lease that is there, which then holds all content of `commits`, and of the puts
                that succeed what they need; and as in containerd the image, where that has the label
                `containerd.io/gc.expire`.

        Raises:
            FailedPrecondition: the length or digest of a commit differs; nothing was published.
            Unavailable: bytes that were lent are gone; nothing was published.
            NotFound: there is no such lease, or its time is past; nothing was published.
        """

    def history(self, namespace: str) -> Iterator[Entry]:
        """What has happened to the records of a namespace, also of one that was deleted; the newest first,
        and found one by one. What did not happen is left out, and so is what cannot be read. A gc removes
        images, then leases, then content, of each in the order of `Garbage`.
        """

    def object_size(self, digest: Digest) -> int | None:
        """The bytes of an object, of whatever namespace or of none; None where there is none."""

    def objects(self) -> Iterator[tuple[Digest, int]]:
        """Every object, of whatever namespace or of none, and its size, in byte order of the digests."""

    def litter(self, held: frozenset[tuple[str, str]]) -> Sequence[Litter]:
        """Ingests that are past their expiry (or have none) and temporary files, as far as no living
        process has them.

        Args:
            held: namespace and ref of ingests that a lease holds: those are no litter.
        """

    def remembering(self, *, keep: bool = False) -> AbstractContextManager[None]:
        """Inside, what was read once is read again only if it has changed. For gc, which looks at
        everything twice, at the objects last.

        Args:
            keep: what this tells of content and objects, but not of images and leases, may be kept for
                the next time.
        """

    def recall(self, name: str) -> Any:
        """The value that was kept under `name` by the same version of imgtool; None if it is gone: nobody
        must rely on it.
        """

    def keep(self, name: str, value: Any) -> None:
        """Keep a value that JSON can hold, if that is possible."""

    def since_gc(self) -> Iterator[Happening]:
        """What has changed since the last gc that ended, of each namespace the newest first. Found one by
        one, so that stopping early is cheap. What cannot be told is a Happening too, and no error. But of a
        namespace that was removed by hand, with its log, nothing is left that could tell.
        """

    def looking(self) -> Callable[[], None]:
        """Called before gc looks at the store without shutting out changes. Returns what to call if it
        found no garbage: `since_gc` is empty then for each namespace that has not changed since. Where
        that cannot be written, or not at once, it is left undone.
        """

    def removing(self, about: int = 0) -> AbstractContextManager[Callable[[Garbage], None]]:
        """Shut out every change, and give the function that removes garbage. For gc, which looks again
        inside: reading works there, and nothing changes meanwhile. Once it is called `since_gc` is
        empty, if that can be written. A crash while it removes leaves
        records without their parents, or objects without records: garbage still.

        Args:
            about: how many things that will be, as far as is known. For many, what others have written is
                made durable before they are shut out, so that it need not be meanwhile.

        Raises:
            Unavailable: others do not stop changing the store.
        """
