"""What is exported, judged by the tools that it is for; and that nothing is left where it fails."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .containerd import Containerd, running
from .images import Layout, need
from .process import WAIT, Imgtool, environment
from .test_corpus import CORPUS, unpack

COPY = ("skopeo", "--insecure-policy", "copy", "--quiet")


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with running(tmp_path_factory.mktemp("containerd")) as daemon:
        yield daemon


@pytest.fixture
def stocked(store: Imgtool, big: Layout, multi: Layout) -> Imgtool:
    """A store with real images: one of three layers, one of two platforms, a nested one, and a file."""
    store("ingest", f"oci:{big.path}:v1", "--name", "docker.io/library/debian:1")
    store("ingest", f"oci:{multi.path}:multi", "--name", "docker.io/library/busybox:2")
    store("ingest", f"oci:{multi.path}:nested", "--name", "nested")
    store(
        "ingest", "-", "--as", "file", "--name", "notes.txt", "--media-type", "text/plain", input=b"notes\n"
    )
    return store


REAL = ("docker.io/library/busybox:2", "docker.io/library/debian:1", "nested")


def exported(store: Imgtool, out: Path | str, *words: str) -> dict[str, str]:
    """Export; returns digests by name, as they were printed."""
    lines = store("export", "-o", out, *words).splitlines()
    return {name: digest for digest, name in (line.split(" ", 1) for line in lines)}


def tool(*args: str | Path) -> str:
    """Run another tool, which has to succeed: what it is given is ours. Returns what it printed."""
    done = subprocess.run(args, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert not done.returncode, f"{' '.join(map(str, args))}: {done.stderr}"
    return done.stdout


def raw_digest(reference: str) -> str:
    """The digest of the manifest that skopeo finds under `reference`."""
    done = subprocess.run(["skopeo", "inspect", "--raw", reference], check=True, capture_output=True)
    return f"sha256:{hashlib.sha256(done.stdout).hexdigest()}"


def unpacked(archive: Path, to: Path) -> Layout:
    with tarfile.open(archive) as tar:
        tar.extractall(to, filter="data")
    return Layout(to)


# --- other tools -----------------------------------------------------------------------------------


def test_skopeo_copies_every_image_of_an_archive(stocked: Imgtool, tmp_path: Path) -> None:
    """It hashes every blob on the way, and keeps the digest where it need not change anything."""
    need("skopeo")
    archive = tmp_path / "out.tar"
    digests = exported(stocked, archive, *REAL, "notes.txt")
    assert {name: digests[name] for name in REAL} == {name: stocked.targets()[name] for name in REAL}
    for ref, name in (("1", REAL[1]), ("2", REAL[0]), ("nested", "nested"), ("notes.txt", "notes.txt")):
        assert raw_digest(f"oci-archive:{archive}:{ref}") == digests[name]
        if ref == "nested":
            continue  # skopeo does not copy an index in an index, wherever from
        copy = f"oci:{tmp_path / 'copy'}:{ref}"
        tool(*COPY, "--all", f"oci-archive:{archive}:{ref}", copy)
        assert raw_digest(copy) == digests[name]


def test_umoci_reads_a_layout(stocked: Imgtool, big: Layout, tmp_path: Path) -> None:
    """From a directory, and from an archive that `tar` has unpacked."""
    need("umoci")
    exported(stocked, tmp_path / "layout", "--to", "oci", *REAL)
    exported(stocked, tmp_path / "out.tar", *REAL)
    (tmp_path / "unpacked").mkdir()
    tool("tar", "-C", tmp_path / "unpacked", "-xf", tmp_path / "out.tar")
    for layout in (tmp_path / "layout", tmp_path / "unpacked"):
        assert tool("umoci", "ls", "--layout", layout).split() == ["2", "1", "nested"]
        ours, theirs = (
            json.loads(tool("umoci", "stat", "--json", "--image", image))["history"]
            for image in (f"{layout}:1", f"{big.path}:v1")
        )
        assert ours == theirs


def test_skopeo_reads_a_docker_archive(stocked: Imgtool, big: Layout, tmp_path: Path) -> None:
    """By docker's names; the layers are those of the image, and the config is it to the byte."""
    need("skopeo", "umoci")
    archive = tmp_path / "out.tar"
    exported(stocked, archive, "--to", "docker-archive", *REAL[:2])
    manifest = json.loads(big.blob(stocked.targets()[REAL[1]]).read_bytes())
    copy = tmp_path / "copy"
    tool(*COPY, f"docker-archive:{archive}:debian:1", f"dir:{copy}")
    copied = json.loads((copy / "manifest.json").read_bytes())
    assert copied["config"]["digest"] == manifest["config"]["digest"]
    config = json.loads(big.blob(manifest["config"]["digest"]).read_bytes())
    assert [layer["digest"] for layer in copied["layers"]] == config["rootfs"]["diff_ids"]
    tool(*COPY, f"docker-archive:{archive}:busybox:2", f"dir:{tmp_path / 'busybox'}")


