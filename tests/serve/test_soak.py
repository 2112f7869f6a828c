"""Many clients at once with commands beside them, for a while. `IMGTOOL_SOAK_SECONDS` says for how long."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from imgtool.serve.proto import content_pb2, events_pb2, images_pb2, leases_pb2, types_pb2
from tests.real.images import need
from tests.real.process import WAIT, Imgtool, environment

from .archives import MANIFEST, Image, oci, sha256
from .client import Served, Stub

SECONDS = float(os.environ.get("IMGTOOL_SOAK_SECONDS", "15"))
STUBS, CTRS, COMMANDS = 6, 2, 2
NAMES = 4  # that each client has at most

CONTENT = content_pb2.DESCRIPTOR.services_by_name["Content"]
EVENTS = events_pb2.DESCRIPTOR.services_by_name["Events"]
IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]
LEASES = leases_pb2.DESCRIPTOR.services_by_name["Leases"]


@contextmanager
def serving(root: Path, path: Path) -> Iterator[Served]:
    """A server in a process of its own, which must end well and say nothing but that it serves."""
    server = Imgtool(root).start("serve", "--address", path)
    client = Served(root, path)
    try:
        assert server.stderr is not None
        assert b"serving" in server.stderr.readline()
        yield client
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=WAIT)
        assert (server.returncode, said) == (0, b"imgtool: SIGTERM: stopping\n")
    finally:
        client.channel.close()
        server.kill()
        server.communicate()


class User:
    """Has images under names of its own; the content it shares with all. `kept` is what it was told is
    there.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.random = random.Random(number)
        self.kept: dict[str, Image] = {}

    def name(self) -> str:
        return f"example.com/user-{self.number}:{self.random.randrange(NAMES)}"

    def image(self) -> Image:
        """One of a few, so that what one deletes another is about to have."""
        return Image(f"{self.random.randrange(8)}", "amd64")


