"""All records and objects at once, as gc needs them, directory by directory.

A directory is remembered, and read again only if its inode, mtime or ctime is another: writers stamp
the directories of records, and objects come and go by rename and unlink alone. What is remembered was
right when it was read: seals fitted, sizes were those of the files. Of the fan-out, content records
and objects, it is kept in `cache/` from one gc to the next. Images and leases, from which gc starts,
are never in there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from imgtool import clock, workers
from imgtool.digest import Digest
from imgtool.disk import cache, plain, read
from imgtool.disk.engine import collect
from imgtool.disk.layout import SUFFIX, Layout, inside, is_record
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument, from_oserror
from imgtool.model import ContentInfo, Image, Target
from imgtool.names import for_gc, name_of_file
from imgtool.stores import Inventory

if TYPE_CHECKING:
    from imgtool.disk.workspace import Workspace
    from imgtool.stores import OnError

_Start = str  # how the digests in a directory begin
_Look = Callable[[str, _Start], tuple[Any, bool]]
"""Returns what there is in a directory, and whether that is everything."""
_Usual = tuple[str, str, str, dict[str, str]]
"""What `plain.target` returns."""
_Thaw = Callable[[Sequence[Digest], Any], Any]

_CACHE = "gc-directories"
# What is worth a process of its own.
_MANY_DIRECTORIES = 100
_MANY_FILES = 2_000


class _Kept(NamedTuple):
    """What a directory held, and the same as the cache has it."""

    identity: read.Identity
    found: Any
    columns: list[Any] | None = None


class Remembered:
    """What directories held when they were read, by their paths below the root of the store. Only what can be
    told to be so still is remembered, see `read.steadily`.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.records: dict[str, tuple[int, Mapping[str, _Usual]]] = {}
        """Of the images in a directory, and since when (wall clock, nanoseconds) they are known."""
        self._for_now: dict[tuple[str, str], _Kept] = {}
        self._seen: dict[str, _Kept] = {}  # for later too
        self._ahead: dict[str, tuple[read.Identity, list[Any], bool]] = {}
        self._thawed: dict[_Start, tuple[str, Sequence[Digest]]] = {}
        self._new = 0

    @cached_property
    def _kept(self) -> dict[str, Any]:
        """What the last gc kept."""
        kept = cache.load(self._layout, _CACHE)
        return kept if isinstance(kept, dict) else {}

    def for_now(self, directory: str, what: str, look: Callable[[], tuple[Any, bool]]) -> Any:
        """What `look` finds in `directory`, which is asked only if the directory has changed. It is
        forgotten at the end of this gc.

        Args:
            what: it is that `look` finds there.
            look: returns also whether it has found everything.
        """
        seen = self._for_now.get((directory, what))
        if seen and seen.identity == read.identity(directory):
            return seen.found
        looked = read.steadily(directory, look)
        if looked.is_steady:
            self._for_now[directory, what] = _Kept(looked.identity, looked.found)
        return looked.found

    def for_later(self, directory: str, start: _Start, look: _Look, thaw: _Thaw) -> Any:
        """As `for_now`, of a directory of the fan-out, and it is remembered for the next gc too.

        Args:
            thaw: makes what `look` returned of digests and what `_frozen` made of it.
        """
        key, identity = self._key(directory), read.identity(directory)
        seen = self._seen.get(key)
        if seen and seen.identity == identity:
            return seen.found
        before, columns, is_steady = self._ahead.pop(key, ((), [], False))
        if identity and before == identity:
            found = thaw(self._digests(start, columns), columns)
            if is_steady:
                self._seen[key] = _Kept(identity, found, columns)
                self._new += 1
            return found
        kept = self._kept.pop(key, None)
        if identity and kept is not None:
            with suppress(AttributeError, TypeError, ValueError, LookupError, InvalidArgument):
                before, *columns = kept
                if tuple(before) == identity:
                    found = thaw(self._digests(start, columns), columns)
                    self._seen[key] = _Kept(identity, found, columns)
                    return found
        looked = read.steadily(directory, partial(look, directory, start))
        if looked.is_steady:
            self._seen[key] = _Kept(looked.identity, looked.found)
            self._new += 1
        return looked.found

    def read_ahead(self, directories: Sequence[tuple[str, _Start]], look: _Look) -> None:
        """Have what `for_later` is going to be asked looked at by several processes, if it is much."""
        if workers.processes() < 2:
            return
        new = [(directory, start) for directory, start in directories if not self._has(directory)]
        if len(new) < 2 * _MANY_DIRECTORIES:
            return
        for looked in workers.share(partial(_looked, look), new, _MANY_DIRECTORIES):
            for directory, identity, columns, is_steady in looked:
                self._ahead[self._key(directory)] = identity, columns, is_steady

    def seen(self, directory: str) -> Any:
        """What `directory` held when it was read for later; None where it was not, or has changed since."""
        seen = self._seen.get(self._key(directory))
        return seen.found if seen and seen.identity == read.identity(directory) else None

    def _digests(self, start: _Start, columns: list[Any]) -> Sequence[Digest]:
        """Most directories of objects hold what the one of records does: then these are the same."""
        rests = columns[0]
        before, digests = self._thawed.get(start, ("", ()))
        if rests != before:
            digests = [Digest(start + rest) for rest in rests.split()]
            self._thawed[start] = rests, digests
        return digests

    def _has(self, directory: str) -> bool:
        key, identity = self._key(directory), read.identity(directory)
        seen, kept = self._seen.get(key), self._kept.get(key)
        if seen and seen.identity == identity:
            return True
        return isinstance(kept, list) and bool(kept) and kept[0] == [*identity]

    def _key(self, directory: str) -> str:
        return directory[len(self._layout.root) + 1 :]

    def keep(self, workspace: Workspace) -> None:
        """Put all that was asked for into `cache/`, if much of it is not there yet."""
        if cache.is_worth(self._new, len(self._seen)):
            kept = {key: [s.identity, *(s.columns or _frozen(s.found))] for key, s in self._seen.items()}
            cache.save(self._layout, workspace, _CACHE, kept)


