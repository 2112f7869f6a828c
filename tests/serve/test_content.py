"""The content service, one call at a time, and each branch of a stream of writes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from imgtool.digest import BLAKE3, Digest
from imgtool.model import Lease
from imgtool.ops.labels import ROOT
from imgtool.serve.local import readers
from imgtool.serve.local.content import CHUNK
from imgtool.serve.proto import content_pb2 as pb

from .client import Served, Stub

CONTENT = pb.DESCRIPTOR.services_by_name["Content"]
STAT, WRITE, COMMIT = pb.STAT, pb.WRITE, pb.COMMIT
A = Digest.of(b"a")
END = object()


@contextmanager
def refused(code: str, text: str = "") -> Iterator[None]:
    """The call fails with this code, and a message with `text` in it."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code() is grpc.StatusCode[code]
    assert text in caught.value.details()


@pytest.fixture
def content(server: Served) -> Stub:
    """A client whose lease holds what it writes, so that no gc takes it."""
    with server.store() as store:
        store.leases("default").create(Lease("l"))
    return server.stub(CONTENT, **{"containerd-lease": "l"})


class Stream:
    """A write that is under way: one message, one answer."""

    def __init__(self, stub: Stub, **more: Any) -> None:
        self._sent: queue.Queue[Any] = queue.Queue()
        self.call = stub.write(iter(self._sent.get, END), **more)

    def send(self, action: int = STAT, **fields: Any) -> pb.WriteContentResponse:
        self._sent.put(pb.WriteContentRequest(action=pb.WriteAction.Name(action), **fields))
        answer: pb.WriteContentResponse = next(self.call)
        return answer

    def half_close(self) -> None:
        """As a client's `Close` does; returns when the server has ended the stream too."""
        self._sent.put(END)
        assert list(self.call) == []

    def die(self) -> None:
        self.call.cancel()


def put(stub: Stub, data: bytes, algorithm: str = "sha256", **labels: str) -> Digest:
    digest = Digest.of(data, algorithm)
    fields = {"ref": f"put {digest}", "expected": digest, "data": data, "labels": labels}
    answer = Stream(stub).send(COMMIT, **fields)
    assert answer.digest == digest
    return digest


def data_of(stub: Stub, digest: str, **fields: int) -> bytes:
    return b"".join(r.data for r in stub.read(pb.ReadContentRequest(digest=digest, **fields)))


def refs(stub: Stub, *filters: str) -> list[str]:
    return [s.ref for s in stub.list_statuses(pb.ListStatusesRequest(filters=filters)).statuses]


# --- a stream of writes ----------------------------------------------------------------------------


def test_a_write_is_told_where_it_stands_and_ends_as_content(server: Served, content: Stub) -> None:
    """STAT tells times and total, the others only offset and digest; each answer repeats its action."""
    stream = Stream(content)
    before = time.time_ns()
    answer = stream.send(ref="w", total=5)
    assert (answer.action, answer.offset, answer.total) == (STAT, 0, 5)
    assert answer.digest == Digest.of(b"")
    assert before <= answer.started_at.ToNanoseconds() <= time.time_ns()
    answer = stream.send(WRITE, data=b"hel")
    assert (answer.action, answer.offset, answer.digest) == (WRITE, 3, Digest.of(b"hel"))
    assert not answer.total
    assert not answer.HasField("started_at")
    answer = stream.send(STAT)
    assert (answer.offset, answer.digest, answer.total) == (3, Digest.of(b"hel"), 5)
    answer = stream.send(COMMIT, offset=3, data=b"lo", labels={"env": "prod", "gone": ""})
    assert (answer.action, answer.offset, answer.digest) == (COMMIT, 5, Digest.of(b"hello"))
    assert list(stream.call) == []
    with server.store() as store:
        info = store.content("default").info(Digest.of(b"hello"))
        assert (info.size, info.labels) == (5, {"env": "prod"})
        assert store.leases("default").get("l").resources == {"content": (info.digest,)}
    assert not refs(content)


def test_a_stream_without_messages_is_no_write(content: Stub) -> None:
    Stream(content).half_close()
    assert not refs(content)


def test_the_first_message_needs_a_ref(content: Stub) -> None:
    with refused("INVALID_ARGUMENT", "first message must have a reference: invalid argument"):
        Stream(content).send(WRITE, data=b"a")


