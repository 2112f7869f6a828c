"""One of many clients of a store, at work until it is killed: what it does and what it is told it writes
to a journal, one JSON array a line. Run as `python -m tests.faults.stress ROOT JOURNAL SEED SECONDS`.

    [time, "begin", name, old, new]   a change of an image from one target to another; null is absence
    [time, "done"]                    it happened
    [time, "not"]                     it did not, as the store says
    [time, "saw", name, target, since]   what a reader was told that it asked for at `since`
    [time, "error", text]             what must not be
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.errors import AlreadyExists, FailedPrecondition, ImgtoolError, NotFound
from imgtool.model import Descriptor, Image
from imgtool.ops import gc
from imgtool.stores import Commit, Put

NS = "default"
STAY = [f"stays-{i}" for i in range(3)]  # there from the start, changed often, never deleted
COME_AND_GO = [f"comes-and-goes-{i}" for i in range(3)]
WITH_CONTENT = [f"with-content-{i}" for i in range(3)]
BYTES = [b"%d" % i * 1000 for i in range(4)]
LENDER = "lender"
LENT = [b"lent %d" % i * 1000 for i in range(2)]


def image(name: str, target: Digest, size: int = 1) -> Image:
    return Image(name, Descriptor("application/octet-stream", target, size))


class Client:
    """Does one thing after the other, as chance has it."""

    def __init__(self, store: DiskStore, journal: int, seed: int) -> None:
        self._images, self._content, self._store = store.images(NS), store.content(NS), store
        self._journal = journal
        self._chance = random.Random(seed)
        self._id, self._count = f"{seed}-{os.getpid()}", 0

    def act(self) -> None:
        acts: list[Callable[[], None]] = [self.swap] * 6 + [self.look] * 6 + [self.create, self.delete] * 2
        acts += [self.put, self.tag, self.drop, self.list, self.list, self.read, self.read, self.collect]
        acts += [self.lend, self.borrow]
        self._chance.choice(acts)()

    # Targets are made up, each used once: so each tells which change it is of.

    def swap(self) -> None:
        name = self._chance.choice(STAY + COME_AND_GO)
        old, new = self._look(name), self._fresh()
        if old is not None:
            self._change(name, old, new, lambda: self._images.update(image(name, new), if_target=old))

    def create(self) -> None:
        name, new = self._chance.choice(COME_AND_GO), self._fresh()
        self._change(name, None, new, lambda: self._images.create(image(name, new)))

    def delete(self) -> None:
        name = self._chance.choice(COME_AND_GO)
        old = self._look(name)
        if old is not None:
            self._change(name, old, None, lambda: self._images.delete(name, target=old))

    def look(self) -> None:
        self._look(self._chance.choice(STAY + COME_AND_GO))

    # Images whose content must be whole whenever they are there.

    def put(self) -> None:
        data, name = self._chance.choice(BYTES), self._chance.choice(WITH_CONTENT)
        with self._content.stage(algorithm="sha256") as writer:
            writer.write(data)
            put = Put(image(name, Digest.of(data), len(data)), replace=True)
            (outcome,) = self._store.publish(NS, [Commit(writer)], [put]).images
        if isinstance(outcome, ImgtoolError):
            raise outcome

    def lend(self) -> None:
        """Content of another namespace that the next gc takes."""
        with self._store.content(LENDER).stage(algorithm="sha256") as writer:
            writer.write(self._chance.choice(LENT))
            with suppress(AlreadyExists):
                writer.commit()

    def borrow(self) -> None:
        data, name = self._chance.choice(LENT), self._chance.choice(WITH_CONTENT)
        digest = Digest.of(data)
        with suppress(AlreadyExists), self._content.writer(self._id, expected=digest) as writer:
            if writer.digest() != digest:
                writer.replay()
                writer.write(data)
            put = Put(image(name, digest, len(data)), replace=True)
            (outcome,) = self._store.publish(NS, [Commit(writer, len(data), digest)], [put]).images
            if isinstance(outcome, ImgtoolError):
                raise outcome

    def tag(self) -> None:
        data, name = self._chance.choice(BYTES), self._chance.choice(WITH_CONTENT)
        put = Put(image(name, Digest.of(data), len(data)), True, frozenset([Digest.of(data)]))
        (outcome,) = self._store.publish(NS, puts=[put]).images
        if isinstance(outcome, ImgtoolError) and not isinstance(outcome, NotFound):
            raise outcome

    def drop(self) -> None:
        try:
            self._images.delete(self._chance.choice(WITH_CONTENT))
        except NotFound:
            return

    def read(self) -> None:
        name = self._chance.choice(WITH_CONTENT)
        for _ in range(50):
            try:
                target = self._images.get(name).target
                with self._content.reader(target.digest) as reader:
                    assert Digest.of(reader.read()) == target.digest
                return
            except NotFound:
                try:  # deleted, or moved on and collected since
                    if self._images.get(name).target == target:
                        raise AssertionError(f"{name} has no content") from None
                except (NotFound, UnboundLocalError):
                    return

    def list(self) -> None:
        found = {one.name for one in self._images.list()}
        assert found >= set(STAY), f"a list without {set(STAY) - found}"
        list(self._content.list())

    def collect(self) -> None:
        if self._chance.random() < 0.5:
            gc.collect(self._store)

    def _fresh(self) -> Digest:
        self._count += 1
        return Digest.of(f"{self._id} {self._count}".encode())

    def _look(self, name: str) -> Digest | None:
        since = time.monotonic_ns()
        try:
            found: Digest | None = self._images.get(name).target.digest
        except NotFound:
            found = None
        self.note("saw", name, found, since)
        return found

    def _change(self, name: str, old: str | None, new: str | None, change: Callable[[], object]) -> None:
        self.note("begin", name, old, new)
        try:
            change()
        except (NotFound, AlreadyExists, FailedPrecondition):
            self.note("not")
        else:
            self.note("done")

    def note(self, *what: object) -> None:
        os.write(self._journal, json.dumps([time.monotonic_ns(), *what]).encode() + b"\n")


def main() -> None:
    root, journal, seed, seconds = sys.argv[1:]
    end = time.monotonic() + float(seconds)
    fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with open_store(root) as store:
        client = Client(store, fd, int(seed))
        try:
            while time.monotonic() < end:
                client.act()
        except BaseException:
            client.note("error", traceback.format_exc())


if __name__ == "__main__":
    main()
