"""Events through the server: what `ctr events` hears, and what clients publish."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.timestamp_pb2 import Timestamp

from imgtool.digest import Digest
from imgtool.model import Descriptor, Image, Namespace
from imgtool.serve.proto import events_pb2 as pb
from imgtool.serve.proto import images_pb2, namespaces_pb2, types_pb2
from tests.real import containerd

from .archives import Image as Archived
from .archives import oci
from .client import Served

EVENTS = pb.DESCRIPTOR.services_by_name["Events"]
IMAGES = images_pb2.DESCRIPTOR.services_by_name["Images"]
NAMESPACES = namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"]
TARGET = Descriptor("text/plain", Digest.of(b"a"), 1)


class Heard:
    """A `ctr events` that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._rest = b""

    def lines(self, count: int, seconds: float = 20.0) -> list[tuple[str, str, dict[str, Any]]]:
        """The next `count` lines, or what comes in so many seconds: namespace, topic and event."""
        assert self.process.stdout is not None
        fd, deadline = self.process.stdout.fileno(), time.monotonic() + seconds
        while self._rest.count(b"\n") < count:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            if not (part := os.read(fd, 1 << 16)):
                break
            self._rest += part
        *whole, self._rest = self._rest.split(b"\n")
        told = []
        for line in whole:
            found = re.fullmatch(r"[\d-]+ [\d:.]+ \+0000 UTC (\S+) (\S+) (.*)", line.decode())
            assert found, line
            told.append((found[1], found[2], json.loads(found[3])))
        return told

    def until(self, name: str) -> list[tuple[str, str, dict[str, Any]]]:
        """What is told before the namespace `name` is removed."""
        told: list[tuple[str, str, dict[str, Any]]] = []
        while not told or told[-1] != (name, "/namespaces/delete", {"name": name}):
            more = self.lines(1)
            assert more, told
            told += more
        return told[:-1]


@contextmanager
def hearing(server: Served, *filters: str) -> Iterator[Heard]:
    """A `ctr events` that is subscribed already."""
    server.ctr("version")  # skips where there is none
    argv = ["ctr", "--address", str(server.path), "events", *filters]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    heard = Heard(process)
    try:
        stub = server.stub(EVENTS, "begin")
        for _ in range(100):
            stub.publish(pb.PublishRequest(topic="/begin", event=packed("begin")))
            if heard.lines(1, 0.2):
                break
        else:
            raise AssertionError("nothing is heard")
        while heard.lines(1, 0.3):
            pass
        yield heard
    finally:
        process.kill()
        process.communicate()