def test_a_first_message_may_write_and_commit_at_once(content: Stub) -> None:
    assert Stream(content).send(COMMIT, ref="w", data=b"a").digest == A
    assert data_of(content, A) == b"a"


@pytest.mark.parametrize("offset", [1, 4, -1, 2**62])
def test_a_write_elsewhere_than_at_its_end_is_out_of_range(content: Stub, offset: int) -> None:
    """And what is there stays."""
    stream = Stream(content)
    stream.send(WRITE, ref="w", data=b"abc")
    with refused("OUT_OF_RANGE"):
        stream.send(WRITE, offset=offset, data=b"x")
    answer = Stream(content).send(ref="w")
    assert (answer.offset, answer.digest) == (3, Digest.of(b"abc"))


@pytest.mark.parametrize("action", [WRITE, COMMIT])
def test_offset_0_begins_anew(content: Stub, action: int) -> None:
    stream = Stream(content)
    stream.send(WRITE, ref="w", data=b"wrong")
    answer = stream.send(action, offset=0, data=b"a")
    assert (answer.offset, answer.digest) == (1, A)


def test_a_half_close_keeps_the_write_to_be_resumed(content: Stub) -> None:
    first = Stream(content)
    started = first.send(ref="w", total=4).started_at.ToNanoseconds()
    first.send(WRITE, data=b"ab")
    first.half_close()
    status = content.status(pb.StatusRequest(ref="w")).status
    assert (status.ref, status.offset, status.total) == ("w", 2, 4)
    second = Stream(content)
    answer = second.send(ref="w", total=4)
    assert (answer.offset, answer.digest) == (2, Digest.of(b"ab"))
    assert answer.started_at.ToNanoseconds() == started
    assert answer.updated_at == status.updated_at
    assert second.send(COMMIT, offset=2, data=b"cd").digest == Digest.of(b"abcd")


def test_a_client_that_dies_leaves_a_write_to_be_resumed(server: Served, content: Stub) -> None:
    """Its lock goes with the call: the next client waits no longer than that takes."""
    stream = Stream(content)
    stream.send(WRITE, ref="w", data=b"ab")
    stream.die()
    assert Stream(content).send(COMMIT, ref="w", offset=2, data=b"c").digest == Digest.of(b"abc")


def test_a_ref_that_is_held_is_unavailable_after_a_second(content: Stub) -> None:
    holder = Stream(content)
    holder.send(WRITE, ref="w", data=b"a")
    begun = time.monotonic()
    with refused("UNAVAILABLE"):
        Stream(content).send(ref="w")
    assert 0.8 < time.monotonic() - begun < 3
    with refused("UNAVAILABLE"):
        content.abort(pb.AbortRequest(ref="w"))
    assert holder.send(COMMIT, offset=1).digest == A


def test_a_ref_that_is_given_up_in_that_second_is_had(content: Stub) -> None:
    """A client's close is only half a close: it may come back before the server is done."""
    holder = Stream(content)
    holder.send(WRITE, ref="w", data=b"a")
    timer = threading.Timer(0.4, holder.half_close)
    timer.start()
    assert Stream(content).send(ref="w").offset == 1
    timer.join()


def test_a_command_beside_the_server_holds_a_ref_too(server: Served, content: Stub) -> None:
    with server.store() as store, store.content("default").writer("w") as writer:
        writer.write(b"a")
        with refused("UNAVAILABLE"):
            Stream(content).send(ref="w")
    assert Stream(content).send(ref="w").offset == 1
    with server.store() as store:
        assert store.content("default").status("w").offset == 1


@pytest.mark.parametrize("action", [STAT, WRITE, COMMIT])
def test_what_is_expected_and_recorded_exists_already(server: Served, content: Stub, action: int) -> None:
    """In the first message. The lease holds it then, for it may be nobody else's."""
    put(content, b"a", **{ROOT: "1"})
    with server.store() as store:
        store.leases("default").remove("l", "content", A)
    with refused("ALREADY_EXISTS"):
        Stream(content).send(action, ref="w", expected=A)
    with server.store() as store:
        assert store.leases("default").get("l").resources["content"] == (A,)
    assert not refs(content)


