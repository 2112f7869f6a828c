"""What the store on files once got wrong. Each test shows the loss that it prevents."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, atomic, codec, ingests, log, open_store, read
from imgtool.errors import DataLoss, FailedPrecondition, ImgtoolError, InvalidArgument
from imgtool.model import Descriptor, Image, Namespace
from imgtool.names import file_name
from imgtool.ops import gc

NS = "default"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[DiskStore]:
    with open_store(str(root)) as opened:
        yield opened


def add(store: DiskStore, data: bytes) -> Digest:
    with store.content(NS).writer("add") as writer:
        writer.write(data)
        return writer.commit().digest


def name(store: DiskStore, text: str, digest: Digest, **more: Any) -> Image:
    target = Descriptor("application/octet-stream", digest, 5, **more)
    return store.images(NS).create(Image(text, target))


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.chmod(0o600)
    path.write_bytes(change(path.read_bytes()))


def expired(data: bytes) -> bytes:
    """A `ref.toml` whose time is up, sealed anew."""
    body = re.sub(rb'expires = "....', b'expires = "2000', data[: data.index(b"# sha256:")])
    return body + codec.seal(body)


def unreadable(store: DiskStore) -> list[str]:
    """The messages of what a listing of the images cannot read."""
    errors: list[ImgtoolError] = []
    list(store.images(NS).list(on_error=errors.append))
    return [error.message for error in errors]


# --- seals -----------------------------------------------------------------------------------------


def test_a_seal_with_any_bit_flipped_is_no_comment() -> None:
    """A flip in the `# sha256:` of the seal would turn it into a comment, and the record into one
    without a seal, which is read: a second flip could then point the image elsewhere unseen.
    """
    data = codec.dump({"schema": 1, "name": "x"}, "record")
    start = data.index(b"# sha256:") * 8
    for bit in range(start - 8, len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataLoss):
            codec.load(bytes(flipped), "record")


@pytest.mark.parametrize("missing", range(1, 74))
def test_a_seal_that_is_cut_short_is_no_comment(missing: int) -> None:
    """A file that lost its end must not be read as one that never had a seal."""
    with pytest.raises(DataLoss):
        codec.load(codec.dump({"schema": 1, "name": "x"}, "record")[:-missing], "record")


def test_a_comment_at_the_end_of_a_record_without_a_seal_is_read() -> None:
    """Who edits a record by hand removes the seal, and may leave a note."""
    assert codec.load(b'name = "x"\n# moved by me, see ticket 7\n', "record") == {"name": "x"}


def test_every_bit_of_a_line_of_the_log_is_guarded(tmp_path: Path) -> None:
    """The log is what undo restores from: a flipped digit would restore another digest."""
    path = tmp_path / "log"
    record = {"schema": 1, "target": {"digest": "sha256:" + "0" * 64}}
    log.append(str(path), "0" * 16, 0, [("image", "x", None, record)], lambda kind, name: record)
    data = path.read_bytes()
    assert [entry and entry["name"] for entry in log.entries(str(path))] == ["x"]
    with path.open("wb") as damaged:
        for bit in range(len(data) * 8 - 8):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            damaged.write(flipped)
    assert [entry for entry in log.entries(str(path)) if entry] == []


def test_a_line_of_the_log_is_json_with_its_seal_as_the_last_member(tmp_path: Path) -> None:
    """Other programs read the log with any JSON parser, and check it with sha256sum."""
    path = tmp_path / "log"
    log.append(str(path), "0" * 16, 0, [("image", "x", None, {})], lambda kind, name: None)
    line = path.read_bytes()
    body, _, rest = line.rpartition(b',"seal":')
    assert rest == b'"%s"}\n' % Digest.of(body).encoded.encode()
    assert list(json.loads(line)) == ["op", "time", "kind", "name", "old", "new", "seal"]
    assert "seal" not in (log.entries(str(path))[0] or {})


def test_a_change_that_did_not_happen_is_told_of_by_a_gc_too(store: DiskStore, root: Path) -> None:
    """A writer was killed between its line and its record. Once a gc has written a line behind it,
    nobody judges it any more, and undo would take it for made.
    """
    add(store, b"garbage")
    path = root / "namespaces" / NS / "log"
    log.append(
        str(path), "0" * 16, 0, [("image", "x", None, {"schema": 1})], partial(store.engine.current, NS)
    )
    gc.collect(store)
    assert [entry["void"] for entry in log.entries(str(path)) if entry and "void" in entry] == [
        [["image", "x"]]
    ]


# --- records that are not where they belong ---------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    ["~" + "0" * 64, file_name("n" * 300), "a%62", "a b", "%2fx", "%2E.", "x%C3"],
    ids=["other-hash", "hash-of-another", "needless-escape", "blank", "lower-case", "dots", "no-utf8"],
)
def test_a_record_under_a_file_name_that_is_not_its_names_cannot_be_read(
    store: DiskStore, root: Path, entry: str
) -> None:
    """Were it passed over, gc would not know that its target is in use."""
    name(store, "app", add(store, b"hello"))
    images = root / "namespaces" / NS / "images"
    (images / "app.toml").rename(images / f"{entry}.toml")
    (message,) = unreadable(store)
    assert f"{entry}.toml" in message


def test_content_under_a_file_name_that_is_no_digests_cannot_be_read(store: DiskStore, root: Path) -> None:
    """Were it passed over, gc would take the object from a namespace that has it."""
    digest = add(store, b"hello")
    path = Path(store.engine.layout.content_record(NS, digest))
    path.rename(path.with_name("x.toml"))
    with pytest.raises(DataLoss, match="x'"):
        list(store.content(NS).list())


def test_a_record_whose_name_only_it_tells_is_reported_where_names_are_listed(
    store: DiskStore, root: Path
) -> None:
    """Who takes all names must know that one is not among them."""
    long = "a" * 300
    digest = add(store, b"hello")
    for each in ("app", long):
        name(store, each, digest)
    path = Path(store.engine.layout.image(NS, long))
    path.chmod(0o600)
    path.write_text("schema = ")
    with pytest.raises(DataLoss):
        store.images(NS).names()
    reported: list[ImgtoolError] = []
    assert store.images(NS).names(on_error=reported.append) == ["app"]
    assert [type(error) for error in reported] == [DataLoss]


@pytest.mark.parametrize("entry", [".app.toml.Xa82bd", ".#app.toml", "app.toml~", "README"])
def test_files_of_other_programs_beside_the_records_are_passed_over(
    store: DiskStore, root: Path, entry: str
) -> None:
    """An editor, rsync or a person leaves them; they are fsck's to mention."""
    name(store, "app", add(store, b"hello"))
    (root / "namespaces" / NS / "images" / entry).write_text("not ours")
    content = Path(store.engine.layout.content_record(NS, Digest.of(b"hello"))).parent
    (content / entry).write_text("not ours")
    assert unreadable(store) == []
    assert store.images(NS).names() == ["app"]
    assert [info.digest for info in store.content(NS).list()] == [Digest.of(b"hello")]


