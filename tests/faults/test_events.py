"""A follower of the logs beside writers that die, fail or go on: nothing is lost, nothing told twice."""

from __future__ import annotations

import errno
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.disk.follow import Follower, Operation
from imgtool.errors import ImgtoolError
from imgtool.model import Image, Lease, Namespace
from imgtool.names import EXPIRE
from imgtool.ops import gc
from imgtool.stores import Commit, Put
from tests.conformance.things import target

from .double import Call, Double, Killed, failure, in_place, process

SPACES = ["default", "other"]
NAMES = ["a", "b"]
BLOBS = [b"one", b"two"]
KEYS = [
    (ns, kind, name)
    for ns in SPACES
    for kind, names in (("image", NAMES), ("content", [Digest.of(b) for b in BLOBS]), ("namespace", [ns]))
    for name in names
]
Key = tuple[str, str, str]
Action = Callable[[DiskStore, str], object]


def _publish(store: DiskStore, ns: str) -> None:
    """Two contents and two images in one operation."""
    writers = []
    for blob in BLOBS:
        writer = store.content(ns).stage(algorithm="sha256")
        writer.write(blob)
        writer.finish()
        writers.append(writer)
    puts = [Put(Image(name, target(blob)), replace=True) for name, blob in zip(NAMES, BLOBS, strict=True)]
    store.publish(ns, [Commit(writer) for writer in writers], puts)


def _empty(store: DiskStore, ns: str) -> None:
    for name in NAMES:
        with suppress(ImgtoolError):
            store.images(ns).delete(name)
    for blob in BLOBS:
        with suppress(ImgtoolError):
            store.content(ns).delete(Digest.of(blob))


# None changes a record twice, so that what it did is seen afterwards.
ACTIONS: dict[str, Action] = {
    "create": lambda store, ns: store.images(ns).create(Image("a", target(b"one"), {"v": "1"})),
    "update": lambda store, ns: store.images(ns).update(
        Image("a", target(b"two"), {"v": os.urandom(4).hex()})
    ),
    "expire": lambda store, ns: store.images(ns).create(
        Image("b", target(b"one"), {EXPIRE: "2001-01-01T00:00:00Z"})
    ),
    "rename": lambda store, ns: store.images(ns).rename("a", "b"),
    "delete": lambda store, ns: store.images(ns).delete("a"),
    "drop": lambda store, ns: store.content(ns).delete(Digest.of(b"one")),
    "publish": _publish,
    "label": lambda store, ns: store.namespaces.update(Namespace(ns, {"v": os.urandom(4).hex()})),
    "hold": lambda store, ns: store.leases(ns).create(Lease("l")),
    "empty": _empty,
    "end": lambda store, ns: store.namespaces.delete(ns),
    "gc": lambda store, ns: gc.collect(store),
}


class Beside(Double):
    """Has somebody look before every call; at call `at` the process ends, or the call fails."""

    def __init__(self, look: Callable[[], None], at: int, *, kills: bool) -> None:
        super().__init__()
        self._look, self.at, self._kills = look, at, kills

    def perform(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._look()
        if self._kills and self.count >= self.at:
            raise Killed
        if self.count == self.at:
            raise failure(errno.EIO, args)
        return super().perform(call, args, kwargs)


class Machine(RuleBasedStateMachine):
    """`happened` is what the records have become, as anybody could see; `told` what the follower said."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        shutil.rmtree(root, ignore_errors=True)
        self.root = str(root)
        self.follower = Follower(open_store(self.root).engine)
        self.happened: defaultdict[Key, list[str]] = defaultdict(list)
        self.told: defaultdict[Key, list[str]] = defaultdict(list)

    @rule(
        action=st.sampled_from(sorted(ACTIONS)),
        ns=st.sampled_from(SPACES),
        ends=st.one_of(st.none(), st.tuples(st.integers(1, 60), st.booleans())),
        is_watched=st.booleans(),
    )
    def act(self, action: str, ns: str, ends: tuple[int, bool] | None, is_watched: bool) -> None:
        at, kills = ends or (1 << 30, False)
        look = self.look if is_watched else lambda: None
        before = self.state()
        beside = Beside(look, at, kills=kills)
        with process(), in_place(beside), suppress(ImgtoolError), open_store(self.root) as store:
            ACTIONS[action](store, ns)
        for key, value in self.state().items():
            if value != before[key] and not (action == "gc" and key[1] == "content"):
                self.happened[key].append(value)
        self.look()
        self.compare()

    @rule()
    def resume(self) -> None:
        """Another process goes on from where this one was."""
        self.follower = Follower(open_store(self.root).engine, dict(self.follower.position))
        self.look()
        self.compare()

    @rule(ns=st.sampled_from(SPACES))
    def replace(self, ns: str) -> None:
        """The log is restored from a copy."""
        path = self.path(ns)
        if path.exists():
            shutil.copy(path, f"{path}.new")
            os.rename(f"{path}.new", path)
        self.look()
        self.compare()

    @rule(ns=st.sampled_from(SPACES), length=st.integers(1, 3))
    def tear(self, ns: str, length: int) -> None:
        """A crash has left the begin of a line."""
        path = self.path(ns)
        if path.exists():
            with path.open("ab") as file:
                file.write(b'{"o'[:length])
        self.look()
        self.compare()

    def path(self, ns: str) -> Path:
        return Path(self.root, "namespaces", ns, "log")

    def state(self) -> dict[Key, str]:
        engine = open_store(self.root).engine
        return {key: repr(engine.current(*key)) for key in KEYS}

    def look(self) -> None:
        for operation in self.follower.poll():
            self.hear(operation)

    def hear(self, operation: Operation) -> None:
        for change in operation.changes:
            if change.kind != "lease":
                self.told[operation.namespace, change.kind, change.name].append(repr(change.new))

    def compare(self) -> None:
        for key in KEYS:
            told, happened = self.told[key], self.happened[key]
            if self.is_under_way(key[0]):
                assert told == happened[: len(told)], key
            else:
                assert told == happened, key

    def is_under_way(self, ns: str) -> bool:
        locks = [Path(self.root, "locks", name) for name in (f"ns-{ns}", "store")]
        return any(lock.exists() and lock.stat().st_size for lock in locks)


def test_what_happened_is_told_once_whoever_dies(quick_path: Path) -> None:
    """A look before each call of a writer that then may be killed or fail; whatever the follower was told
    by a log that the writer took back, or that another went on with.
    """

    class Fresh(Machine):
        def __init__(self) -> None:
            super().__init__(quick_path / "store")

    run_state_machine_as_test(
        Fresh,
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
        ),
    )