@pytest.mark.parametrize("action", [STAT, WRITE, COMMIT])
def test_a_later_message_that_expects_what_is_recorded_ends_the_write(
    server: Served, content: Stub, action: int
) -> None:
    """Clients that know only at the end what they have written: nothing of it is left behind."""
    put(content, b"a", **{ROOT: "1"})
    with server.store() as store:
        store.leases("default").remove("l", "content", A)
    stream = Stream(content)
    stream.send(WRITE, ref="w", data=b"other")
    with refused("ALREADY_EXISTS"):
        stream.send(action, offset=5, expected=A)
    assert not refs(content)
    with server.store() as store:
        assert A in store.leases("default").get("l").resources["content"]


def test_a_commit_of_what_is_recorded_exists_already(content: Stub) -> None:
    """Where nothing was expected."""
    put(content, b"a")
    with refused("ALREADY_EXISTS"):
        Stream(content).send(COMMIT, ref="w", data=b"a")
    assert not refs(content)


def test_damaged_content_can_be_written_anew(server: Served, content: Stub) -> None:
    """To a client that expects it, it does not exist: that is what heals it."""
    server.may_warn = ("gc failed: ",)
    put(content, b"a")
    (path,) = (p for p in (server.root / "objects").rglob("*") if p.is_file())
    path.chmod(0o644)
    path.write_bytes(b"")
    with refused("DATA_LOSS"):
        data_of(content, A)
    stream = Stream(content)
    stream.send(ref="w", expected=A)
    with refused("ALREADY_EXISTS"):
        stream.send(COMMIT, data=b"a", expected=A)
    assert data_of(content, A) == b"a"


@pytest.mark.parametrize(
    "wrong", [{"total": 3}, {"expected": A}, {"total": 2, "expected": A}], ids=["size", "digest", "both"]
)
def test_other_bytes_than_stated_are_not_committed(content: Stub, wrong: dict[str, Any]) -> None:
    """The write stays as it is, and can be mended."""
    stream = Stream(content)
    stream.send(WRITE, ref="w", data=b"ab")
    with refused("FAILED_PRECONDITION"):
        stream.send(COMMIT, offset=2, **wrong)
    again = Stream(content)
    assert again.send(ref="w").offset == 2
    assert again.send(COMMIT, offset=2, total=2, expected=Digest.of(b"ab")).offset == 2


def test_the_latest_total_and_digest_count(content: Stub) -> None:
    """What the first message says may be a guess; what none says later is what was said before."""
    stream = Stream(content)
    stream.send(ref="w", total=9, expected=Digest.of(b"guess"))
    assert stream.send(STAT, total=1).total == 1
    stream.send(WRITE, data=b"a", expected=A)
    assert stream.send(COMMIT, offset=1).digest == A


def test_a_commit_in_another_algorithm_is_hashed_in_it(content: Stub) -> None:
    digest = Digest.of(b"abc", "sha512")
    stream = Stream(content)
    stream.send(WRITE, ref="w", data=b"abc")
    assert stream.send(COMMIT, offset=3, expected=digest).digest == digest
    assert data_of(content, digest) == b"abc"


@pytest.mark.parametrize("digest", ["x", "sha256:abc", "md5:" + "0" * 32, "sha256:../../../x", A.upper()])
def test_a_malformed_digest_is_refused_and_the_server_goes_on(content: Stub, digest: str) -> None:
    """In each call that takes one: it becomes part of a path."""
    stream = Stream(content)
    stream.send(WRITE, ref="w", data=b"a")
    for call in (
        lambda: content.info(pb.InfoRequest(digest=digest)),
        lambda: content.update(pb.UpdateRequest(info=pb.Info(digest=digest))),
        lambda: content.delete(pb.DeleteContentRequest(digest=digest)),
        lambda: data_of(content, digest),
        lambda: Stream(content).send(ref="v", expected=digest),
        lambda: stream.send(COMMIT, offset=1, expected=digest),
    ):
        with refused("INVALID_ARGUMENT"):
            call()
    assert refs(content) == ["w"]
    assert Stream(content).send(COMMIT, ref="w", offset=1).digest == A


@pytest.mark.parametrize("ref", ["x" * 1025, "a\0b"])
def test_a_ref_that_cannot_be_one_is_refused(content: Stub, ref: str) -> None:
    with refused("INVALID_ARGUMENT"):
        Stream(content).send(ref=ref)