def content(
    directory: str, load: Callable[[Digest], ContentInfo | None], on_error: OnError
) -> Iterator[ContentInfo]:
    """The content records below `directory`, in byte order of the digests.

    Args:
        load: reads the record of a digest; None where there is none any more.
    """
    for deep, start in _directories(directory):
        for entry in read.branch(deep):
            if is_record(entry):
                name = start + entry[: -len(SUFFIX)]
                info = collect(on_error, lambda name: load(_recorded(name)), name)
                if info:
                    yield info


def inventory(
    directory: str,
    memory: Remembered | None,
    load: Callable[[Digest], ContentInfo | None],
    on_error: OnError,
) -> Inventory:
    """As `content`, of each what gc needs."""
    all = Inventory({}, {})
    look, quiet = (partial(_sizes, load, told) for told in (on_error, None))
    for found in _each(directory, memory, look, _thaw_sizes, quiet):
        all.sizes.update(found.sizes)
        all.labels.update(found.labels)
    return all


def objects(directory: str, memory: Remembered | None) -> Iterator[tuple[Digest, int]]:
    """The objects below `directory` and their sizes, in byte order of the digests."""
    for found in _each(directory, memory, _objects, _thaw_objects):
        yield from found.items()


def targets(
    directory: str, memory: Remembered | None, load: Callable[[str], Image | None], on_error: OnError
) -> Mapping[str, Target]:
    """The images whose records lie in `directory`, in byte order of their names.

    Args:
        load: reads the record in a file; None where there is none any more.
    """
    look = partial(_targets, directory, memory, load, on_error)
    found: Mapping[str, Target] = memory.for_now(directory, "targets", look) if memory else look()[0]
    return found


def _each(
    directory: str, memory: Remembered | None, look: _Look, thaw: _Thaw, quiet: _Look | None = None
) -> Iterator[Any]:
    """What `look` finds in each directory of the fan-out below `directory`.

    Args:
        quiet: as `look`, and raises where that would tell of an error.
    """
    directories = list(_directories(directory))
    if memory:
        memory.read_ahead(directories, quiet or look)
    for deep, start in directories:
        yield memory.for_later(deep, start, look, thaw) if memory else look(deep, start)[0]


def _looked(
    look: _Look, directories: Sequence[tuple[str, _Start]]
) -> list[tuple[str, read.Identity, list[Any], bool]]:
    """What was whole and did not change meanwhile, as the cache has it, and whether that is steady."""
    all = []
    for directory, start in directories:
        with suppress(ImgtoolError):  # is told by who looks again
            found, identity, is_steady = read.steadily(directory, partial(look, directory, start))
            if identity:
                all.append((directory, identity, _frozen(found), is_steady))
    return all


def _directories(directory: str) -> Iterator[tuple[str, _Start]]:
    """The directories `<algorithm>/<2 hex>` below `directory`, and how the digests in them begin."""
    for algorithm in read.entries(directory):
        above = inside(directory, algorithm)
        for prefix in read.branch(above):
            yield inside(above, prefix), f"{algorithm}:{prefix}"