def test_a_namespace_that_lost_its_own_record_is_not_absent(store: DiskStore, root: Path) -> None:
    """gc takes its roots from the namespaces that are listed: without this one it would remove
    all that its images need.
    """
    name(store, "app", add(store, b"hello"))
    (root / "namespaces" / NS / "namespace.toml").unlink()
    with pytest.raises(DataLoss, match=r"namespace\.toml"):
        list(store.namespaces.list())
    store.namespaces.update(Namespace(NS, {"back": "again"}), "labels.back")
    assert [namespace.name for namespace in store.namespaces.list()] == [NS]


def test_a_namespace_that_was_deleted_is_absent_though_its_log_stays(store: DiskStore, root: Path) -> None:
    """The log is kept for undo."""
    store.namespaces.create(Namespace(NS))
    store.namespaces.delete(NS)
    assert (root / "namespaces" / NS / "log").exists()
    assert list(store.namespaces.list()) == []


def test_a_namespace_with_an_image_that_cannot_be_read_is_not_empty(store: DiskStore, root: Path) -> None:
    """Deleting it would leave the image without a namespace, and take its content."""
    digest = add(store, b"hello")
    name(store, "n" * 300, digest)
    store.content(NS).delete(digest)
    (record,) = (root / "namespaces" / NS / "images").iterdir()
    edit(record, lambda data: data[:-3])
    with pytest.raises(FailedPrecondition):
        store.namespaces.delete(NS)
    assert (root / "namespaces" / NS / "namespace.toml").exists()