def test_an_action_that_is_none_is_refused(content: Stub) -> None:
    request = pb.WriteContentRequest(ref="w")
    request.action = 7  # type: ignore[assignment]  # what only a client of another time sends
    with refused("INVALID_ARGUMENT", "a write has no action 7"):
        next(content.write(iter([request])))


def test_a_message_above_16_mib_is_refused_and_the_write_stays(content: Stub) -> None:
    stream = Stream(content)
    stream.send(WRITE, ref="w", data=b"ab")
    with refused("RESOURCE_EXHAUSTED"):
        stream.send(WRITE, offset=2, data=bytes(16 << 20))
    big = bytes(15 << 20)
    assert Stream(content).send(COMMIT, ref="w", offset=2, data=big).digest == Digest.of(b"ab" + big)


def test_a_lease_that_is_not_there_is_not_found(server: Served) -> None:
    with refused("NOT_FOUND", "lease 'gone'"):
        Stream(server.stub(CONTENT, **{"containerd-lease": "gone"})).send(ref="w")


def test_nothing_is_written_without_a_namespace(server: Served) -> None:
    with refused("FAILED_PRECONDITION", "namespace is required"):
        Stream(server.stub(CONTENT, namespace="")).send(ref="w")


def test_what_another_namespace_has_need_not_be_sent(server: Served, content: Stub) -> None:
    """With the shared policy, which is the default."""
    put(content, b"shared")
    other = server.stub(CONTENT, namespace="other")
    digest = Digest.of(b"shared")
    answer = Stream(other).send(ref="w", expected=digest, total=6)
    assert (answer.offset, answer.total, answer.digest) == (6, 6, digest)
    assert Stream(other).send(COMMIT, ref="w", expected=digest, offset=6).digest == digest
    assert data_of(other, digest) == b"shared"


# --- reading ---------------------------------------------------------------------------------------


def test_content_is_read_in_chunks_of_1_mib(content: Stub) -> None:
    """Offsets count from the first byte that is read, as containerd's do."""
    digest = put(content, bytes(range(256)) * (9 << 10))
    parts = list(content.read(pb.ReadContentRequest(digest=digest, offset=256)))
    assert [(p.offset, len(p.data)) for p in parts] == [
        (0, CHUNK),
        (CHUNK, CHUNK),
        (2 * CHUNK, (256 << 10) - 256),
    ]
    assert b"".join(p.data for p in parts) == (bytes(range(256)) * (9 << 10))[256:]


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, 0, b"abc"),
        (0, 2, b"ab"),
        (1, 0, b"bc"),
        (1, 1, b"b"),
        (1, 99, b"bc"),
        (3, 0, b""),
        (3, 1, b""),
        (-5, 2, b"ab"),
        (0, -1, b"abc"),
    ],
)
def test_a_range_ends_with_the_content(content: Stub, offset: int, size: int, expected: bytes) -> None:
    digest = put(content, b"abc")
    assert data_of(content, digest, offset=offset, size=size) == expected


def test_an_offset_past_the_end_is_out_of_range(content: Stub) -> None:
    digest = put(content, b"abc")
    with refused("OUT_OF_RANGE"):
        data_of(content, digest, offset=4)
    assert data_of(content, digest) == b"abc"


def test_what_is_deleted_is_read_no_more(server: Served, content: Stub) -> None:
    """Whoever deletes it: what is read often is kept open."""
    for delete in (
        lambda: content.delete(pb.DeleteContentRequest(digest=A)),
        lambda: server.store().content("default").delete(A),
    ):
        put(content, b"a")
        assert data_of(content, A) == b"a"
        delete()
        with refused("NOT_FOUND"):
            data_of(content, A)


