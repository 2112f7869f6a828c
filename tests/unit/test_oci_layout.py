"""Layouts: directories that somebody else made, with everything that may lie in one."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import SHA256, Digest
from imgtool.errors import FailedPrecondition, ImgtoolError, InvalidArgument, NotFound
from imgtool.oci import media
from imgtool.oci.layout import FileReader, Layout

BLOB = b"content"
DIGEST = Digest.of(BLOB)
VERSION = '{"imageLayoutVersion": "1.0.0"}'


def entry(n: int = 0, **annotations: str) -> dict[str, Any]:
    digest = str(Digest.of(bytes([n])))
    return {"mediaType": media.OCI_MANIFEST, "digest": digest, "size": 1, "annotations": annotations}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A layout with one blob and no images."""
    made = tmp_path / "layout"
    (made / "blobs" / SHA256).mkdir(parents=True)
    (made / "oci-layout").write_text(VERSION)
    (made / "blobs" / SHA256 / DIGEST.encoded).write_bytes(BLOB)
    index(made)
    return made


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    """No file stays open, whatever a layout holds."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def index(path: Path, *entries: dict[str, Any], **more: Any) -> None:
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries} | more))


def blob(path: Path) -> Path:
    return path / "blobs" / SHA256 / DIGEST.encoded


def refused(path: Path) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        Layout(str(path))
    return caught.value


def test_the_roots_are_the_entries_of_the_index_with_the_names_that_ctr_gives(path: Path) -> None:
    """containerd's own annotation has the whole name and wins; OCI's is often a mere tag."""
    oci, own = "org.opencontainers.image.ref.name", "io.containerd.image.name"
    index(
        path,
        entry(0, **{oci: "latest"}),
        entry(1, **{oci: "latest", own: "docker.io/library/redis:latest"}),
        entry(2),
        entry(3, **{oci: "", own: ""}),
    )
    with Layout(str(path)) as layout:
        names = [r.name for r in layout.roots]
        assert names == ["latest", "docker.io/library/redis:latest", None, None]
        assert [r.descriptor.digest for r in layout.roots] == [Digest.of(bytes([n])) for n in range(4)]


def test_a_root_is_found_by_its_name_or_its_tag(path: Path) -> None:
    """`oci:DIR:latest` means what it means to skopeo and umoci; one tag may have many platforms."""
    oci, own = "org.opencontainers.image.ref.name", "io.containerd.image.name"
    index(path, entry(0, **{oci: "a"}), entry(1, **{oci: "b", own: "c"}), entry(2, **{oci: "a"}))
    with Layout(str(path)) as layout:
        assert layout.find("a") == (layout.roots[0], layout.roots[2])
        assert layout.find("b") == layout.find("c") == (layout.roots[1],)
        with pytest.raises(NotFound) as caught:
            layout.find("d")
    assert caught.value.hint == "it has a, c"


@pytest.mark.parametrize("more", [{}, {"manifests": None}, {"mediaType": media.OCI_INDEX}])
def test_a_layout_without_images_has_no_roots(path: Path, more: dict[str, Any]) -> None:
    """It is a layout all the same: the caller says what to make of it."""
    index(path, **more)
    with Layout(str(path)) as layout:
        assert layout.roots == ()


def test_the_index_may_be_a_docker_manifest_list(path: Path) -> None:
    """pack writes such layouts."""
    index(path, entry(), mediaType=media.DOCKER_LIST)
    with Layout(str(path)) as layout:
        assert len(layout.roots) == 1


def test_a_blob_is_opened_by_digest_and_size(path: Path) -> None:
    """The size is compared before a byte is read."""
    with Layout(str(path)) as layout:
        assert layout.has(DIGEST)
        with FileReader(layout.open_blob(DIGEST, len(BLOB)), "x") as reader:
            assert reader.read() == BLOB
        with pytest.raises(FailedPrecondition, match=f"blob {DIGEST} in .* has 7 bytes, expected 8"):
            layout.open_blob(DIGEST, 8)


def test_a_reader_has_a_position_and_reads_elsewhere_without_moving_it(path: Path) -> None:
    """The contract of `stores.Reader`."""
    with Layout(str(path)) as layout, layout.reader(DIGEST) as reader:
        assert (reader.size, reader.read(3), reader.read_at(4, 1), reader.read_at(9, 7)) == (
            7,
            b"con",
            b"onte",
            b"",
        )
        assert (reader.read(0), reader.read(), reader.read(), reader.read(1)) == (b"", b"tent", b"", b"")


@pytest.mark.parametrize("digest", [Digest.of(b"x"), Digest.of(b"x", "sha512"), Digest.of(b"x", "blake3")])
def test_a_blob_that_is_not_there_is_not_found(path: Path, digest: Digest) -> None:
    """Also where its algorithm has no directory, or nothing has."""
    with Layout(str(path)) as layout:
        assert not layout.has(digest)
        with pytest.raises(NotFound):
            layout.open_blob(digest)
    blob(path).unlink()
    (path / "blobs" / SHA256).rmdir()
    (path / "blobs").rmdir()
    with Layout(str(path)) as layout:
        assert not layout.has(digest)


def test_the_path_that_was_typed_may_be_a_link(path: Path) -> None:
    """The user chose it; what lies below was chosen by somebody else."""
    link = path.parent / "link"
    link.symlink_to(path)
    with Layout(str(link)) as layout:
        assert layout.has(DIGEST)


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
@pytest.mark.parametrize("what", ["link", "pipe", "directory", "socket"])
def test_a_file_of_the_layout_that_is_none_is_refused_at_once(path: Path, name: str, what: str) -> None:
    """A link leads out of the directory, and reading a pipe waits for ever."""
    replace_by(path / name, what)
    assert name in refused(path).message


@pytest.mark.parametrize("what", ["link", "pipe", "directory", "socket"])
def test_a_blob_that_is_no_file_is_refused_at_once(path: Path, what: str) -> None:
    """A link from a blob could read any file of the user."""
    replace_by(blob(path), what)
    with Layout(str(path)) as layout:
        assert layout.has(DIGEST)
        with pytest.raises(InvalidArgument, match=DIGEST.encoded):
            layout.open_blob(DIGEST)
        with pytest.raises(InvalidArgument, match=DIGEST.encoded):
            layout.reader(DIGEST)


@pytest.mark.parametrize("name", ["blobs", f"blobs/{SHA256}"])
@pytest.mark.parametrize("what", ["link", "file", "pipe"])
def test_a_directory_of_blobs_that_is_none_is_refused(path: Path, name: str, what: str) -> None:
    """The real one beside it shows that a link to it would have worked."""
    place = path / name
    real = path.parent / "real"
    place.rename(real)
    if what == "link":
        place.symlink_to(real)
    elif what == "file":
        place.write_text("")
    else:
        os.mkfifo(place)
    with Layout(str(path)) as layout:
        for use in (layout.has, layout.open_blob):
            with pytest.raises(InvalidArgument, match="cannot have"):
                use(DIGEST)


def replace_by(place: Path, what: str) -> None:
    """Put `what` where the file `place` was; a link leads to the file."""
    if what == "link":
        real = place.with_name("real")
        place.rename(real)
        place.symlink_to(real)
        return
    place.unlink()
    if what == "pipe":
        os.mkfifo(place)
    elif what == "directory":
        place.mkdir()
    else:
        here = os.getcwd()
        os.chdir(place.parent)  # the path of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.bind(place.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize(
    "text", ['{"imageLayoutVersion": "1.0.0"}', '{"imageLayoutVersion": "1.99.0", "x": 1}']
)
def test_every_version_1_is_read(path: Path, text: str) -> None:
    """A later 1.x only adds."""
    (path / "oci-layout").write_text(text)
    Layout(str(path)).close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"imageLayoutVersion": "2.0.0"}', "has version '2.0.0', imgtool reads 1.x"),
        ('{"imageLayoutVersion": "1.0.0-rc1"}', "has version '1.0.0-rc1', imgtool reads 1.x"),
        ('{"imageLayoutVersion": "1.0.0\\n"}', "imgtool reads 1.x"),
        ('{"imageLayoutVersion": 1.0}', "is a number, expected a string"),
        ("{}", "is null, expected a string"),
        ("[]", "is an array, expected an object"),
        ("", "is not JSON"),
    ],
)
def test_any_other_version_is_refused(path: Path, text: str, message: str) -> None:
    """What it means is not known."""
    (path / "oci-layout").write_text(text)
    assert message in refused(path).message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("null", "is null, expected an object"),
        ('{"schemaVersion": 2, "manifests": [], "manifests": []}', "has the key 'manifests' twice"),
        ('{"schemaVersion": 2, "manifests": [{}]}', "manifests[0] of '"),
        ('{"schemaVersion": 2, "manifests": [], "layers": []}', "index and manifest at once"),
        ('{"schemaVersion": 2, "manifests": [], "mediaType": "a/b"}', "says that it is 'a/b'"),
        ('{"schemaVersion": 2, "manifests": ' + "[" * 5000, "nested deeper than 64"),
        (" " * (4 * 1024 * 1024) + "{}", "has 4194306 bytes, at most 4194304 are read"),
    ],
)
def test_a_malformed_index_is_refused(path: Path, text: str, message: str) -> None:
    """One clear line that names the file."""
    (path / "index.json").write_text(text)
    assert message in refused(path).message
    assert "index.json" in refused(path).message


def test_a_layout_without_an_index_is_refused(path: Path) -> None:
    """Layouts from before 1.0 had a directory of references instead."""
    (path / "index.json").unlink()
    (path / "refs").mkdir()
    assert refused(path).message == f"layout '{path}' has no file 'index.json'"


def test_a_directory_that_is_no_layout_is_refused_with_the_way_out(path: Path) -> None:
    """Somebody typed the wrong path, or means a plain directory."""
    (path / "oci-layout").unlink()
    error = refused(path)
    assert error.message == f"'{path}' is no OCI image layout: it has no file 'oci-layout'"
    assert error.hint
    assert "index.json" in error.hint


def test_the_storage_folder_of_a_registry_is_called_by_its_name(tmp_path: Path) -> None:
    """It holds images, but not as a layout."""
    (tmp_path / "docker" / "registry" / "v2").mkdir(parents=True)
    assert refused(tmp_path).message.endswith("it is the storage folder of a registry")


@pytest.mark.parametrize("what", ["file", "pipe"])
def test_what_is_no_directory_is_no_layout(tmp_path: Path, what: str) -> None:
    """A pipe is not waited for."""
    place = tmp_path / "x"
    if what == "pipe":
        os.mkfifo(place)
    else:
        place.write_text("")
    assert refused(place).message == f"'{place}' is not a directory"


@pytest.mark.parametrize("text", ["/nowhere", ""])
def test_what_is_absent_is_not_found(text: str) -> None:
    """Exit 3, as for every source path."""
    with pytest.raises(NotFound):
        Layout(text)


def test_a_path_with_nul_is_refused() -> None:
    """The system would say so with a ValueError."""
    with pytest.raises(ImgtoolError):
        Layout("a\0b")