def _sizes(
    load: Callable[[Digest], ContentInfo | None], on_error: OnError, directory: str, start: _Start
) -> tuple[Inventory, bool]:
    found, is_whole = Inventory({}, {}), True
    records = [entry for entry in read.branch(directory) if is_record(entry)]
    for entry, data in read.small_files(directory, records):
        name = start + entry[: -len(SUFFIX)]
        usual = plain.size(data)
        if usual and usual[0] == name:
            digest, size, labels = Digest(name), usual[1], usual[2]
        else:
            info = collect(on_error, lambda name: load(_recorded(name)), name)
            if info is None:
                is_whole = False
                continue
            digest, size, labels = info.digest, info.size, for_gc(info.labels)
        found.sizes[digest] = size
        if labels:
            found.labels[digest] = labels
    return found, is_whole


def _targets(
    directory: str, memory: Remembered | None, load: Callable[[str], Image | None], on_error: OnError
) -> tuple[dict[str, Target], bool]:
    found: dict[str, Target] = {}
    is_whole = True
    records = [entry for entry in read.entries(directory) if is_record(entry)]
    for entry, usual in _read_targets(directory, memory, records):
        if usual:
            name, digest, media_type, labels = usual
            found[name] = Target(Digest(digest), media_type, labels)
        elif image := collect(on_error, load, inside(directory, entry)):
            target = image.target
            found[image.name] = Target(target.digest, target.media_type, for_gc(image.labels))
        else:
            is_whole = False
    return {name: found[name] for name in sorted(found)}, is_whole


def _read_targets(
    directory: str, memory: Remembered | None, records: Sequence[str]
) -> list[tuple[str, _Usual | None]]:
    """Of each record what `plain.target` makes of it; None if that is nothing, or has another name. What has
    not changed since this gc read it is not read again.
    """
    now = clock.wall()
    looked, before = memory.records.get(directory, (0, {})) if memory else (0, {})
    known: list[tuple[str, _Usual | None]] = []
    for entry in before.keys() & set(records) if before else ():
        identity = read.identity(inside(directory, entry))
        if identity and read.is_settled(identity, looked):
            known.append((entry, before[entry]))
    if known:
        records = sorted(set(records).difference(entry for entry, _ in known))
    parts = workers.share(partial(_usual_targets, directory), records, _MANY_FILES)
    all = [*known, *chain.from_iterable(parts)]
    if memory:
        memory.records[directory] = now, {entry: usual for entry, usual in all if usual}
    return all


def _usual_targets(directory: str, records: Sequence[str]) -> list[tuple[str, _Usual | None]]:
    all: list[tuple[str, _Usual | None]] = []
    for entry, data in read.small_files(directory, records):
        usual = plain.target(data)
        fits = usual and usual[0] == name_of_file(entry[: -len(SUFFIX)])
        all.append((entry, usual if fits else None))
    return all


def _recorded(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidArgument as error:
        raise DataLoss(f"content record '{text}': {error.message}") from None


def _objects(directory: str, start: _Start) -> tuple[dict[Digest, int], bool]:
    found: dict[Digest, int] = {}
    names = read.branch(directory) if start[-3] == ":" else []  # not two digits: no object is there
    if not names:
        return found, True
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return found, False
    except OSError as error:
        raise from_oserror(error, "cannot list") from error
    try:
        for name in names:
            try:
                digest = Digest.parse(start + name)
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except (InvalidArgument, FileNotFoundError):
                continue
            if stat.S_ISREG(status.st_mode):
                found[digest] = status.st_size
    except OSError as error:
        raise from_oserror(error, "cannot look at object") from error
    finally:
        os.close(fd)
    return found, True


# --- in the cache ----------------------------------------------------------------------------------


def _frozen(found: Inventory | dict[Digest, int]) -> list[Any]:
    """Few and long values, because JSON reads those the fastest."""
    if isinstance(found, Inventory):
        labels = [[n, found.labels[digest]] for n, digest in enumerate(found.sizes) if digest in found.labels]
        return [*_frozen(found.sizes), labels]
    return [" ".join(digest[digest.index(":") + 3 :] for digest in found), list(found.values())]


def _thaw_objects(digests: Sequence[Digest], kept: list[Any]) -> dict[Digest, int]:
    _, sizes = kept
    return dict(zip(digests, sizes, strict=True))


def _thaw_sizes(digests: Sequence[Digest], kept: list[Any]) -> Inventory:
    _, sizes, labels = kept
    return Inventory(dict(zip(digests, sizes, strict=True)), {digests[n]: of for n, of in labels})
