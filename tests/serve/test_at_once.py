"""Many calls at once on one store, and the end of a server that has some."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from socket import AF_UNIX, socket

import grpc
import pytest

from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.disk.store import DiskStore
from imgtool.ops import gc
from imgtool.serve.address import Address
from imgtool.serve.contracts import Log
from imgtool.serve.proto import content_pb2, images_pb2, types_pb2, version_pb2
from imgtool.serve.server import Server

from .client import Served
from .frames import DATA, GOAWAY, PING, Peer, frame, setting

IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]
TARGET = types_pb2.Descriptor(media_type="text/plain", digest=Digest.of(b"a"), size=1)
VERSION = f"/{version_pb2.DESCRIPTOR.services_by_name['Version'].full_name}/Version"
READ = f"/{content_pb2.DESCRIPTOR.services_by_name['Content'].full_name}/Read"
CLIENTS, ROUNDS = 8, 12


def create(name: str) -> images_pb2.CreateImageRequest:
    return images_pb2.CreateImageRequest(image=images_pb2.Image(name=name, target=TARGET))


def test_eight_clients_with_commands_beside_them_lose_nothing(server: Served) -> None:
    """Each creates, labels and deletes its own images, with gc every now and then, while a command does
    the same and another collects: all that was answered is there at the end.
    """

    def client(number: int) -> None:
        stub = server.stub(IMAGES)
        for i in range(ROUNDS):
            stub.create(create(f"{number}-{i}"))
            update = images_pb2.UpdateImageRequest(image=create(f"{number}-{i}").image)
            update.image.labels["i"] = str(i)
            stub.update(update)
            if i % 2:
                stub.delete(images_pb2.DeleteImageRequest(name=f"{number}-{i}", sync=i % 6 == 5))
            stub.list(images_pb2.ListImagesRequest(filters=[f"labels.i=={i}"]))

    def command() -> None:
        for i in range(ROUNDS):
            with server.store() as store, store.content("default").writer(f"w{i}") as writer:
                writer.write(b"%d" % i)
                writer.commit(labels={"containerd.io/gc.root": "1"})
            with server.store() as store:
                gc.collect(store)

    with ThreadPoolExecutor(CLIENTS + 1) as threads:
        started = [threads.submit(client, number) for number in range(CLIENTS)]
        started.append(threads.submit(command))
        for one in started:
            one.result(timeout=120)
    found = server.stub(IMAGES).list(images_pb2.ListImagesRequest()).images
    expected = {f"{number}-{i}": str(i) for number in range(CLIENTS) for i in range(0, ROUNDS, 2)}
    assert {image.name: image.labels["i"] for image in found} == expected
    with server.store() as store:
        assert len(list(store.objects())) == ROUNDS
        assert not store.litter(frozenset())


def test_of_eight_that_create_one_name_one_succeeds(server: Served) -> None:
    """The lock is between processes; here it must also hold between threads of one."""

    def client(_: int) -> str:
        return server.stub(IMAGES).code("create", create("one"))

    with ThreadPoolExecutor(CLIENTS) as threads:
        codes = sorted(threads.map(client, range(CLIENTS)))
    assert codes == ["ALREADY_EXISTS"] * (CLIENTS - 1) + ["OK"]


class Held:
    """Opens a store for calls that then wait; what the server does by itself does not."""

    def __init__(self, root: Path) -> None:
        self.arrived = threading.Event()
        self.go_on = threading.Event()
        self._root = str(root)

    @contextmanager
    def __call__(self) -> Iterator[DiskStore]:
        if threading.current_thread().name.startswith("call"):
            self.arrived.set()
            assert self.go_on.wait(30)
        with open_store(self._root) as store:
            yield store


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Held, Server, Served]]:
    """A server whose calls wait until they are let go on."""
    opener = Held(tmp_path / "store")
    server = Server(str(tmp_path / "store"), opener, Log(print, print, print))
    server.start(Address(str(tmp_path / "socket")))
    client = Served(tmp_path / "store", tmp_path / "socket")
    yield opener, server, client
    opener.go_on.set()
    client.channel.close()
    server.stop(grace=0)


def begin(client: Served, call: Callable[[], object], opener: Held) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    assert opener.arrived.wait(30)
    return thread


def test_a_call_that_runs_ends_before_the_server_does(held: tuple[Held, Server, Served]) -> None:
    """And what begins meanwhile is refused: there is no socket any more."""
    opener, server, client = held
    done: list[images_pb2.CreateImageResponse] = []
    call = partial(client.stub(IMAGES).create, create("app"))
    running = begin(client, lambda: done.append(call()), opener)
    stopping = threading.Thread(target=server.stop, kwargs={"grace": 30})
    stopping.start()
    while client.path.exists():
        time.sleep(0.01)
    with (
        grpc.insecure_channel(
            f"unix:{client.path}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as other,
        pytest.raises(grpc.RpcError) as caught,
    ):
        other.unary_unary(f"/{IMAGES.full_name}/List")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert stopping.is_alive()
    opener.go_on.set()
    running.join(30)
    stopping.join(30)
    assert [response.image.name for response in done] == ["app"]


def test_a_call_that_does_not_end_holds_the_server_no_longer_than_it_is_given(
    held: tuple[Held, Server, Served],
) -> None:
    """systemd would kill it, and the socket would stay."""
    opener, server, client = held
    codes: list[grpc.StatusCode] = []

    def call() -> None:
        with pytest.raises(grpc.RpcError) as caught:
            client.stub(IMAGES).create(create("app"))
        codes.append(caught.value.code())

    running = begin(client, call, opener)
    began = time.monotonic()
    server.stop(grace=0.2)
    assert time.monotonic() - began < 5
    running.join(30)
    assert len(codes) == 1


# --- connections -----------------------------------------------------------------------------------


def connect(path: Path) -> Peer:
    end = socket(AF_UNIX)
    end.connect(str(path))
    return Peer(end)


def test_three_hundred_connections_are_served_at_once(server: Served) -> None:
    """Each with a call, after all of them are there; and none is left when they are closed."""
    before = threading.active_count()
    clients = [connect(server.path) for _ in range(300)]
    for client in clients:
        client.hello()
    for client in clients:
        client.ask(1, VERSION)
    assert {client.answer(1).status for client in clients} == {"0"}
    for client in clients:
        client.close()
    for _ in range(500):
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_client_that_reads_nothing_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Its answer fills the socket, and who sends it has the lock of the connection. Nor do others learn any
    later that they are to go.
    """
    root = tmp_path / "store"
    with open_store(str(root)) as store, store.content("default").writer("w") as writer:
        writer.write(bytes(8 << 20))
        digest = writer.commit(labels={"containerd.io/gc.root": "1"}).digest
    server = Server(str(root), partial(open_store, str(root)), Log(print, print, print))
    server.start(Address(str(tmp_path / "socket")))
    client = connect(tmp_path / "socket")
    client.hello(setting(4, 1 << 30))
    request = content_pb2.ReadContentRequest(digest=digest).SerializeToString()
    client.ask(1, READ, request, {"containerd-namespace": "default"})
    client.until(DATA)
    others = [connect(tmp_path / "socket") for _ in range(5)]
    for other in others:
        other.hello()
        assert other.is_alive()
    began = time.monotonic()
    stopping = threading.Thread(target=server.stop, kwargs={"grace": 3})
    stopping.start()
    for other in others:
        other.until(GOAWAY)
    assert time.monotonic() - began < 2
    stopping.join(20)
    assert time.monotonic() - began < 5
    for one in (client, *others):
        one.close()


def test_who_is_told_to_go_is_told_which_calls_are_not_taken(held: tuple[Held, Server, Served]) -> None:
    """Its running call is answered; a later one on the same connection is not, and can be sent elsewhere."""
    opener, server, served = held
    client = connect(served.path)
    client.hello()
    path = f"/{IMAGES.full_name}/Create"
    client.ask(1, path, create("app").SerializeToString(), {"containerd-namespace": "default"})
    assert opener.arrived.wait(30)
    stopping = threading.Thread(target=server.stop, kwargs={"grace": 30})
    stopping.start()
    told = client.until(GOAWAY)
    assert (int.from_bytes(told.payload[:4]), told.code) == (1, 0)
    client.ask(3, VERSION)
    client.send(frame(PING, payload=bytes(8)))
    between = next(client.frames())
    assert between.kind == PING
    opener.go_on.set()
    stopping.join(30)
    heard = client.ended()
    assert {found.number for found in heard} == {1}
    assert b"grpc-status\x010" in heard[-1].payload
    client.close()