def test_what_is_read_does_not_stay_open_for_long(
    server: Served, content: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is deleted would go on taking up its space."""
    monkeypatch.setattr(readers, "IDLE", 0.05)
    closed = threading.Event()
    put(content, b"a")
    with server.store() as store:
        mine = readers.Readers(server.store, lambda store, ns: store.content(ns))
        with mine.reading("default", A) as reader:
            assert reader.read_at(1, 0) == b"a"
        for _ in range(100):
            if reader._fd < 0:  # type: ignore[attr-defined]  # nothing else tells
                closed.set()
                break
            time.sleep(0.02)
        assert store.content("default").info(A).size == 1
    assert closed.is_set()


def test_what_is_read_is_closed_at_once_where_no_thread_can_wait(
    server: Served, content: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading succeeds; and the next is closed in its time again."""
    monkeypatch.setattr(readers, "IDLE", 0.05)
    put(content, b"a")

    def fail(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    mine = readers.Readers(server.store, lambda store, ns: store.content(ns))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Timer, "start", fail)
        with mine.reading("default", A) as reader:
            assert reader.read_at(1, 0) == b"a"
        assert reader._fd < 0  # type: ignore[attr-defined]  # nothing else tells
    with mine.reading("default", A) as reader:
        assert reader.read_at(1, 0) == b"a"
    patience = time.monotonic() + 20
    while reader._fd >= 0:  # type: ignore[attr-defined]
        assert time.monotonic() < patience
        time.sleep(0.02)


def test_a_stream_of_reading_that_is_dropped_harms_nobody(content: Stub) -> None:
    digest = put(content, bytes(8 << 20))
    for _ in range(3):
        call = content.read(pb.ReadContentRequest(digest=digest))
        next(call)
        call.cancel()
    assert len(data_of(content, digest)) == 8 << 20


# --- records ---------------------------------------------------------------------------------------


def test_info_tells_size_times_and_labels(content: Stub) -> None:
    before = time.time_ns()
    info = content.info(pb.InfoRequest(digest=put(content, b"abc", env="prod"))).info
    assert (info.size, dict(info.labels)) == (3, {"env": "prod"})
    assert before <= info.created_at.ToNanoseconds() == info.updated_at.ToNanoseconds() <= time.time_ns()


def test_what_is_not_recorded_is_not_found(content: Stub) -> None:
    for call in (
        lambda: content.info(pb.InfoRequest(digest=A)),
        lambda: content.update(pb.UpdateRequest(info=pb.Info(digest=A))),
        lambda: content.delete(pb.DeleteContentRequest(digest=A)),
        lambda: data_of(content, A),
        lambda: content.status(pb.StatusRequest(ref="w")),
        lambda: content.abort(pb.AbortRequest(ref="w")),
    ):
        with refused("NOT_FOUND", ": not found"):
            call()


def test_an_update_changes_the_labels_that_the_mask_names(content: Stub) -> None:
    put(content, b"a", keep="1", drop="2")
    request = pb.UpdateRequest(info=pb.Info(digest=A, labels={"new.key": "3"}))
    request.update_mask.paths.extend(["labels.new.key", "labels.drop"])
    assert dict(content.update(request).info.labels) == {"keep": "1", "new.key": "3"}
    del request.update_mask.paths[:]
    assert dict(content.update(request).info.labels) == {"new.key": "3"}
    request.update_mask.paths.extend(["labels", "size"])
    with refused("INVALID_ARGUMENT"):
        content.update(request)


def test_a_list_comes_in_blocks_of_100(server: Served, content: Stub) -> None:
    with server.store() as store:
        for number in range(201):
            with store.content("default").writer("w", lease="l") as writer:
                writer.write(b"%d" % number)
                writer.commit(labels={"odd": str(number % 2)})
    blocks = list(content.list(pb.ListContentRequest()))
    assert [len(block.info) for block in blocks] == [100, 100, 1]
    found = [info.digest for block in blocks for info in block.info]
    assert found == sorted(Digest.of(b"%d" % number) for number in range(201))
    odd = content.list(pb.ListContentRequest(filters=["labels.odd==1"]))
    assert sum(len(block.info) for block in odd) == 100
    with refused("INVALID_ARGUMENT"):
        list(content.list(pb.ListContentRequest(filters=["==="])))


def test_content_of_every_algorithm_is_served(content: Stub) -> None:
    digests = {put(content, b"abc", algorithm) for algorithm in ("sha256", "sha512", BLAKE3)}
    (block,) = content.list(pb.ListContentRequest())
    assert {info.digest for info in block.info} == digests
    assert {data_of(content, digest) for digest in digests} == {b"abc"}


def test_unfinished_writes_are_listed_and_dropped(content: Stub) -> None:
    for ref in ("b", "a"):
        stream = Stream(content)
        stream.send(WRITE, ref=ref, data=b"x", total=7)
        stream.half_close()
    assert refs(content) == ["a", "b"]
    assert refs(content, "ref==b") == ["b"]
    content.abort(pb.AbortRequest(ref="a"))
    assert refs(content) == ["b"]
