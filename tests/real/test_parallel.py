"""Many processes on one store at once: nothing that was acknowledged is lost, and nobody fails."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .process import WAIT, Imgtool, environment

SECONDS = float(os.environ.get("IMGTOOL_STRESS_SECONDS", "12"))
KILLED = -9


def finish(started: list[subprocess.Popen[bytes]]) -> None:
    """Wait for all; each must have succeeded."""
    ended = [(process.communicate(timeout=WAIT), process.returncode) for process in started]
    failed = [(code, streams[1].decode()) for streams, code in ended if code]
    assert not failed


def test_forty_tags_at_once_are_all_there(store: Imgtool, hello: Path) -> None:
    """Tools that rewrite one index.json keep 2 to 6 of 40."""
    store("ingest", f"oci:{hello}", "--name", "base")
    names = [f"copy-{n}" for n in range(40)]
    finish([store.start("tag", "base", name) for name in names])
    digest = store.targets()["base"]
    assert store.targets() == dict.fromkeys(["base", *names], digest)
    store.check_collected()


def test_twenty_ingests_at_once_are_all_there(store: Imgtool, hello: Path, tmp_path: Path) -> None:
    """The first of them also bring the store and the namespace into being; half bring the same bytes."""
    files = [tmp_path / f"file-{n}" for n in range(10)]
    for n, path in enumerate(files):
        path.write_bytes(random.Random(n).randbytes(300_000))
    started = [store.start("ingest", path, "--name", path.name) for path in files]
    started += [store.start("ingest", f"oci:{hello}", "--name", f"hello-{n}") for n in range(10)]
    finish(started)
    assert sorted(store.images()) == sorted([*(f.name for f in files), *(f"hello-{n}" for n in range(10))])
    assert all(store.object(store.targets()[f.name]).read_bytes() == f.read_bytes() for f in files)
    store.check_collected()


class Worker:
    """One user of the store, with names that nobody else writes: what it was told, it must find again."""

    def __init__(self, store: Imgtool, number: int, files: list[Path]) -> None:
        self.store = store
        self.random = random.Random(number)
        self.names = [f"worker-{number}/{n}" for n in range(4)]
        self.files = files
        self.has: dict[str, str] = {}
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        name = self.random.choice(self.names)
        action = self.random.choice([self.put, self.put, self.retarget, self.delete, self.look])
        action(name)

    def put(self, name: str) -> None:
        """Ingest a file whose bytes other workers ingest and delete too; one in ten is killed on the way."""
        file = self.random.choice(self.files)
        started = self.store.start("ingest", file, "--name", name, "--replace")
        if self.random.random() < 0.1:
            time.sleep(self.random.uniform(0, 0.3))
            started.kill()
        out, err = started.communicate(timeout=WAIT)
        if started.returncode == KILLED:
            self.take_old_or_new(name, file)
            return
        assert started.returncode == 0, err.decode()
        self.has[name] = out.decode().split()[0]

    def take_old_or_new(self, name: str, file: Path) -> None:
        now = self.mine()
        assert {k: v for k, v in now.items() if k != name} == {k: v for k, v in self.has.items() if k != name}
        assert now.get(name) == self.has.get(name) or self.store("cat", name).encode() == file.read_bytes()
        self.has = now

    def retarget(self, name: str) -> None:
        other = self.random.choice(self.names)
        if {name, other} <= self.has.keys():
            self.store("update", name, "--target", other, "--if-digest", self.has[name])
            self.has[name] = self.has[other]

    def delete(self, name: str) -> None:
        self.store("delete", name, code=0 if name in self.has else 3)
        self.has.pop(name, None)

    def look(self, name: str) -> None:
        assert self.mine() == self.has
        if name in self.has:
            assert self.store("cat", name)

    def mine(self) -> dict[str, str]:
        return {name: digest for name, digest in self.store.targets().items() if name in self.names}


class Swapper:
    """One of several that move a shared name by compare-and-swap."""

    def __init__(self, store: Imgtool, number: int, digests: list[str]) -> None:
        self.store = store
        self.random = random.Random(number)
        self.digests = digests
        self.won: list[tuple[str, str]] = []

    def step(self) -> None:
        old = self.store.targets()["shared"]
        new = self.random.choice([digest for digest in self.digests if digest != old])
        done = self.store.run("update", "shared", "--target", new, "--if-digest", old)
        assert done.returncode in (0, 5), done.stderr.decode()
        if done.returncode == 0:
            self.won.append((old, new))


def check_chain(start: str, end: str, moves: list[tuple[str, str]]) -> None:
    """The moves can be put in one row from `start` to `end`: each digest is left as often as it is
    reached, but for the two ends.
    """
    balance: dict[str, int] = {start: 1}
    for old, new in moves:
        balance[old] = balance.get(old, 0) - 1
        balance[new] = balance.get(new, 0) + 1
    assert {digest: n for digest, n in balance.items() if n} == {end: 1}


def in_parallel(steps: list[Callable[[], object]], seconds: float) -> None:
    """Repeat each step in a thread of its own until the time is over; the first failure is raised."""
    end = time.monotonic() + seconds
    failures: list[BaseException] = []

    def repeat(step: Callable[[], object]) -> None:
        try:
            while time.monotonic() < end and not failures:
                step()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_eight_users_at_once_lose_nothing(store: Imgtool, hello: Path, tmp_path: Path) -> None:
    """Put, delete, compare-and-swap, gc, list and fsck race on shared bytes for a while, some killed."""
    files = [tmp_path / f"shared-{n}" for n in range(3)]
    for n, path in enumerate(files):
        path.write_text(f"{n}\n" * 20_000)
    for n in range(5):
        store("ingest", "-", "--as", "file", "--name", f"kept-{n}", input=b"x" * (n + 1))
    fixed = store.targets()
    digests = list(fixed.values())
    store("tag", digests[0], "shared")

    workers = [Worker(store, n, files) for n in range(4)]
    swappers = [Swapper(store, n, digests) for n in range(2)]
    collected: list[str] = []
    in_parallel(
        [
            *(worker.step for worker in workers),
            *(swapper.step for swapper in swappers),
            lambda: collected.append(store("gc")),
            lambda: (store("list", "--all-namespaces"), store("fsck")),
        ],
        SECONDS,
    )
    assert collected
    assert all(worker.steps for worker in workers)

    now = store.targets()
    check_chain(digests[0], now["shared"], [move for swapper in swappers for move in swapper.won])
    expected = fixed | {"shared": now["shared"]}
    for worker in workers:
        expected |= worker.has
    assert now == expected
    store("gc")
    store.check_collected()


def test_a_reader_never_waits_for_a_writer(store: Imgtool, hello: Path) -> None:
    """An ingest that waits for its pipe holds no lock: others write, read and collect meanwhile."""
    store("ingest", f"oci:{hello}", "--name", "base")
    read, write = os.pipe()
    with subprocess.Popen(
        store.argv("ingest", "-", "--as", "file", "--name", "slow"),
        stdin=read,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as slow:
        os.close(read)
        with open(write, "wb", buffering=0) as pipe:
            pipe.write(b"first half, ")
            for command in (["tag", "base", "other"], ["list"], ["delete", "other"], ["gc"], ["fsck"]):
                store(*command, "--lock-timeout", "2")
            pipe.write(b"second half")
        slow.communicate(timeout=WAIT)
        assert slow.returncode == 0
    assert store("cat", "slow") == "first half, second half"
    store.check()


@pytest.mark.parametrize("signal", [2, 15])
def test_a_signal_leaves_no_litter(store: Imgtool, signal: int) -> None:
    """Ctrl-C in the middle of a pipe: the documented status, no message, nothing kept for the name."""
    store("namespace", "create", "default")
    read, write = os.pipe()
    with subprocess.Popen(
        store.argv("ingest", "-", "--as", "file", "--name", "slow"),
        stdin=read,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as slow:
        os.close(read)
        os.write(write, b"x" * 65536)
        while not unfinished(store):
            time.sleep(0.01)
        slow.send_signal(signal)
        _, err = slow.communicate(timeout=WAIT)
        os.close(write)
    assert (slow.returncode, err) == (128 + signal, b"")
    assert store.images() == {}
    assert not list((store.root / "tmp").glob("*"))
    store.check()


def unfinished(store: Imgtool) -> bool:
    """Whether bytes of an unfinished write have reached the disk."""
    return any(
        p.is_file() and p.stat().st_size for d in ("tmp", "ingests") for p in store.root.glob(f"{d}/**/*")
    )
