"""Eight clients on one store, some of them killed or frozen: nothing told is lost, and readers never fail."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.ops import gc

from .scenarios import closure, is_whole
from .stress import COME_AND_GO, NS, STAY, WITH_CONTENT, image

CLIENTS = 8
SECONDS = 5


class Change(NamedTuple):
    begun: int
    done: int | None  # None: nobody knows, the client was killed
    old: str | None
    new: str | None


class Sight(NamedTuple):
    since: int
    until: int
    target: str | None


class History:
    """What the journals of all clients tell of one name."""

    def __init__(self, first: str | None) -> None:
        self.changes = [Change(0, 0, None, first)] if first else []
        self.sights: list[Sight] = []

    def check(self, last: str | None) -> None:
        """Each target was set once, and given up at most once, by a client who knew it; what nobody gave
        up is there still; and nobody saw what was given up before he looked.
        """
        made = {change.new: change for change in self.changes if change.new}
        assert len(made) == sum(change.new is not None for change in self.changes)
        given_up: dict[str, list[Change]] = defaultdict(list)
        for change in self.changes:
            if change.old:
                assert change.old in made, f"{change} of a target that nobody has set"
                given_up[change.old].append(change)
        told = {target: [c for c in changes if c.done is not None] for target, changes in given_up.items()}
        for target, changes in told.items():
            assert len(changes) <= 1, f"two changes are told of the same target: {changes}"
            if changes:
                assert target != last, f"{changes} was undone"
                assert changes[0].done is not None
                assert changes[0].done > made[target].begun
        for target, change in made.items():
            there = target == last or given_up.get(target)
            assert there or change.done is None, f"{change} is told and lost; there is {last}"
        assert last is None or last in made
        for sight in self.sights:
            if sight.target is None:
                continue
            assert sight.target in made, f"{sight} of a target that nobody has set"
            assert made[sight.target].begun < sight.until, f"{sight} before it was set"
            for change in told.get(sight.target, ()):
                assert change.done is not None
                assert sight.since < change.done, f"{sight} after {change}"


def test_nothing_that_was_told_is_lost_and_readers_never_fail(quick_path: Path) -> None:
    """Compare-and-swap chains show every lost or doubled change; images with content show every gc that
    took too much; names that never go show every list that misses one.
    """
    root, chance = quick_path / "store", random.Random(1)
    with open_store(str(root)) as store:
        for name in STAY:
            store.images(NS).create(image(name, Digest.of(name.encode())))

    journals: list[Path] = []

    def start() -> subprocess.Popen[bytes]:
        journals.append(quick_path / f"journal-{len(journals)}")
        left = max(0.5, begin + SECONDS - time.monotonic())
        args = [str(root), str(journals[-1]), str(len(journals)), str(left)]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.stress", *args], cwd=Path(__file__).parents[2]
        )

    begin = time.monotonic()
    clients = [start() for _ in range(CLIENTS)]
    killed = 0
    try:
        while time.monotonic() < begin + SECONDS:
            time.sleep(chance.uniform(0.05, 0.3))
            i = chance.randrange(CLIENTS)
            if chance.random() < 0.3:
                clients[i].send_signal(signal.SIGSTOP)
                time.sleep(0.2)
                clients[i].send_signal(signal.SIGCONT)
            elif clients[i].poll() is None:
                clients[i].kill()
                clients[i].wait()
                killed += 1
                clients[i] = start()
        for client in clients:
            assert client.wait(60) == 0
    finally:
        for client in clients:
            client.kill()
            client.wait()

    histories = {
        name: History(Digest.of(name.encode()) if name in STAY else None) for name in STAY + COME_AND_GO
    }
    for journal in journals:
        read(journal, histories)
    with open_store(str(root)) as store:
        targets = {one.name: one.target.digest for one in store.images(NS).list()}
        for name, history in histories.items():
            history.check(targets.get(name))
        gc.collect(store)
        labels = {info.digest: info.labels for info in store.content(NS).list()}
        for name in targets.keys() & set(WITH_CONTENT):
            assert all(is_whole(store, NS, digest) for digest in closure(targets[name], labels))
        assert not store.litter(frozenset())
        store.images(NS).create(image("afterwards", Digest.of(b"x")))
    done = sum(change.done is not None for history in histories.values() for change in history.changes)
    sights = sum(len(history.sights) for history in histories.values())
    assert killed >= 5
    assert done > 50, f"{done} changes in {SECONDS} s"
    assert sights > 100


def read(journal: Path, histories: dict[str, History]) -> None:
    """Add what a journal tells. The last line may be torn, and the last change have no end."""
    begun: tuple[int, str, str | None, str | None] | None = None
    for line in journal.read_bytes().split(b"\n")[:-1] if journal.exists() else ():
        now, what, *rest = json.loads(line)
        assert what != "error", rest[0]
        if what == "saw":
            name, target, since = rest
            histories[name].sights.append(Sight(since, now, target))
        elif what == "begin":
            begun = (now, *rest)
        else:
            assert begun is not None
            since, name, old, new = begun
            begun = None
            if what == "done":
                histories[name].changes.append(Change(since, now, old, new))
    if begun is not None:
        since, name, old, new = begun
        histories[name].changes.append(Change(since, None, old, new))
