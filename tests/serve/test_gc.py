"""gc in the server: by itself, asked for, and beside commands."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.model import Descriptor, Image, Lease
from imgtool.ops import gc
from imgtool.serve.proto import content_pb2, images_pb2, leases_pb2
from tests.real import containerd

from .client import Served
from .served import serving

CONTENT = content_pb2.DESCRIPTOR.services_by_name["Content"]
IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]
LEASES = leases_pb2.DESCRIPTOR.services_by_name["Leases"]
NS = "default"


def add(server: Served, *names: str) -> None:
    """Images, each with content of its own, as a command beside the server makes them."""
    with server.store() as store:
        for name in names:
            held = {"containerd.io/gc.root": "1"}
            with store.content(NS).writer(name) as writer:
                writer.write(name.encode())
                info = writer.commit(labels=held)
            store.images(NS).create(Image(name, Descriptor("text/plain", info.digest, info.size)))
            store.content(NS).update(info._replace(labels={}), "labels")


def there(server: Served) -> set[str]:
    """Whose content there is, by the first bytes of it."""
    with server.store() as store:
        found = set()
        for info in store.content(NS).list():
            with store.content(NS).reader(info.digest) as reader:
                found.add(reader.read_at(10, 0).decode())
        return found


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def settle(server: Served) -> None:
    """Have what was to be collected collected: what comes later is because of what comes later."""
    server.stub(LEASES).create(leases_pb2.CreateRequest(id="settle"))
    server.stub(LEASES).delete(leases_pb2.DeleteRequest(id="settle", sync=True))
    time.sleep(0.4)


def is_empty(server: Served) -> bool:
    """Whether a client sees no content."""
    done = server.ctr("content", "ls", "-q")
    return (done.returncode, done.stdout) == (0, "")


# --- by itself -------------------------------------------------------------------------------------


def test_what_a_deleted_image_had_goes_by_itself(server: Served) -> None:
    """Nobody asks for it; a second is more than containerd's scheduler takes when it has little to do."""
    add(server, "a", "b")
    settle(server)
    assert server.ctr("images", "rm", "a").returncode == 0
    assert within(3, lambda: there(server) == {"b"})


def test_a_containerd_does_it_as_soon(server: Served, tmp_path: Path) -> None:
    """What is measured is how long content is there after the command has ended."""
    work = tmp_path / "containerd"
    work.mkdir()
    source = tmp_path / "a.txt"
    source.write_text("a")
    took = []
    with containerd.running(work):
        real = Served(work / "root", work / "socket")
        for one in (server, real):
            one.ctr("leases", "create", "--id", "l")
            time.sleep(0.5)
            one.ctr("content", "ingest", "ref", "--expected-digest", Digest.of(b"a"), source)
            one.ctr("leases", "rm", "l")
            began = time.monotonic()
            assert within(10, partial(is_empty, one))
            took.append(time.monotonic() - began)
        real.channel.close()
    assert took[0] < took[1] + 2


def test_what_nobody_deletes_stays_until_much_has_changed(server: Served) -> None:
    """Content that nothing refers to may be what a client is about to refer to."""
    add(server, "a")
    settle(server)
    with server.store() as store, store.content(NS).writer("w") as writer:
        writer.write(b"lonely")
        writer.commit()
    for number in range(20):
        server.stub(LEASES).create(leases_pb2.CreateRequest(id=f"l{number}"))
    time.sleep(1)
    assert there(server) == {"a", "lonely"}
    for number in range(100):
        server.stub(LEASES).create(leases_pb2.CreateRequest(id=f"m{number}"))
    assert within(3, lambda: there(server) == {"a"})


def test_the_thresholds_are_those_of_the_store(server: Served) -> None:
    """imgtool.toml says when; what it says last, from the next run on."""
    add(server, "a")
    with (server.root / "imgtool.toml").open("a") as settings:
        settings.write("[gc]\nmutation_threshold = 5\n")
    settle(server)
    with server.store() as store, store.content(NS).writer("w") as writer:
        writer.write(b"lonely")
        writer.commit()
    for number in range(5):
        server.stub(LEASES).create(leases_pb2.CreateRequest(id=f"l{number}"))
    assert within(3, lambda: there(server) == {"a"})