@pytest.mark.parametrize("to", ["oci-archive", "docker-archive"])
def test_ctr_imports_an_archive(stocked: Imgtool, containerd: Containerd, tmp_path: Path, to: str) -> None:
    """The same names and the same digests, which is what containerd's own export promises."""
    archive = tmp_path / "out.tar"
    digests = exported(stocked, archive, "--to", to, *REAL[:2])
    assert containerd.imported(archive) == digests


def test_ctr_exports_the_same_blobs(stocked: Imgtool, containerd: Containerd, tmp_path: Path) -> None:
    """Of the archive that it has imported: what it takes for the whole image, and how it is named."""
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    exported(stocked, ours, "--to", "docker-archive", REAL[1])
    assert not containerd.ctr("images", "import", "--no-unpack", ours).returncode
    done = containerd.ctr("images", "export", theirs, REAL[1])
    containerd.ctr("images", "rm", REAL[1])
    assert not done.returncode, done.stderr
    mine, other = unpacked(ours, tmp_path / "a"), unpacked(theirs, tmp_path / "b")
    blobs = [sorted(p.name for p in (x.path / "blobs/sha256").iterdir()) for x in (mine, other)]
    assert blobs[0] == blobs[1]
    named = [
        json.loads((x.path / "index.json").read_bytes())["manifests"][0]["annotations"] for x in (mine, other)
    ]
    names = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
    assert [named[0][n] for n in names] == [named[1][n] for n in names]
    assert json.loads((mine.path / "manifest.json").read_bytes()) == json.loads(
        (other.path / "manifest.json").read_bytes()
    )


# --- there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["oci", "oci-archive", "docker-archive"])
def test_what_goes_out_comes_in_with_the_same_digests(stocked: Imgtool, tmp_path: Path, to: str) -> None:
    """And nothing that the images do not need."""
    names = REAL[:2] if to == "docker-archive" else REAL
    exported(stocked, tmp_path / "out", "--to", to, *names)
    other = Imgtool(tmp_path / "other")
    other("ingest", tmp_path / "out")
    assert other.targets() == {name: stocked.targets()[name] for name in names}
    other.check_collected()


def test_the_same_images_make_the_same_archive(stocked: Imgtool, tmp_path: Path) -> None:
    """From another store, named the other way round, into a pipe."""
    exported(stocked, tmp_path / "first", *REAL, "notes.txt")
    other = Imgtool(tmp_path / "other")
    other("ingest", tmp_path / "first")
    with (tmp_path / "second").open("wb") as file:
        other_way = [*reversed(REAL), "notes.txt"]
        done = other.run("export", "-o", "-", *other_way, stdout=file)
        assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_an_archive_through_a_pipe_arrives(stocked: Imgtool, tmp_path: Path) -> None:
    """From one machine to another, without a file."""
    other = Imgtool(tmp_path / "other")
    argv = stocked.argv("export", "-o", "-", *REAL)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment()) as out:
        other("ingest", "-", stdin=out.stdout)
    assert out.returncode == 0
    assert other.targets() == {name: stocked.targets()[name] for name in REAL}
    other.check_collected()


@pytest.mark.parametrize("to", ["a pipe", "a file"])
def test_another_name_for_stdout_is_stdout(store: Imgtool, hello: Path, tmp_path: Path, to: str) -> None:
    """Scripts write `/dev/stdout` for programs that do not know `-`: nothing else may come out there."""
    name = store("ingest", hello).split()[1]
    expected = store.run("export", "-o", "-", name).stdout
    if to == "a pipe":
        assert store.run("export", "-o", "/dev/stdout", name).stdout == expected
        return
    with (tmp_path / "out").open("wb") as file:
        assert store.run("export", "-o", "/dev/stdout", name, stdout=file).returncode == 0
    assert (tmp_path / "out").read_bytes() == expected


def corpus() -> list[Any]:
    """All of the corpus as parameters; one that skips where there is none."""
    path = CORPUS / "corpus.json"
    if not path.exists():
        return [pytest.param({}, id="corpus", marks=pytest.mark.skip(reason=f"no corpus at {CORPUS}"))]
    return [pytest.param(e, id=e["id"]) for e in json.loads(path.read_bytes())["entries"]]


