"""Export: the bytes that are written, and that all of them are there or none. See FAULTS F1 to F5, F11."""

from __future__ import annotations

import errno
import io
import os
import pty
import shutil
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import BLAKE3, Digest
from imgtool.disk import copying, open_store
from imgtool.errors import (
    AlreadyExists,
    DataLoss,
    ImgtoolError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from imgtool.memory import MemoryStore
from imgtool.model import Descriptor, replace
from imgtool.oci import media, strictjson
from imgtool.ops import export_plan, export_write, gc
from imgtool.ops.export import wanted
from imgtool.ops.export_plan import Exported, Object, Parcel
from imgtool.ops.export_write import to_stream
from tests.faults.double import Double, Killing, in_place, process

from .export_world import BIG, NS, World, blob, blobs, files, spoil


@pytest.fixture
def at(tmp_path: Path) -> Path:
    """Where exports go: nothing else is there."""
    path = tmp_path / "here"
    path.mkdir()
    return path


@pytest.fixture
def world(tmp_path: Path, at: Path) -> Iterator[World]:
    with open_store(str(tmp_path / "store")) as store:
        yield World(store, at)


SOME = Digest.of(b"some")


class At(Double):
    """Does something before call `at`, which may raise. `failed` is the call that it kept from happening."""

    def __init__(self, at: int, what: Callable[[], object]) -> None:
        super().__init__()
        self.at, self.what, self.failed = at, what, ""

    def perform(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.count == self.at:
            self.failed = call.__name__
            self.what()
        return super().perform(call, args, kwargs)


def failure(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


# --- the same bytes ---------------------------------------------------------------------------------


def test_the_same_images_make_the_same_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order they are named, whenever, and wherever to."""
    world.image("a", b"1", BIG)
    world.tag("b", world.put(b"plain", "text/plain", BLAKE3))
    world.export("a", "b", out="first")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    world.export("b", "a", out="second")
    world.export("a", "b", out="-")
    assert (world.path / "first").read_bytes() == (world.path / "second").read_bytes() == world.stdout


def test_a_store_in_memory_makes_the_same_bytes(world: World, at: Path) -> None:
    """There, no kernel copies."""
    twin = World(MemoryStore(), at)
    for each in (world, twin):
        each.image("a", b"1", BIG)
    world.export("a", out="disk")
    twin.export("a", out="memory")
    assert (at / "disk").read_bytes() == (at / "memory").read_bytes()


def test_a_kernel_that_does_not_copy_makes_no_difference(world: World) -> None:
    """Between file systems of two kinds, or in a sandbox."""

    class NoCopy(Double):
        def perform(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if call is os.copy_file_range:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            return super().perform(call, args, kwargs)

    target = world.image()
    world.export("app:1", out="copied/")
    with in_place(NoCopy()):
        world.export("app:1", out="read/")
    copied, read = (
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (world.path / "copied", world.path / "read")
    )
    assert Path(blob(target)) in copied
    assert copied == read


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large objects are copied in ten pieces or more, and each is hashed while the next is copied."""
    monkeypatch.setattr(copying, "COPY", len(BIG) // 10 + 1)
    monkeypatch.setattr(copying, "READ", len(BIG) // 20 + 1)
    monkeypatch.setattr(export_write, "COPY", len(BIG))


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("out", ["out", "layout/"])
def test_a_copy_in_pieces_makes_no_difference(world: World, at: Path, out: str) -> None:
    """Nor does what comes behind it: the hashing of one object goes on while the next is written."""
    twin = World(MemoryStore(), at)
    for each in (world, twin):
        each.image("a", BIG, b"small", BIG[::-1])
    world.export("a", out=out)
    twin.export("a", out="twin")
    found = files((at / "twin").read_bytes())
    if out == "out":
        assert (at / "out").read_bytes() == (at / "twin").read_bytes()
    else:
        assert all((at / "layout" / name).read_bytes() == data for name, data in found.items())


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("out", ["out", "layout/"])
@pytest.mark.parametrize("where", [0, len(BIG) // 2, len(BIG) - 1])
def test_a_flipped_bit_in_any_piece_is_found(world: World, out: str, where: int) -> None:
    """In the first, and in the last, whose hash is not ready before all is written."""
    layer = world.put(BIG)
    world.tag("app", world.manifest(layer, world.put(BIG[::-1])))
    data = bytearray(BIG)
    data[where] ^= 1
    spoil(world.object(layer), bytes(data))
    with pytest.raises(DataLoss, match=f"object '{layer.digest}' hashes to"):
        world.export("app", out=out)
    assert not world.there()


def test_headers_say_nothing_of_machine_or_day(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """ustar throughout, and all fields fixed but name, size and what SOURCE_DATE_EPOCH says."""
    world.image()
    for epoch in (None, "1700000000"):
        monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
        if epoch:
            monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        world.export("app:1")
        raw = (world.path / "out").read_bytes()
        with tarfile.open(world.path / "out") as tar:
            members = tar.getmembers()
        for m in members:
            assert (m.uid, m.gid, m.uname, m.gname, m.mtime) == (0, 0, "", "", int(epoch or 0))
            assert m.mode == (0o755 if m.isdir() else 0o644)
            header = raw[m.offset : m.offset + 512]
            assert header[257:265] == b"ustar\x0000"
            assert header[156:157] in (b"0", b"5")
            assert not any(header[329:512])
        names = [m.name for m in members]
        assert names[:4] == ["oci-layout", "index.json", "blobs", "blobs/sha256"]
        assert names[4:] == sorted(names[4:])
        assert raw.endswith(bytes(1024))
        assert len(raw) == members[-1].offset_data + -(-members[-1].size // 512) * 512 + 1024


def test_a_source_date_epoch_that_is_none_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sets it wants reproducible bytes, and would not get them."""
    world.image()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(InvalidArgument, match="SOURCE_DATE_EPOCH is 'today'"):
        world.export("app:1")
    assert not world.there()


def test_only_what_ustar_cannot_say_has_a_pax_header(world: World) -> None:
    """sha512 names are longer than 100 bytes and have no slash where ustar could split them."""
    world.tag("app", world.manifest(world.put(b"short"), world.put(b"long", algorithm="sha512")))
    world.export("app")
    raw = (world.path / "out").read_bytes()
    with tarfile.open(world.path / "out") as tar:
        extended = {m.name for m in tar if raw[m.offset + 156 : m.offset + 157] == b"x"}
    assert extended == {name for name in world.files() if name.startswith("blobs/sha512/")}
    assert len(extended) == 1


def test_a_size_that_ustar_cannot_say_has_a_pax_header() -> None:
    """From 8 GiB on; a reader that took the ustar field alone would lose its way."""

    class Huge(Parcel):
        def members(self) -> Iterator[export_plan.Member]:
            for size in (8 << 30) - 1, 8 << 30:
                yield export_plan.Member(f"{size}", size, object=Object(SOME, SOME))

    written: list[bytes] = []
    with suppress(DataLoss):  # after the header
        to_stream(MemoryStore().content(NS), Huge(), written.append, lambda _: None)
    small = tarfile.TarInfo.frombuf(written[0], "utf-8", "strict")
    assert (small.size, len(written[0])) == ((8 << 30) - 1, 512)

    class OnlyHuge(Parcel):
        def members(self) -> Iterator[export_plan.Member]:
            yield export_plan.Member("huge", 8 << 30, object=Object(SOME, SOME))

    written.clear()
    with suppress(DataLoss):
        to_stream(MemoryStore().content(NS), OnlyHuge(), written.append, lambda _: None)
    with tarfile.open(fileobj=io.BytesIO(written[0]), errorlevel=0) as tar:
        [member] = [tar.next()]
    assert member is not None
    assert (member.name, member.size) == ("huge", 8 << 30)


# --- where to --------------------------------------------------------------------------------------


def test_a_layout_has_the_files_of_the_archive(world: World) -> None:
    world.image()
    world.export("app:1", out="archive")
    world.export("app:1", out="layout/")
    found = {
        str(p.relative_to(world.path / "layout")): p.read_bytes()
        for p in (world.path / "layout").rglob("*")
        if p.is_file()
    }
    assert found == world.files("archive")


def test_an_empty_directory_is_filled_and_another_left_alone(world: World) -> None:
    world.image()
    (world.path / "empty").mkdir()
    world.export("app:1", out="empty")
    assert (world.path / "empty" / "index.json").exists()
    for out, dry_run in (("empty", False), ("empty", True)):
        with pytest.raises(AlreadyExists, match=r"'.*/empty' already exists"):
            world.export("app:1", out=out, dry_run=dry_run)
    (world.path / "file").touch()
    with pytest.raises(AlreadyExists):
        world.export("app:1", out="file", to="oci")
    assert world.there() == ["empty", "file"]


def test_a_directory_that_is_filled_meanwhile_is_left_alone(world: World) -> None:
    """Two exports to one place: the first has it."""
    world.image()
    there = world.path / "layout"

    def meanwhile() -> None:
        there.mkdir()
        (there / "theirs").touch()

    counting = Double()
    with in_place(counting):
        world.export("app:1", out="other/")
    rename = counting.calls.index("rename") + 1
    with in_place(At(rename, meanwhile)), pytest.raises(AlreadyExists):
        world.export("app:1", out="layout/")
    assert os.listdir(there) == ["theirs"]
    assert world.there() == ["layout", "other"]


@pytest.mark.parametrize("to", ["oci-archive", "oci"])
def test_a_directory_that_is_not_there_is_named(world: World, to: str) -> None:
    """By the path that was typed, not by a temporary name."""
    world.image()
    with pytest.raises(NotFound, match=r"cannot create '.*/nowhere/out': no such file or directory"):
        world.export("app:1", out="nowhere/out", to=to)


def test_a_link_is_followed_and_stays(world: World) -> None:
    """As by `cp` and the shell's `>`."""
    world.image()
    (world.path / "elsewhere").mkdir()
    (world.path / "elsewhere" / "real").write_text("old")
    (world.path / "link").symlink_to("elsewhere/real")
    world.export("app:1", out="link")
    assert (world.path / "link").is_symlink()
    assert tarfile.is_tarfile(world.path / "elsewhere" / "real")
    assert os.listdir(world.path / "elsewhere") == ["real"]


def test_modes_are_those_of_the_umask_or_of_what_is_replaced(world: World) -> None:
    """An archive is for other people; one that was private stays so."""
    world.image()
    (world.path / "private").touch(mode=0o600)
    old = os.umask(0o027)
    try:
        world.export("app:1", out="new")
        world.export("app:1", out="private")
        world.export("app:1", out="layout/")
    finally:
        os.umask(old)
    modes = {
        p: stat.S_IMODE((world.path / p).stat().st_mode)
        for p in ("new", "private", "layout", "layout/index.json")
    }
    assert modes == {"new": 0o640, "private": 0o600, "layout": 0o750, "layout/index.json": 0o640}


def test_a_pipe_that_is_named_as_a_file_is_written_to(world: World) -> None:
    """`-o >(gzip > x)`, `-o /dev/stdout`: a new file in its place would reach nobody."""
    world.image()
    os.mkfifo(world.path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((world.path / "pipe").read_bytes()))
    reader.start()
    world.export("app:1", out="pipe")
    reader.join()
    world.export("app:1", out="-")
    assert read == [world.stdout]
    assert world.there() == ["pipe"]


def test_a_device_is_written_to_and_stays(world: World) -> None:
    world.image()
    (world.path / "null").symlink_to("/dev/null")
    world.export("app:1", out="null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.listdir(world.path) == ["null"]


def test_a_full_device_is_told(world: World) -> None:
    world.image()
    (world.path / "full").symlink_to("/dev/full")
    with pytest.raises(ResourceExhausted, match=r"cannot write '.*/full': no space left"):
        world.export("app:1", out="full")


def test_a_terminal_gets_no_archive(world: World) -> None:
    """Before anything is hashed: that may take long."""
    world.image()
    master, slave = pty.openpty()
    try:
        (world.path / "tty").symlink_to(os.ttyname(slave))
        with pytest.raises(InvalidArgument, match="terminal"):
            world.export("app:1", out="tty")
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize(
    ("path", "kind", "found"),
    [
        ("out.tar", None, "oci-archive"),
        ("-", None, "oci-archive"),
        ("docker.tar", None, "oci-archive"),
        ("out/", None, "oci"),
        (".", None, "oci"),
        ("out", "oci", "oci"),
        ("-", "docker-archive", "docker-archive"),
    ],
)
def test_the_kind_is_guessed_from_what_cannot_be_anything_else(
    path: str, kind: str | None, found: str
) -> None:
    """A file's suffix says nothing: `.tar` is what both archives are."""
    assert wanted(path, kind).kind == found


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("", None, "empty"),
        ("out", "tar", "cannot export to 'tar'"),
        ("out", "file", "cannot export to 'file'"),
        ("-", "oci", "stdout is not"),
        (".", "oci-archive", "'.' is a directory"),
        ("out/", "docker-archive", "'out/' is a directory"),
    ],
)
def test_what_cannot_be_written_is_refused(path: str, kind: str | None, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        wanted(path, kind)


def test_a_dry_run_writes_nothing_and_sees_everything(world: World) -> None:
    """It says what the real run would, damage too."""
    layer = world.put(BIG)
    target = world.tag("app", world.manifest(layer))
    for out in ("out", "-", "layout/"):
        assert world.export("app", out=out, dry_run=True) == [Exported(target.digest, "app", target.size)]
    assert not world.there()
    assert not world.stdout
    spoil(world.object(layer), b"?" * len(BIG))
    with pytest.raises(DataLoss, match=layer.digest):
        world.export("app", dry_run=True)


# --- all or nothing ---------------------------------------------------------------------------------


def test_an_image_that_is_not_there_stops_the_others(world: World) -> None:
    """An archive that lacks one would be taken for whole; every missing name is told."""
    world.image()
    (world.path / "out").write_text("old")
    assert world.export("app:1", "b", "c") == []
    assert [str(e) for e in world.errors] == ["image 'b' not found", "image 'c' not found"]
    assert all(isinstance(e, NotFound) for e in world.errors)
    assert (world.path / "out").read_text() == "old"
    assert world.there() == ["out"]


def test_no_name_is_no_archive(world: World) -> None:
    with pytest.raises(InvalidArgument, match="no image"):
        world.export()


def flipped(world: World, d: Descriptor) -> None:
    data = bytearray(world.object(d).read_bytes())
    data[len(data) // 2] ^= 1
    spoil(world.object(d), bytes(data))


def shortened(world: World, d: Descriptor) -> None:
    spoil(world.object(d), world.object(d).read_bytes()[:-1])


def removed(world: World, d: Descriptor) -> None:
    world.object(d).unlink()


def forgotten(world: World, d: Descriptor) -> None:
    world.store.content(NS).delete(d.digest)


@pytest.mark.parametrize("out", ["out", "layout/", "-"])
@pytest.mark.parametrize("part", ["target", "config", "small", "large", "file"])
@pytest.mark.parametrize("damage", [flipped, shortened, removed, forgotten])
def test_damage_is_named_and_nothing_goes_out(
    world: World, damage: Callable[[World, Descriptor], None], part: str, out: str
) -> None:
    """Whatever it is, wherever it would go: an archive that is there is right."""
    small, large, config = world.put(b"small"), world.put(BIG), world.config()
    target = world.tag("app", world.manifest(small, large, config=config))
    file = world.tag("file", world.put(b"plain", "text/plain", BLAKE3))
    parts = {"target": target, "config": config, "small": small, "large": large, "file": file}
    damage(world, parts[part])
    with pytest.raises(DataLoss, match=parts[part].digest):
        world.export("app", "file", out=out)
    assert not world.there()
    assert not world.stdout


def test_an_object_of_another_size_than_its_descriptor_says_is_damage(world: World) -> None:
    """Bytes and digest may be right: who reads the archive goes by the size."""
    layer = world.put(b"layer")
    world.tag("app", world.manifest(replace(layer, size=6)))
    with pytest.raises(DataLoss, match=f"{layer.digest}.* has 5 bytes, expected 6"):
        world.export("app")
    world.tag("file", replace(world.put(b"plain", "text/plain"), size=6))
    with pytest.raises(DataLoss, match="has 5 bytes, expected 6"):
        world.export("file")


def test_a_document_that_is_none_is_damage(world: World) -> None:
    """As it is to fsck and to gc."""
    world.tag("app", world.put(b"{}", media.OCI_MANIFEST))
    with pytest.raises(DataLoss, match="image 'app': schemaVersion"):
        world.export("app")
    assert world.there() == []


def test_an_image_that_is_moved_meanwhile_goes_out_as_it_is_then(world: World) -> None:
    """A gc that runs between may have taken what it pointed to; that is no damage."""
    world.image("app", b"old", BIG)
    new = world.manifest(world.put(b"new"))
    world.tag("new", new)

    def move() -> None:
        images = world.store.images(NS)
        images.update(replace(images.get("app"), target=new), "target")
        gc.collect(world.store)

    with in_place(At(1, move)):
        assert world.export("app") == [Exported(new.digest, "app", new.size)]
    assert blobs(world.files()) >= {blob(new)}
    assert world.there() == ["out"]


def test_an_image_that_is_deleted_meanwhile_is_not_found(world: World) -> None:
    world.image("app", b"old", BIG)

    def delete() -> None:
        world.store.images(NS).delete("app")
        gc.collect(world.store)

    with in_place(At(1, delete)):
        assert world.export("app") == []
    assert [str(e) for e in world.errors] == ["image 'app' not found"]
    assert world.there() == []


INTERRUPTED = 0


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("out", ["out", "layout/"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, INTERRUPTED])
def test_a_call_that_fails_leaves_what_was_there(world: World, out: str, number: int) -> None:
    """Each call of an export fails once, or is where a signal arrives. After the rename only the sync of
    the directory is left: then it is the new one that is there.
    """

    def interrupt() -> None:
        raise KeyboardInterrupt

    world.image()
    expected = {errno.EIO: ImgtoolError, errno.ENOSPC: ResourceExhausted, INTERRUPTED: KeyboardInterrupt}[
        number
    ]
    place = world.path / out.rstrip("/")
    for at in count(1):
        if out == "out":
            place.write_text("old")
        double = At(at, failure(number) if number else interrupt)
        raised: BaseException | None = None
        with in_place(double):
            try:
                world.export("app:1", out=out)
            except (ImgtoolError, KeyboardInterrupt) as error:
                raised = error
        where = f"call {at}, {double.failed}, of {double.calls}: {raised!r}"
        # Where the kernel does not begin to copy, it is read and written instead.
        first = double.failed == "copy_file_range" and double.calls.count(double.failed) == 1
        assert raised or not double.failed or first, where
        assert raised is None or type(raised) is expected, where
        renamed = raised is None or "rename" in double.calls[: at - 1]
        assert world.there() == ([place.name] if renamed or out == "out" else []), where
        if out == "out":
            assert (place.read_bytes() == b"old") != renamed, where
        elif renamed:
            shutil.rmtree(place)
        if not double.failed:
            break
    assert at > 5


def test_a_full_disk_is_told_with_the_path(world: World) -> None:
    world.image()
    double = Double()
    with in_place(double):
        world.export("app:1")
    with (
        in_place(At(double.calls.index("write") + 1, failure(errno.ENOSPC))),
        pytest.raises(ResourceExhausted) as raised,
    ):
        world.export("app:1", out="full")
    assert str(raised.value) == f"cannot write '{world.path}/full': no space left on device"


def test_a_process_that_is_killed_leaves_what_was_there(world: World) -> None:
    """And a temporary name that says what it is."""
    world.image()
    counting = Double()
    with in_place(counting):
        world.export("app:1")
    rename = counting.calls.index("rename") + 1
    for at in range(1, rename + 1):
        (world.path / "out").write_text("old")
        with process(), in_place(Killing(at)):
            world.export("app:1")
        assert (world.path / "out").read_text() == "old"
        for name in set(world.there()) - {"out"}:
            assert name.startswith(".imgtool-")
            (world.path / name).unlink()


def test_a_directory_without_permission_is_named(world: World) -> None:
    world.image()
    if os.geteuid() == 0:
        with in_place(At(1, failure(errno.EACCES))), pytest.raises(PermissionDenied) as raised:
            world.export("app:1")
    else:
        world.path.chmod(0o500)
        with pytest.raises(PermissionDenied) as raised:
            world.export("app:1")
        world.path.chmod(0o700)
    assert str(raised.value) == f"cannot create '{world.path}/out': permission denied"


def test_more_than_others_read_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """imgtool itself reads an index.json of 4 MiB and archives of 100,000 members."""
    world.image()
    with monkeypatch.context() as m:
        m.setattr(export_plan, "LIMIT", 100)
        with pytest.raises(InvalidArgument, match=r"index\.json"):
            world.export("app:1")
    monkeypatch.setattr(export_plan, "MEMBERS_MAX", 7)
    with pytest.raises(InvalidArgument, match="files or more"):
        world.export("app:1")
    world.export("app:1", out="layout/")
    assert strictjson.LIMIT == 4 << 20


def test_what_an_export_wrote_is_synced_before_it_is_renamed(world: World) -> None:
    """Else a power cut could leave the new name with the old disk's rubbish."""
    world.image()
    for out in ("out", "layout/"):
        double = Double()
        with in_place(double):
            world.export("app:1", out=out)
        calls = [
            call for call in double.calls if call in ("fsync", "syncfs", "rename", "write", "copy_file_range")
        ]
        rename = calls.index("rename")
        assert "fsync" in calls[rename - 1], calls
        assert calls[rename + 1 :] == ["fsync"], calls
