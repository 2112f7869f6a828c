"""What lies in the fan-out: content records and objects, directory by directory.

For gc a directory is remembered, and read again only if its inode, mtime or ctime is another: writers
stamp the directories of records, and objects come and go by rename and unlink alone. What is
remembered was right when it was read: seals fitted, sizes were those of the files. It is kept in
`cache/` from one gc to the next. Images and leases, from which gc starts, are never in there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from imgtool.digest import Digest
from imgtool.disk import cache, read
from imgtool.disk.engine import is_settled
from imgtool.disk.layout import SUFFIX, Layout, inside, is_record
from imgtool.errors import DataLoss, InvalidArgument, from_oserror
from imgtool.model import ContentInfo
from imgtool.names import GC_LABELS
from imgtool.stores import Inventory

if TYPE_CHECKING:
    from imgtool.disk.workspace import Workspace
    from imgtool.stores import OnError

_Identity = tuple[int, int, int]

_CACHE = "gc-directories"


class Seen(NamedTuple):
    """A directory as it was read."""

    identity: _Identity
    found: Any


class Memory:
    """What directories held when they were read, by their paths below the root of the store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._seen: dict[str, Seen] = {}
        kept = cache.load(layout, _CACHE)
        self._kept: dict[str, Any] = kept if isinstance(kept, dict) else {}
        self._new = 0

    def get(self, directory: str, look: Callable[[], tuple[Any, bool]], thaw: Callable[[Any], Any]) -> Any:
        """What `look` finds in `directory`, which is asked only if the directory has changed.

        Args:
            look: returns what there is, and whether it may be remembered.
            thaw: makes what `look` returned of what `_frozen` made of it.
        """
        key = directory[len(self._layout.root) + 1 :]
        before = _identity(directory)
        seen = self._seen.get(key)
        if seen and seen.identity == before:
            return seen.found
        kept = self._kept.pop(key, None)
        if before and kept is not None:
            with suppress(AttributeError, TypeError, ValueError, LookupError, InvalidArgument):
                identity, *columns = kept
                if tuple(identity) == before:
                    self._seen[key] = Seen(before, thaw(columns))
                    return self._seen[key].found
        found, is_good = look()
        if is_good and before and _identity(directory) == before and is_settled(before):
            self._seen[key] = Seen(before, found)
            self._new += 1
        return found

    def seen(self, directory: str) -> Any:
        """What `directory` held when it was read; None where it was not, or has changed since."""
        seen = self._seen.get(directory[len(self._layout.root) + 1 :])
        return seen.found if seen and seen.identity == _identity(directory) else None

    def keep(self, workspace: Workspace) -> None:
        """Put all that was asked for into `cache/`, if much of it is not there yet."""
        if cache.is_worth(self._new, len(self._seen)):
            kept = {key: [seen.identity, *_frozen(seen.found)] for key, seen in self._seen.items()}
            cache.save(self._layout, workspace, _CACHE, kept)


def content(
    directory: str, load: Callable[[Digest], ContentInfo | None], on_error: OnError
) -> Iterator[ContentInfo]:
    """The content records below `directory`, in byte order of the digests.

    Args:
        load: reads the record of a digest; None where there is none any more.
    """
    for deep, start in _directories(directory):
        yield from _records(deep, start, load, on_error)[0]


def inventory(
    directory: str,
    memory: Memory | None,
    load: Callable[[Digest], ContentInfo | None],
    on_error: OnError,
) -> Inventory:
    """As `content`, of each what gc needs."""
    all = Inventory({}, {})
    for deep, start in _directories(directory):
        look = partial(_taken, deep, start, load, on_error)
        found = memory.get(deep, look, partial(_thaw_records, start)) if memory else look()[0]
        all.sizes.update(found.sizes)
        all.labels.update(found.labels)
    return all


def objects(directory: str, memory: Memory | None) -> Iterator[tuple[Digest, int]]:
    """The objects below `directory` and their sizes, in byte order of the digests."""
    for deep, start in _directories(directory):
        if start[-3] != ":":
            continue  # not two digits: no object is there
        look = partial(_objects, deep, start)
        found = memory.get(deep, look, partial(_thaw_objects, start)) if memory else look()[0]
        yield from found.items()


def _directories(directory: str) -> Iterator[tuple[str, str]]:
    """The directories `<algorithm>/<2 hex>` below `directory`, and how the digests in them begin."""
    for algorithm in read.entries(directory):
        above = inside(directory, algorithm)
        for prefix in read.branch(above):
            yield inside(above, prefix), f"{algorithm}:{prefix}"


def _records(
    directory: str, start: str, load: Callable[[Digest], ContentInfo | None], on_error: OnError
) -> tuple[list[ContentInfo], bool]:
    found: list[ContentInfo] = []
    is_whole = True
    for entry in read.branch(directory):
        if not is_record(entry):
            continue
        try:
            record = load(_recorded(start + entry[: -len(SUFFIX)]))
        except DataLoss as error:
            if on_error is None:
                raise
            on_error(error)
            record = None
        if record is None:
            is_whole = False
        else:
            found.append(record)
    return found, is_whole


def _taken(
    directory: str, start: str, load: Callable[[Digest], ContentInfo | None], on_error: OnError
) -> tuple[Inventory, bool]:
    found, is_whole = _records(directory, start, load, on_error)
    sizes = {info.digest: info.size for info in found}
    return Inventory(sizes, {info.digest: told for info in found if (told := _for_gc(info.labels))}), is_whole


def _for_gc(labels: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if key.startswith(GC_LABELS)}


def _recorded(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidArgument as error:
        raise DataLoss(f"content record '{text}': {error.message}") from None


def _objects(directory: str, start: str) -> tuple[dict[Digest, int], bool]:
    found: dict[Digest, int] = {}
    names = read.branch(directory)
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
            with suppress(InvalidArgument, FileNotFoundError):
                digest = Digest.parse(start + name)
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found[digest] = status.st_size
    except OSError as error:
        raise from_oserror(error, "cannot look at object") from error
    finally:
        os.close(fd)
    return found, True


def _identity(directory: str) -> _Identity | tuple[()]:
    try:
        status = os.lstat(directory)
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


# --- in the cache ----------------------------------------------------------------------------------


def _frozen(found: Inventory | dict[Digest, int]) -> list[Any]:
    """Few and long values, because JSON reads those the fastest."""
    if isinstance(found, Inventory):
        labels = [[n, found.labels[digest]] for n, digest in enumerate(found.sizes) if digest in found.labels]
        return [*_frozen(found.sizes), labels]
    return [" ".join(digest[digest.index(":") + 3 :] for digest in found), list(found.values())]


def _thaw_objects(start: str, kept: list[Any]) -> dict[Digest, int]:
    rests, sizes = kept
    return dict(zip(_digests(start, rests), sizes, strict=True))


def _thaw_records(start: str, kept: list[Any]) -> Inventory:
    rests, sizes, labels = kept
    digests = _digests(start, rests)
    return Inventory(dict(zip(digests, sizes, strict=True)), {digests[n]: of for n, of in labels})


def _digests(start: str, rests: str) -> list[Digest]:
    return [Digest(start + rest) for rest in rests.split()]