# --- values that TOML does not have ------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [[None], {"a": None}, {"a": [{"b": None}]}],
    ids=["null-in-array", "null-in-object", "deeper"],
)
def test_a_descriptor_with_null_inside_an_unknown_field_is_refused(store: DiskStore, value: object) -> None:
    """An index from outside may hold it; TOML has no null, and a crash is no answer."""
    with pytest.raises(InvalidArgument, match="'app'"):
        name(store, "app", Digest.of(b"hello"), unknown={"com.example": value})


def test_what_is_written_can_be_read_however_deep(store: DiskStore) -> None:
    """The reader refuses deep nesting, so the writer must: an unreadable record stops gc."""

    def nested(depth: int, last: object) -> Any:
        return last if depth == 0 else {"a": nested(depth - 1, last)}

    accepted = 0
    for depth in range(40):
        for last in (1, [nested(depth, 1), 2]):
            try:
                name(store, f"{depth}-{type(last)}", Digest.of(b"hello"), unknown={"x": nested(depth, last)})
                accepted += 1
            except InvalidArgument:
                continue
    assert len(list(store.images(NS).list())) == accepted > 10


# --- races ------------------------------------------------------------------------------------------


def test_a_writer_that_takes_a_ref_while_it_is_given_up_keeps_its_files(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients write the same ref: the second gets the lock in the instant in which the first has
    committed and clears up, and its fresh files are not the first one's to remove.
    """
    directory = Path(store.engine.layout.ingest(NS, "ref"))
    writer = store.content(NS).writer("ref")
    writer.write(b"hello")
    do = atomic._do

    def second_writer_comes(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = do(call, *args, **kwargs)
        if (
            call is os.unlink
            and args[0] == str(directory / "lock")
            and not directory.joinpath("data").exists()
        ):
            (directory / "lock").touch()
            (directory / "data").write_text("of the second")
        return result

    monkeypatch.setattr(atomic, "_do", second_writer_comes)
    writer.commit()
    assert sorted(path.name for path in directory.iterdir()) == ["data", "lock"]
    assert (directory / "data").read_text() == "of the second"


def test_an_ingest_begins_though_its_directory_vanishes_under_it(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side of the same instant: the first one's rmdir comes between our mkdir and our lock."""
    directory = store.engine.layout.ingest(NS, "ref")
    do = atomic._do
    vanished: list[str] = []

    def first_writer_goes(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = do(call, *args, **kwargs)
        if call is os.mkdir and args[0] == directory and not vanished:
            os.rmdir(directory)
            vanished.append(directory)
        return result

    monkeypatch.setattr(atomic, "_do", first_writer_goes)
    with store.content(NS).writer("ref") as writer:
        writer.write(b"hello")
        writer.commit()
    assert vanished
    assert not list(ingests.statuses(store.engine))


def test_a_copy_of_an_ingest_does_not_take_the_ingest_with_it(store: DiskStore, root: Path) -> None:
    """The copy names the same ref, and gc removes by ref: it would drop the bytes that somebody resumes."""
    store.content(NS).writer("ref").close()
    ingest = Path(store.engine.layout.ingest(NS, "ref"))
    copy = ingest.with_name("0" * 64)
    shutil.copytree(ingest, copy)
    edit(copy / "ref.toml", expired)
    assert store.litter(frozenset()) == []


def test_a_reader_finds_content_that_was_collected_and_came_back(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reader's look at the record and at the object, a gc took both and an ingest brought
    them back: nothing is lost, so the reader must not say so.
    """
    digest = add(store, b"hello")
    open_regular = read.open_regular
    opened: list[str] = []

    def meanwhile(path: str) -> tuple[int, os.stat_result]:
        opened.append(path)
        if path == store.engine.layout.object(digest) and opened.count(path) == 1:
            raise FileNotFoundError(path)
        return open_regular(path)

    monkeypatch.setattr(read, "open_regular", meanwhile)
    with store.content(NS).reader(digest) as reader:
        assert reader.read() == b"hello"


def test_a_reader_says_that_an_object_is_gone_for_good(store: DiskStore) -> None:
    """Looking again must come to an end."""
    digest = add(store, b"hello")
    os.unlink(store.engine.layout.object(digest))
    with pytest.raises(DataLoss, match="is missing"):
        store.content(NS).reader(digest)
