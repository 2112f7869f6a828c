"""A disk whose cache is lost when the power is cut.

`Disk` performs every call for real, and keeps a model beside it of what has reached the platter, as
POSIX and fsync(2) promise it and no file system has to improve on:

- the bytes of a file are there from its fsync on; before, any of: those of the last fsync, the first
  half of the new ones, zeros in the place of the new ones, the new ones;
- an entry of a directory is there, or gone, from the fsync of that directory on; before, each change
  by itself is kept or lost, whatever came after it. A file that was synced is lost with its entry,
  and so is everything in a directory whose own entry is lost;
- a rename within a directory is kept or lost as one. Across directories the old name may stay though
  the new one is kept, but the new one is not lost while the old one is gone, unless somebody synced
  the old name's directory alone;
- syncfs makes everything durable;
- the bytes of a file whose fsync failed are taken for written from then on, as Linux does: no fsync of
  what has not been written anew makes them durable.

Modes and times are not modelled.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from .double import Call, Double, failure, syncs

Contents = dict[str, "Node"]


class Node:
    """A file or a directory. `now` and `entries` are what running processes see."""

    def __init__(self, mode: int, *, directory: bool) -> None:
        self.mode = mode
        self.directory = directory
        self.synced = self.now = b""
        self.broken = False
        self.durable: Contents = {}
        self.entries: Contents = {}
        self.pending: list[Part] = []


class Part:
    """One change of one entry of a directory that is not durable yet: `node` takes `name`, or nothing does.

    Args:
        with_: the change that this one is not kept without.
    """

    def __init__(self, where: Node, name: str, node: Node | None, with_: Part | None = None) -> None:
        self.where, self.name, self.node, self.with_ = where, name, node, with_


class Left(NamedTuple):
    """What a power cut leaves: the tree of a directory, as path -> bytes, or None for a directory. Paths
    that are one file are told by `links`: path -> first path of the same file.
    """

    files: dict[str, bytes | None]
    links: dict[str, str]
    modes: dict[str, int]

    def key(self) -> object:
        """What tells it from others; what lies in `tmp/` does not."""
        files = frozenset(item for item in self.files.items() if not item[0].startswith("store/tmp/"))
        return files, frozenset(self.links.items())

    def __str__(self) -> str:
        """The names, except of what lies in `tmp/`, and the lengths of files."""
        kept = {path: data for path, data in self.files.items() if not path.startswith("store/tmp/")}
        return ", ".join(path if data is None else f"{path} ({len(data)})" for path, data in kept.items())

    def make(self, root: str) -> None:
        """Write it to a new directory."""
        for path, data in self.files.items():
            to = f"{root}/{path}" if path else root
            if data is None:
                os.mkdir(to, 0o700)
            elif path in self.links:
                os.link(f"{root}/{self.links[path]}", to)
            else:
                fd = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self.modes[path])
                os.write(fd, data)
                os.close(fd)


class Disk(Double):
    """Performs calls below the directory `root`, which holds a store called `store`, durable at first."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = root
        self.top = _read(root)
        self._open: dict[int, Node] = {}
        self.given: set[object] = set()

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        node = self._prepare(call, args)
        result = None if syncs(call) else call(*args, **kwargs)
        self._note(call, args, result, node)
        return result

    # The model

    def _prepare(self, call: Call, args: tuple[Any, ...]) -> Node | None:
        """The node that a call is about, where it cannot be found afterwards."""
        if call in (os.rename, os.link):
            return self._node(args[0])
        if call is os.open:
            return self._find(args[0])
        return None

    def _note(self, call: Call, args: tuple[Any, ...], result: Any, node: Node | None) -> None:
        if call is os.open:
            if os.path.relpath(args[0], self.root).startswith(".."):
                node = Node(0o700, directory=True)  # above the root: all is durable
            elif node is None:
                node = Node(0o600, directory=False)
                self._change(args[0], node)
            self._open[result] = node
        elif call is os.mkdir:
            self._change(args[0], Node(0o700, directory=True))
        elif call is os.link:
            self._change(args[1], node)
        elif call is os.rename:
            self._rename(args[0], args[1], node)
        elif call in (os.unlink, os.rmdir):
            self._change(args[0], None)
        elif call is os.fsync:
            self._sync(self._open[args[0]])
        elif syncs(call):
            self._sync_all()
        elif call in (os.write, os.ftruncate, os.pwrite):
            self._data(args[0])
        elif call is os.copy_file_range:
            self._data(args[1])
        elif call is os.fchmod:
            self._open[args[0]].mode = args[1]
        elif call is os.chmod:
            self._node(args[0]).mode = args[1]
        else:
            assert call is os.utime, f"the model does not know {call.__name__}"

    def _find(self, path: str) -> Node | None:
        node: Node | None = self.top
        relative = os.path.relpath(os.path.join(self.root, path), self.root)
        for name in relative.split("/") if relative != "." else []:
            node = node.entries.get(name) if node is not None else None
        return node

    def _node(self, path: str) -> Node:
        found = self._find(path)
        assert found is not None, path
        return found

    def _change(self, path: str, node: Node | None, with_: Part | None = None) -> Part:
        where, name = self._node(os.path.dirname(path)), os.path.basename(path)
        part = Part(where, name, node, with_)
        where.pending.append(part)
        if node is None:
            del where.entries[name]
        else:
            where.entries[name] = node
        return part

    def _rename(self, source: str, target: str, node: Node | None) -> None:
        added = self._change(target, node)
        removed = self._change(source, None, with_=added)
        if removed.where is added.where:
            added.with_ = removed

    def _data(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        self._open[fd].now = os.pread(fd, size, 0)
        self._open[fd].broken = False

    def fail_sync(self, fd: int) -> None:
        """Let the sync of a file or directory fail."""
        self._open[fd].broken = not self._open[fd].directory
        raise failure(errno.EIO, ())

    def _sync(self, node: Node) -> None:
        if not node.broken:
            node.synced = node.now
        for part in node.pending:
            _apply(node.durable, part)
        node.pending.clear()

    def _sync_all(self) -> None:
        todo = [self.top]
        while todo:
            node = todo.pop()
            self._sync(node)
            todo += node.entries.values()

    # What a power cut may leave

    def cuts(self, *, every: bool = True) -> Iterator[Left]:
        """States that a power cut may leave now, and that were not given before: nothing kept that was
        not synced; all of it, with the bytes of files that were not synced in every way; where `every`,
        each change of an entry alone kept or alone lost; two at random. Changes in `tmp/` and `locks/`
        of the store are kept or lost with all others only.
        """
        for left in self._cuts(every):
            if (key := left.key()) not in self.given:
                self.given.add(key)
                yield left

    def _cuts(self, every: bool) -> Iterator[Left]:
        parts = {part for node in _all(self.top) for part in node.pending}
        yield self._left(parts, set(), 0)
        for variant in range(4):
            yield self._left(parts, parts, variant)
        passing = {*_all(self._find("store/tmp")), *_all(self._find("store/locks"))}
        single = [part for part in parts if part.where not in passing]
        for part in single if every else ():
            yield self._left(parts, {part}, 0)
            yield self._left(parts, parts - {part}, 3)
        chance = random.Random(self.count)
        for _ in range(2):
            yield self._left(parts, {part for part in parts if chance.random() < 0.5}, chance.randrange(4))

    def _left(self, parts: set[Part], kept: set[Part], variant: int) -> Left:
        """What is left when of `parts`, which are not synced, only `kept` is kept, and of files what
        `variant` says.
        """
        lost = parts - kept
        while more := {part for part in parts - lost if part.with_ in lost}:
            lost |= more
        left = Left({}, {}, {})
        first: dict[Node, str] = {}

        def walk(node: Node, path: str) -> None:
            left.files[path] = None if node.directory else _bytes(node, variant)
            left.modes[path] = node.mode
            if node in first and not node.directory:
                left.links[path] = first[node]
            first.setdefault(node, path)
            entries = dict(node.durable)
            for part in node.pending:
                if part not in lost:
                    _apply(entries, part)
            for name, child in sorted(entries.items()):
                walk(child, f"{path}/{name}" if path else name)

        walk(self.top, "")
        return left


def _apply(entries: Contents, part: Part) -> None:
    if part.node is None:
        entries.pop(part.name, None)
    else:
        entries[part.name] = part.node


def _bytes(node: Node, variant: int) -> bytes:
    same = next(
        (i for i, pair in enumerate(zip(node.synced, node.now, strict=False)) if len({*pair}) > 1), None
    )
    if same is None:
        same = min(len(node.synced), len(node.now))
    new = len(node.now) - same
    return [
        node.synced,
        node.now[: same + new // 2],
        node.now[:same] + bytes(new),
        node.now,
    ][variant]


def _all(top: Node | None) -> list[Node]:
    """Every node below `top` that there is or may be again."""
    found: dict[Node, None] = {}
    todo = [top] if top is not None else []
    while todo:
        node = todo.pop()
        if node not in found:
            found[node] = None
            todo += [*node.durable.values(), *node.entries.values()]
            todo += [part.node for part in node.pending if part.node is not None]
    return list(found)


def _read(path: str) -> Node:
    """The model of a directory, all of which is durable. Hard links are not looked for."""
    node = Node(os.stat(path).st_mode & 0o777, directory=os.path.isdir(path))
    if node.directory:
        node.durable = {name: _read(f"{path}/{name}") for name in os.listdir(path)}
        node.entries = dict(node.durable)
    else:
        with open(path, "rb") as file:
            node.synced = node.now = file.read()
    return node