class Client(User):
    """Calls as containerd's clients do."""

    def __init__(self, number: int, server: Served) -> None:
        super().__init__(number)
        self.channel = grpc.insecure_channel(
            f"unix:{server.path}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.headers = {"containerd-namespace": "default"}
        self.images = Stub(self.channel, IMAGES, self.headers)
        self.content = Stub(self.channel, CONTENT, self.headers)
        self.leases = Stub(self.channel, LEASES, self.headers)
        self.told: Counter[tuple[str, str]] = Counter()  # events that are to be heard
        self.rounds = 0

    def turn(self) -> None:
        name = self.name()
        if name in self.kept and self.random.random() < 0.5:
            sync = self.random.random() < 0.3
            self.images.delete(images_pb2.DeleteImageRequest(name=name, sync=sync))
            self.told["/images/delete", name] += 1
            del self.kept[name]
        else:
            self._put(name, self.image())
        self._read(self.random.choice(list(self.kept.values())) if self.kept else None)
        found = self.images.list(images_pb2.ListImagesRequest(filters=[f"name~=user-{self.number}:"])).images
        assert {image.name: image.target.digest for image in found} == {
            name: image.digest for name, image in self.kept.items()
        }
        self.rounds += 1

    def _put(self, name: str, image: Image) -> None:
        lease = f"{self.number}-{self.rounds}"
        self.leases.create(leases_pb2.CreateRequest(id=lease))
        leased = Stub(self.channel, CONTENT, {**self.headers, "containerd-lease": lease})
        *parts, last = image.blobs  # the manifest comes last, when all that it refers to is there
        for digest in parts:
            self._write(leased, digest, image.blobs[digest], {})
        refs = {f"containerd.io/gc.ref.content.{n}": digest for n, digest in enumerate(parts)}
        self._write(leased, last, image.blobs[last], refs)
        target = types_pb2.Descriptor(media_type=MANIFEST, digest=last, size=len(image.blobs[last]))
        record = images_pb2.Image(name=name, target=target, labels={"round": str(self.rounds)})
        if name in self.kept:
            self.images.update(images_pb2.UpdateImageRequest(image=record))
            self.told["/images/update", name] += 1
        else:
            self.images.create(images_pb2.CreateImageRequest(image=record))
            self.told["/images/create", name] += 1
        self.kept[name] = image
        self.leases.delete(leases_pb2.DeleteRequest(id=lease, sync=self.random.random() < 0.2))

    def _write(self, content: Stub, digest: str, data: bytes, labels: dict[str, str]) -> None:
        half = len(data) // 2
        request = content_pb2.WriteContentRequest
        steps = [
            request(action=content_pb2.WRITE, ref=f"{self.number}", expected=digest, data=data[:half]),
            request(action=content_pb2.COMMIT, offset=half, data=data[half:], expected=digest, labels=labels),
        ]
        try:
            assert [step.digest for step in content.write(iter(steps))][-1] == digest
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise

    def _read(self, image: Image | None) -> None:
        for digest, data in image.blobs.items() if image else ():
            read = self.content.read(content_pb2.ReadContentRequest(digest=digest))
            assert b"".join(part.data for part in read) == data

    def close(self) -> None:
        self.channel.close()


class Ctr(User):
    """Imports, exports and removes, as people do."""

    def __init__(self, number: int, server: Served, work: Path) -> None:
        super().__init__(number)
        self.server = server
        self.work = work

    def turn(self) -> None:
        name = self.name()
        path = self.work / f"{self.number}.tar"
        if name in self.kept and self.random.random() < 0.5:
            self._ctr("images", "export", path, name)
            self._ctr("images", "rm", *self.random.sample(["--sync"], self.random.randrange(2)), name)
            del self.kept[name]
        else:
            image = self.image()
            self._ctr("images", "import", "--no-unpack", oci(path, {name: image}))
            self.kept[name] = image
        assert set(self._ctr("images", "ls", "-q", f"name~=user-{self.number}:").split()) == set(self.kept)

    def _ctr(self, *args: str | Path) -> str:
        done = self.server.ctr(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout


class Commands(User):
    """Works on the files, beside the server."""

    def __init__(self, number: int, imgtool: Imgtool, work: Path) -> None:
        super().__init__(number)
        self.imgtool = imgtool
        self.work = work

    def turn(self) -> None:
        name = self.name()
        path = self.work / f"{self.number}.tar"
        match self.random.randrange(4):
            case 0 if name in self.kept:
                self.imgtool("delete", name)
                del self.kept[name]
            case 1:
                self.imgtool("gc")
            case 2 if name in self.kept:
                self.imgtool("export", "-o", path, name)
            case _ if name not in self.kept:
                image = self.image()
                self.imgtool("ingest", oci(path, {name: image}))
                self.kept[name] = image
        found = self.imgtool("list", "-q", f"name~=user-{self.number}:").split()
        assert set(found) == set(self.kept)


def test_many_clients_with_commands_beside_them_lose_nothing(tmp_path: Path) -> None:
    """No call fails, all that was answered is there at the end, with every byte, and every event of the
    clients is heard once.
    """
    need("ctr")
    imgtool = Imgtool(tmp_path / "store")
    heard: Counter[tuple[str, str]] = Counter()
    with (
        serving(tmp_path / "store", tmp_path / "socket") as server,
        server.told('topic~="^/images/"', "event.name==end") as told,
    ):
        hearing = threading.Thread(target=listen, args=(told, heard))
        hearing.start()
        clients = [Client(number, server) for number in range(STUBS)]
        others: list[Ctr | Commands] = [Ctr(STUBS + n, server, tmp_path) for n in range(CTRS)]
        others += [Commands(STUBS + CTRS + n, imgtool, tmp_path) for n in range(COMMANDS)]
        users = [*clients, *others]
        deadline = time.monotonic() + SECONDS
        failed = threading.Event()

        def until_then(turn: Callable[[], None]) -> None:
            try:
                while time.monotonic() < deadline and not failed.is_set():
                    turn()
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(len(users)) as threads:
            for one in [threads.submit(until_then, user.turn) for user in users]:
                one.result()

        kept = {name: image for user in users for name, image in user.kept.items()}
        assert imgtool.targets() == {name: image.digest for name, image in kept.items()}
        content = server.stub(CONTENT)
        for data in (d for image in kept.values() for d in image.blobs.values()):
            read = content.read(content_pb2.ReadContentRequest(digest=sha256(data)))
            assert b"".join(part.data for part in read) == data
        imgtool("gc")
        assert set(imgtool.objects()) == {digest for image in kept.values() for digest in image.blobs}
        imgtool("fsck")
        imgtool("namespace", "create", "end")
        hearing.join(WAIT)
        expected = sum((client.told for client in clients), Counter[tuple[str, str]]())
        names = {name for _, name in expected}
        assert {key: n for key, n in heard.items() if key[1] in names} == dict(expected)
        assert min(client.rounds for client in clients) > SECONDS / 15
        for client in clients:
            client.close()


def listen(told: Iterator[types_pb2.Envelope], heard: Counter[tuple[str, str]]) -> None:
    """Count topics and names until a namespace is made."""
    for envelope in told:
        if envelope.topic == "/namespaces/create":
            break
        heard[envelope.topic, images_pb2.ImageCreate.FromString(envelope.event.value).name] += 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_client_that_dies_in_the_middle_of_a_write_leaves_it_to_be_resumed(
    tmp_path: Path, number: int
) -> None:
    """What had arrived is kept, the ref is free at once, and the next client goes on from there."""
    need("ctr")
    data = random.Random(1).randbytes(8 << 20)
    with serving(tmp_path / "store", tmp_path / "socket") as server:
        target = types_pb2.Descriptor(media_type="x", digest=sha256(data), size=len(data))
        named = images_pb2.Image(name="keeps it from gc", target=target)
        server.stub(IMAGES).create(images_pb2.CreateImageRequest(image=named))
        argv = ["ctr", "-a", str(server.path), "content", "ingest", "--expected-digest", sha256(data), "w"]
        first = subprocess.Popen(argv, stdin=subprocess.PIPE, env=environment())
        assert first.stdin is not None
        first.stdin.write(data[: 5 << 20])
        first.stdin.flush()
        content = server.stub(CONTENT)

        def offset() -> int:
            try:
                return int(content.status(content_pb2.StatusRequest(ref="w")).status.offset)
            except grpc.RpcError:
                return 0

        deadline = time.monotonic() + WAIT
        while offset() < 4 << 20:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(number)
        first.wait()
        first.stdin.close()
        kept = offset()
        assert kept >= 4 << 20
        (tmp_path / "data").write_bytes(data)
        with (tmp_path / "data").open("rb") as file:  # in which the client goes forward
            done = subprocess.run(argv, stdin=file, capture_output=True, env=environment(), timeout=WAIT)
        assert (done.returncode, done.stderr) == (0, b"")
        read = content.read(content_pb2.ReadContentRequest(digest=sha256(data)))
        assert b"".join(part.data for part in read) == data
