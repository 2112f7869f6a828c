"""Leases against gc, as processes: what a command was told to hold is there, whatever gc does meanwhile."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .process import WAIT, Imgtool, environment

ROUNDS = 8


@contextmanager
def collecting(store: Imgtool) -> Iterator[list[int]]:
    """Run one gc after another, as often as possible, until the block ends; each must succeed."""
    over, codes = threading.Event(), list[int]()

    def run() -> None:
        while not over.is_set():
            process = store.start("gc")
            process.communicate(timeout=WAIT)
            codes.append(process.returncode)

    collector = threading.Thread(target=run)
    collector.start()
    try:
        yield codes
    finally:
        over.set()
        collector.join()
    assert set(codes) == {0}


def test_content_gets_its_name_whatever_gc_does_between(store: Imgtool) -> None:
    """`d=$(imgtool content ingest - <f) && imgtool tag $d x`. Half of the content was there before, as
    garbage that the gc under way may have marked already.
    """
    with collecting(store) as collected:
        for n in range(ROUNDS):
            data = b"%d" % (n // 2)
            digest = store("content", "ingest", input=data).strip()
            store("tag", digest, f"name-{n}")
            assert store("cat", f"name-{n}").encode() == data
            store("delete", f"name-{n}")
            store("lease", "rm", "--all")
    assert len(collected) > 1
    store("gc")
    store.check_collected()


def test_what_is_brought_under_a_lease_stays_until_it_ends(store: Imgtool, hello: Path) -> None:
    """An image, whose name goes at once, and content without one, while gc runs all the time."""
    lease = store("lease", "create").strip()
    with collecting(store):
        store("ingest", "--lease", lease, "-t", "hello", f"oci:{hello}")
        brought = set(store("content", "list", "-q").split())
        store("delete", "hello")
        for n in range(ROUNDS):
            brought.add(store("content", "ingest", "--lease", lease, input=b"%d" % n).strip())
    store("gc")
    assert set(store("content", "list", "-q").split()) == brought
    assert set(store("lease", "resources", "-q", lease).split()) == brought
    store("lease", "rm", "--sync", lease)
    assert store.objects() == {}


def test_an_ingest_that_is_killed_goes_on_under_its_lease(store: Imgtool) -> None:
    """The bytes that it had are kept through gc, and the repeat need not write them again."""
    store("lease", "create", "--id", "l", "-x", "0")
    command = ["content", "ingest", "--lease", "l", "--ref", "r", "-"]
    process = subprocess.Popen(store.argv(*command), stdin=subprocess.PIPE, env=environment())
    assert process.stdin is not None
    process.stdin.write(bytes(1 << 20))
    process.stdin.flush()
    while store("content", "active", "--format", "{offset}").strip() in ("", "0"):
        assert process.poll() is None
    process.kill()
    process.wait(timeout=WAIT)
    process.stdin.close()
    store("gc")
    assert store("content", "active", "--format", "{ref} {expires}").strip() == "r"
    digest = store(*command, input=bytes(1 << 20)).strip()
    store("gc")
    assert store("lease", "resources", "-q", "l").strip() == digest
    store.check()