def packed(name: str) -> Packed:
    """An event whose type every client knows."""
    message = images_pb2.ImageCreate(name=name)
    return Packed(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def image(name: str) -> images_pb2.CreateImageRequest:
    target = types_pb2.Descriptor(media_type="text/plain", digest=TARGET.digest, size=1)
    return images_pb2.CreateImageRequest(image=images_pb2.Image(name=name, target=target))


# --- as containerd ---------------------------------------------------------------------------------

COMMANDS: Sequence[Sequence[str]] = (
    ("one", "images", "label", "app", "a=1", "b=2"),
    ("one", "images", "label", "app", "a=1"),
    ("one", "images", "label", "app", "a="),
    ("one", "images", "label", "--replace-all", "app", "c=3"),
    ("one", "images", "tag", "app", "new"),
    ("one", "images", "tag", "--force", "app", "new"),
    ("one", "leases", "create", "--id", "lease"),
    ("one", "leases", "rm", "lease"),
    ("default", "namespaces", "create", "two", "x=1", "y=2"),
    ("default", "namespaces", "create", "two"),
    ("default", "namespaces", "label", "two", "x="),
    ("default", "namespaces", "label", "two", "z=3"),
    ("one", "namespaces", "label", "three", "z=4"),
    ("default", "namespaces", "create", "four"),
    ("one", "images", "rm", "new", "nope"),
    ("one", "images", "rm", "--sync", "app"),
    ("one", "namespaces", "rm", "two", "three"),
    ("default", "namespaces", "rm", "one"),
    ("default", "namespaces", "rm", "four"),
)


def test_the_same_commands_make_the_same_events_as_of_a_containerd(server: Served, tmp_path: Path) -> None:
    """Each exactly once, in order: namespaces, topics and contents."""
    with ExitStack() as stack:
        work = tmp_path / "containerd"
        work.mkdir()
        stack.enter_context(containerd.running(work))
        real = Served(work / "root", work / "socket")
        stack.callback(real.channel.close)
        told = []
        for one in (server, real):
            with hearing(one) as heard:
                one.stub(IMAGES, "one").create(image("app"))
                for namespace, *words in COMMANDS:
                    one.ctr(*words, namespace=namespace)
                told.append(heard.until("four"))
        assert told[0] == told[1]
        assert len(told[0]) == 18


def test_an_import_makes_the_events_that_it_makes_in_a_containerd(server: Served, tmp_path: Path) -> None:
    """What comes and goes in the store on the way is not told, nor what gc removes in the end; and no
    namespace that begins with the use of it.
    """
    image = Archived("events", "amd64", "arm64")
    path = oci(tmp_path / "app.tar", {"example.com/app:1": image})
    work = tmp_path / "containerd"
    work.mkdir()
    told = []
    with containerd.running(work):
        real = Served(work / "root", work / "socket")
        for one in (server, real):
            with hearing(one) as heard:
                one.ctr("content", "ingest", "w", namespace="new")
                one.ctr("images", "import", "--no-unpack", path, namespace="one")
                one.ctr("images", "import", "--no-unpack", path, namespace="one")
                one.ctr("content", "rm", image.digest, namespace="one")
                one.ctr("images", "rm", "--sync", "example.com/app:1", namespace="one")
                one.ctr("namespaces", "create", "end")
                one.ctr("namespaces", "rm", "end")
                told.append([(where, topic, event.get("name")) for where, topic, event in heard.until("end")])
        real.channel.close()
    assert told[0] == told[1]
    assert len(told[0]) == 5


# --- what is told ----------------------------------------------------------------------------------


def test_what_commands_beside_the_server_change_is_heard_once(server: Served) -> None:
    """The log is the only source, so each change comes once, whoever made it."""
    with hearing(server) as heard:
        server.stub(IMAGES).create(image("ours"))
        with server.store() as store:
            store.images("default").create(Image("theirs", TARGET))
            store.images("default").delete("ours")
            store.namespaces.create(Namespace("end"))
            store.namespaces.delete("end")
        assert heard.until("end") == [
            ("default", "/images/create", {"name": "ours"}),
            ("default", "/images/create", {"name": "theirs"}),
            ("default", "/images/delete", {"name": "ours"}),
            ("end", "/namespaces/create", {"name": "end"}),
        ]


def test_an_answer_comes_after_its_event(server: Served) -> None:
    """Who has the answer need not wait for the next look at the log."""
    images = server.stub(IMAGES)
    took = []
    with server.told() as told:
        for number in range(21):
            images.create(image(f"app-{number}"))
            began = time.monotonic()
            assert next(told).topic == "/images/create"
            took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.03


def test_filters_narrow_what_is_heard(server: Served) -> None:
    """Each filter is whole; that one of them holds is enough."""
    filters = ("namespace==one,topic~=^/images", "event.name==b", 'topic=="/begin"', "namespace==end")
    with hearing(server, *filters) as heard:
        for namespace in ("one", "two"):
            for name in ("a", "b"):
                server.stub(IMAGES, namespace).create(image(name))
        with server.store() as store:
            store.namespaces.create(Namespace("end"))
            store.namespaces.delete("end")
        assert [(where, event["name"]) for where, _, event in heard.until("end")] == [
            ("one", "a"),
            ("one", "b"),
            ("two", "b"),
            ("end", "end"),
        ]


def test_a_filter_that_is_none_ends_the_subscription(server: Served) -> None:
    done = server.ctr("events", "topic=/a")
    assert done.returncode == 1
    assert "parse error" in done.stderr


def test_content_is_told_of_when_it_goes_and_not_when_it_comes(server: Served) -> None:
    """A containerd of 1.x, whose clients do not know the event, tells of neither but the going."""
    with server.store() as store, store.content("default").writer("w") as writer:
        writer.write(b"data")
    with hearing(server) as heard:
        with server.store() as store:
            with store.content("default").writer("w") as writer:
                digest = writer.commit(labels={"containerd.io/gc.root": "1"}).digest
            store.content("default").delete(digest)
            store.namespaces.create(Namespace("end"))
            store.namespaces.delete("end")
        told = heard.until("end")
    assert told[0] == ("default", "/content/delete", {"digest": digest})
    assert len(told) == 2


# --- what clients publish --------------------------------------------------------------------------


def test_what_is_published_is_heard_in_the_namespace_of_who_did(server: Served) -> None:
    """Its value is passed on as it is, whether its type is known or not."""
    stub = server.stub(EVENTS, "k8s.io")
    event = Packed(type_url="some.Thing", value=b"\xff\x00")
    with server.told() as told:
        began = time.time_ns()
        stub.publish(pb.PublishRequest(topic="/tasks/start", event=event))
        envelope = next(told)
    assert (envelope.namespace, envelope.event) == ("k8s.io", event)
    assert began <= envelope.timestamp.ToNanoseconds() <= time.time_ns()


def test_what_is_forwarded_keeps_its_namespace_and_its_time(server: Served) -> None:
    envelope = types_pb2.Envelope(
        timestamp=Timestamp(seconds=7, nanos=8), namespace="far", topic="/a/b", event=packed("x")
    )
    with server.told() as told:
        server.stub(EVENTS, "near").forward(pb.ForwardRequest(envelope=envelope))
        assert next(told) == envelope


def test_filters_ask_what_is_published_too(server: Served) -> None:
    """Its fields, where the type is one of ours."""
    stub = server.stub(EVENTS)
    others = [packed("a"), Packed(type_url="x.Y"), Packed(type_url=packed("").type_url, value=b"\xff")]
    with server.told("event.name==b") as told:
        for event in (*others, packed("b")):
            stub.publish(pb.PublishRequest(topic="/a", event=event))
        assert images_pb2.ImageCreate.FromString(next(told).event.value).name == "b"


REFUSED: Sequence[tuple[str, str, Any]] = (
    ("publish", "", pb.PublishRequest(topic="/a", event=packed("x"))),
    ("publish", "a/b", pb.PublishRequest(topic="/a", event=packed("x"))),
    *(
        ("publish", "default", pb.PublishRequest(topic=topic, event=packed("x")))
        for topic in ("", "/", "a", "/a//b", "/a b")
    ),
    *(
        ("forward", "default", pb.ForwardRequest(envelope=types_pb2.Envelope(**fields)))
        for fields in (
            {"namespace": "", "topic": "/a", "timestamp": Timestamp(seconds=1)},
            {"namespace": "a/b", "topic": "/a", "timestamp": Timestamp(seconds=1)},
            {"namespace": "a", "topic": "a", "timestamp": Timestamp(seconds=1)},
        )
    ),
)


def test_what_cannot_be_published_is_refused_as_by_a_containerd(server: Served, tmp_path: Path) -> None:
    work = tmp_path / "containerd"
    work.mkdir()
    with containerd.running(work):
        real = Served(work / "root", work / "socket")
        codes = [
            [one.stub(EVENTS, namespace).code(method, request) for method, namespace, request in REFUSED]
            for one in (server, real)
        ]
        real.channel.close()
    assert codes[0] == codes[1]
    assert set(codes[0]) == {"INVALID_ARGUMENT", "FAILED_PRECONDITION"}


# --- the end ---------------------------------------------------------------------------------------


def test_a_subscriber_that_goes_holds_nothing(server: Served) -> None:
    """Each holds a thread while it is there; many that come and go are not to use them up."""
    for _ in range(150):
        stream = server.stub(EVENTS).subscribe(pb.SubscribeRequest(), timeout=60)
        stream.cancel()
    server.stub(IMAGES).create(image("app"))
    with pytest.raises(grpc.RpcError):
        next(stream)
