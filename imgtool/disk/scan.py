"""All records and objects at once, as gc needs them, directory by directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from imgtool import clock, workers
from imgtool.digest import Digest, completing
from imgtool.disk import plain, read, remembered
from imgtool.disk.engine import collect
from imgtool.disk.layout import SUFFIX, inside, is_record
from imgtool.disk.remembered import Columns, Images, Look, Remembered, Start, Thaw, Usual
from imgtool.errors import DataLoss, ImgtoolError, InvalidArgument, from_oserror
from imgtool.model import ContentInfo, Image, Target
from imgtool.names import for_gc, name_of_file
from imgtool.rules import are_labels_of
from imgtool.stores import Inventory

if TYPE_CHECKING:
    from imgtool.disk.layout import Layout
    from imgtool.stores import OnError

Load = Callable[[Digest], "ContentInfo | None"]
"""Reads the record of a digest; None where there is none any more."""

_MANY = 2_000  # images, which are worth a process of their own
_PART = 30  # images, which take about as long as a directory of content


def content(directory: str, load: Load, on_error: OnError) -> Iterator[ContentInfo]:
    """The content records below `directory`, in byte order of the digests."""
    for deep, start in _directories(directory):
        for entry in read.branch(deep).found:
            if is_record(entry):
                name = start + entry[: -len(SUFFIX)]
                info = collect(on_error, lambda name: load(_recorded(name)), name)
                if info:
                    yield info


def inventory(directory: str, memory: Remembered | None, load: Load, on_error: OnError) -> Inventory:
    """As `content`, of each what gc needs."""
    all = Inventory({}, {}, {})
    look = partial(_records, load, on_error)
    for found in _each(directory, memory, look, remembered.thaw_records):
        all.sizes.update(found.sizes)
        all.labels.update(found.labels)
        all.references.update(found.references)
    return all


def objects(directory: str, memory: Remembered | None) -> Iterator[tuple[Digest, int]]:
    """The objects below `directory` and their sizes, in byte order of the digests."""
    for found in _each(directory, memory, _objects, remembered.thaw_objects):
        yield from found.items()
    if memory:
        memory.forget_ahead()


def read_ahead(layout: Layout, memory: Remembered, load: Callable[[str], Load]) -> None:
    """Have all records of content and of images and all objects looked at by several processes, if it is
    much.

    Args:
        load: gives what `inventory` takes for a namespace.
    """
    if not memory.may_read_ahead():
        return
    memory.forget_ahead()  # where something cannot be listed, it is not tried again
    with suppress(ImgtoolError):  # is told by who looks again
        looks: list[tuple[str, Start, Look]] = []
        parts: list[partial[tuple[str, dict[str, Usual]]]] = []
        for ns in read.entries(layout.namespaces):
            look = partial(_records, load(ns), None)
            looks += ((*at, look) for at in _directories(layout.content(ns)))
            directory = layout.images(ns)
            memory.images[directory], names = _unread(directory)
            for at in range(0, len(names), _PART):
                parts.append(partial(_read_records, directory, names[at : at + _PART]))
        looks += ((*at, _objects) for at in _directories(layout.objects))
        for directory, usuals in memory.read_ahead(looks, parts):
            memory.images[directory].usual.update(usuals)


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


def _each(directory: str, memory: Remembered | None, look: Look, thaw: Thaw) -> Iterator[Any]:
    """What `look` finds in each directory of the fan-out below `directory`, thawed."""
    for deep, start in _directories(directory):
        if memory:
            yield memory.for_later(deep, start, look, thaw)
        else:
            rests, sizes, *columns = look(deep, start, read.branch(deep).found)[0]
            yield thaw(remembered.sized(start, rests, sizes), columns)


def _directories(directory: str) -> Iterator[tuple[str, Start]]:
    """The directories `<algorithm>/<2 hex>` below `directory`, and how the digests in them begin."""
    for algorithm in read.entries(directory):
        above = inside(directory, algorithm)
        for prefix in read.branch(above).found:
            yield inside(above, prefix), f"{algorithm}:{prefix}"


def _records(
    load: Load, on_error: OnError, directory: str, start: Start, names: Sequence[str]
) -> tuple[Columns, bool]:
    rests: list[str] = []
    sizes: list[int] = []
    labels: list[tuple[int, Mapping[str, str]]] = []
    references: list[tuple[int, int, str, str | None, bool]] = []
    forms: dict[tuple[str, ...], int] = {}  # own media type and those of the children: many have the same
    is_whole = True
    records = [name for name in names if is_record(name)]
    for entry, data in read.small_files(directory, records):
        rest = entry[: -len(SUFFIX)]
        usual = plain.size(data)
        if usual and usual[0] == start + rest:
            _, size, of_gc, referred = usual
        else:
            info = collect(on_error, lambda name: load(_recorded(name)), start + rest)
            if info is None:
                is_whole = False
                continue
            size, of_gc = info.size, for_gc(info.labels)
            referred = None  # what it tells is believed only where a seal vouches for it
        is_labelled = referred is not None and bool(of_gc) and are_labels_of(referred[1], of_gc)
        if of_gc and not is_labelled:
            labels.append((len(rests), of_gc))
        if referred:
            media_type, digests, types, subject = referred
            form = forms.setdefault((media_type, *types), len(forms))
            references.append((len(rests), form, digests, subject, is_labelled))
        rests.append(rest)
        sizes.append(size)
    return [" ".join(rests), sizes, labels, list(forms), references], is_whole


def _targets(
    directory: str, memory: Remembered | None, load: Callable[[str], Image | None], on_error: OnError
) -> tuple[dict[str, Target], bool]:
    found: dict[str, Target] = {}
    is_whole = True
    images, names = _read(directory, memory)
    for entry in names:
        if usual := images.usual.get(entry):
            name, digest, media_type, labels = usual
            found[name] = Target(Digest(digest), media_type, labels)
        elif image := collect(on_error, load, inside(directory, entry)):
            target = image.target
            found[image.name] = Target(target.digest, target.media_type, for_gc(image.labels))
        else:
            is_whole = False
    return {name: found[name] for name in sorted(found)}, is_whole


def _read(directory: str, memory: Remembered | None) -> tuple[Images, list[str]]:
    """The records of the images in a directory, and the names of all. What has not changed since this gc
    read it is not read again.
    """
    images, names = _unread(directory)
    before = memory.images.get(directory) if memory else None
    if before and before.usual:
        is_same = before.identity == images.identity != ()
        for name in before.usual.keys() & set(names):
            inode = before.inodes.get(name, 0)
            if is_same or read.is_older(read.identity(inside(directory, name)), inode, before.since):
                images.usual[name] = before.usual[name]
    left = [name for name in names if name not in images.usual]
    for _, usuals in workers.share(partial(_read_records, directory), left, _MANY):
        images.usual.update(usuals)
    if memory:
        memory.images[directory] = images
    return images, names


def _unread(directory: str) -> tuple[Images, list[str]]:
    """What there is to know before records of images are read, and the names of all."""
    now, inodes = clock.wall(), read.inodes(directory)
    names, identity, is_steady = read.listed(directory)
    return Images(now, identity if is_steady else (), inodes, {}), [name for name in names if is_record(name)]


def _read_records(directory: str, names: Sequence[str]) -> tuple[str, dict[str, Usual]]:
    """`directory`, and what `plain.target` makes of its records; but not of those that have another name."""
    found: dict[str, Usual] = {}
    for name, data in read.small_files(directory, names):
        usual = plain.target(data)
        if usual and usual[0] == name_of_file(name[: -len(SUFFIX)]):
            found[name] = usual
    return directory, found


def _recorded(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidArgument as error:
        raise DataLoss(f"content record '{text}': {error.message}") from None


def _objects(directory: str, start: Start, names: Sequence[str]) -> tuple[Columns, bool]:
    rests: list[str] = []
    sizes: list[int] = []
    # Below what is not called by two digits no object is.
    names = completing(start, names) if start[-3] == ":" else []
    if not names:
        return ["", sizes], True
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return ["", sizes], False
    except OSError as error:
        raise from_oserror(error, "cannot list") from error
    try:
        for name in names:
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                rests.append(name)
                sizes.append(status.st_size)
    except OSError as error:
        raise from_oserror(error, "cannot look at object") from error
    finally:
        os.close(fd)
    return [" ".join(rests), sizes], True