@pytest.mark.parametrize("entry", corpus())
def test_the_corpus_goes_out_and_comes_in(entry: dict[str, Any], store: Imgtool, tmp_path: Path) -> None:
    """Whatever other projects take for an image: every one that ingest takes."""
    source = CORPUS / entry["file"]
    if entry["kind"] == "oci-layout":
        source = unpack(source, tmp_path / "layout")
    if store.run("ingest", source).returncode or not store.targets():
        assert entry["verdict"] != "accept"
        return
    kinds = ["oci", "oci-archive"] + ["docker-archive"] * (entry["kind"] == "docker-archive")
    for to in kinds:
        out, other = tmp_path / to, Imgtool(tmp_path / f"store-of-{to}")
        exported(store, out, "--to", to, *store.targets())
        other("ingest", out)
        assert other.targets() == store.targets()
        other.check_collected()
        assert other.objects().items() <= store.objects().items()


# --- faults ----------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    at = tmp_path / "disk"
    at.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "imgtool-test", at], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode().strip()}")
    yield at
    subprocess.run(["umount", at], check=True)


@pytest.mark.parametrize("to", ["oci", "oci-archive"])
def test_a_disk_that_is_too_small_is_left_as_it_was(stocked: Imgtool, disk: Path, to: str) -> None:
    """Half an archive would be taken for one, and half a disk for full."""
    free = shutil.disk_usage(disk).free
    done = stocked.run("export", "-o", disk / "out", "--to", to, *REAL)
    assert done.returncode == 9, done.stderr.decode()
    assert done.stderr == f"imgtool: cannot write '{disk}/out': no space left on device\n".encode()
    assert list(disk.iterdir()) == []
    assert shutil.disk_usage(disk).free == free


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to", ["oci", "oci-archive"])
def test_a_signal_leaves_nothing(stocked: Imgtool, tmp_path: Path, number: signal.Signals, to: str) -> None:
    """At whatever moment it arrives; if it comes too late, all is there."""
    here = tmp_path / "here"
    here.mkdir()
    stopped = 0
    for _ in range(10):
        process = stocked.start("export", "-o", here / "out", "--to", to, *REAL)
        deadline = time.monotonic() + WAIT
        while not os.listdir(here) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(number)
        _, err = process.communicate(timeout=WAIT)
        assert b"Traceback" not in err, err.decode()
        if process.returncode:
            assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
            stopped += 1
        there = os.listdir(here)
        assert there == [] or (
            there == ["out"]
            and (here / "out" if to == "oci-archive" else here / "out/index.json").stat().st_size
        )
        for path in here.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert stopped, "every signal came too late"


def test_a_reader_that_leaves_ends_it_in_silence(stocked: Imgtool) -> None:
    argv = stocked.argv("export", "-o", "-", *REAL)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.read(512)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_full_stdout_is_told(stocked: Imgtool) -> None:
    with open("/dev/full", "wb") as full:
        done = stocked.run("export", "-o", "-", *REAL, stdout=full)
    assert done.returncode == 9
    assert done.stderr == b"imgtool: cannot write to stdout: no space left on device\n"


def test_exporting_writes_nothing_to_the_store(stocked: Imgtool, tmp_path: Path) -> None:
    """A store on read-only media can be exported."""

    def times() -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for path in [stocked.root, *stocked.root.rglob("*")]}

    before = times()
    for out, to in (("a", "oci"), ("b", "oci-archive"), ("c", "docker-archive")):
        exported(stocked, tmp_path / out, "--to", to, *REAL[:2])
    assert times() == before


def test_thirty_two_descriptors_are_enough(store: Imgtool, tmp_path: Path) -> None:
    """Many objects, small and large, are no reason to keep many files open."""
    files = []
    for n in range(100):
        files.append(tmp_path / f"file-{n}")
        files[-1].write_bytes(os.urandom(300_000 if n % 2 else 300))
    store("ingest", *files)
    names = store.targets()
    for out, to in (("a", "oci"), ("b", "oci-archive")):
        argv = store.argv("export", "-o", tmp_path / out, "--to", to, *names)
        shell = ["sh", "-c", 'ulimit -n 32; exec "$@"', "sh", *argv]
        done = subprocess.run(shell, capture_output=True, timeout=WAIT, env=environment())
        assert done.returncode == 0, done.stderr.decode()