def test_fewer_deletions_than_the_threshold_are_enough_in_time(server: Served) -> None:
    """In containerd it says how many cannot wait for the next run."""
    add(server, "a", "b")
    with (server.root / "imgtool.toml").open("a") as settings:
        settings.write("[gc]\ndeletion_threshold = 10\n")
    settle(server)
    server.stub(IMAGES).delete(images_pb2.DeleteImageRequest(name="a"))
    assert within(3, lambda: there(server) == {"b"})


def test_what_a_command_deletes_beside_the_server_goes_too(server: Served) -> None:
    """The scheduler knows of it from the log."""
    add(server, "a", "b")
    settle(server)
    with server.store() as store:
        store.images(NS).delete("a")
    assert within(3, lambda: there(server) == {"b"})


def test_what_a_daemon_deletes_from_its_content_store_goes_too(tmp_path: Path) -> None:
    """It only takes a label off; gc is to come for that as it does for a deletion."""
    root = tmp_path / "store"
    with serving(root, partial(open_store, str(root)), tmp_path / "socket", backend=NS) as server:
        daemon = server.stub(CONTENT, namespace="")
        digest = Digest.of(b"a")
        step = content_pb2.WriteContentRequest(action=content_pb2.COMMIT, ref="w", data=b"a", expected=digest)
        list(daemon.write(iter([step])))
        settle(server)
        assert there(server) == {"a"}
        daemon.delete(content_pb2.DeleteContentRequest(digest=digest))
        assert within(3, lambda: there(server) == set())


# --- asked for -------------------------------------------------------------------------------------


def test_a_delete_with_sync_returns_when_it_is_gone(server: Served) -> None:
    """Of images and of leases; the images that stay keep theirs."""
    for number in range(5):
        add(server, "keep", "drop")
        assert server.ctr("images", "rm", "--sync", "drop").returncode == 0
        assert there(server) == {"keep"}
        with server.store() as store:
            store.leases(NS).create(Lease(f"l{number}"))
            with store.content(NS).writer("w", lease=f"l{number}") as writer:
                writer.write(b"held")
                writer.commit()
        assert there(server) == {"keep", "held"}
        assert server.ctr("leases", "rm", "--sync", f"l{number}").returncode == 0
        assert there(server) == {"keep"}
        server.ctr("images", "rm", "--sync", "keep")


def test_many_that_wait_are_all_served(server: Served) -> None:
    """They may share a run, which began after each had asked."""
    names = [f"app-{number}" for number in range(16)]
    add(server, *names)

    def delete(name: str) -> bool:
        server.stub(IMAGES).delete(images_pb2.DeleteImageRequest(name=name, sync=True))
        return name in there(server)

    with ThreadPoolExecutor(8) as threads:
        assert not any(threads.map(delete, names))


def test_a_gc_beside_the_server_does_no_harm(server: Served) -> None:
    """Both take the store's own locks."""
    for number in range(4):
        add(server, f"keep-{number}", f"drop-{number}")
        server.stub(IMAGES).delete(images_pb2.DeleteImageRequest(name=f"drop-{number}"))
        with server.store() as store:
            gc.collect(store)
    assert there(server) == {f"keep-{number}" for number in range(4)}


# --- where it fails --------------------------------------------------------------------------------


def test_a_gc_that_cannot_read_says_so_and_the_server_goes_on(server: Served) -> None:
    """What it cannot read may hold anything, so nothing is removed; who waits is told, and so is who runs
    the server. When it is mended gc goes on by itself.
    """
    server.may_warn = ("gc failed: ",)
    add(server, "a", "b", "c")
    settle(server)
    record = server.root / "namespaces" / NS / "images" / "b.toml"
    whole = record.read_bytes()
    record.chmod(0o644)
    record.write_bytes(b"rot")
    images = server.stub(IMAGES)
    assert images.code("delete", images_pb2.DeleteImageRequest(name="a", sync=True)) == "DATA_LOSS"
    assert server.warned
    assert images.get(images_pb2.GetImageRequest(name="c")).image.name == "c"
    assert there(server) == {"a", "b", "c"}
    record.write_bytes(whole)
    assert within(10, lambda: there(server) == {"b", "c"})
