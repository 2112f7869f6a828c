"""Archives of images: those that other projects keep, and real images as other programs save them.

Judged by the corpus's verdicts, by `json` and `tarfile`, and by a real containerd's `ctr images import`.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import hostile
from .containerd import Containerd, running
from .images import Layout, need, run
from .process import WAIT, Imgtool, environment
from .saved import FORMS, Saved, Tar, docker_old, reference, unpacked
from .test_corpus import CORPUS, unpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstd.compress,
}


def entries(kind: Callable[[dict[str, Any]], bool]) -> list[Any]:
    """The entries of the corpus for which `kind` holds; one that skips where there is no corpus."""
    path = CORPUS / "corpus.json"
    if not path.exists():
        return [pytest.param({}, id="corpus", marks=pytest.mark.skip(reason=f"no corpus at {CORPUS}"))]
    return [pytest.param(e, id=e["id"]) for e in json.loads(path.read_bytes())["entries"] if kind(e)]


def is_layout(entry: dict[str, Any]) -> bool:
    return str(entry["kind"]) == "oci-layout"


def piped(store: Imgtool, archive: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    """Ingest an archive from a pipe, which cannot seek and says no size."""
    with subprocess.Popen(["cat", archive], stdout=subprocess.PIPE) as cat:
        return store.run("ingest", "-", *args, stdin=cat.stdout)


def expected(entry: dict[str, Any]) -> dict[str, str]:
    """What must be there after an ingest: name to digest of the manifest, or of a docker image's config."""
    found: dict[str, str] = {}
    for image in entry["expected_images"]:
        if "config" in image:
            found |= {reference(tag): image["config"] for tag in image["names"]}
        else:
            found[image["name"]] = image["digest"]
    return found


def kept(store: Imgtool, entry: dict[str, Any]) -> dict[str, str]:
    """The same, as the image records of `store` and the objects' own JSON have it."""
    found = {}
    for record in store.records():
        digest = record["target"]["digest"]
        document = json.loads(store.object(digest).read_bytes())
        found[record["name"]] = document["config"]["digest"] if "docker" in entry else digest
    return found


@pytest.mark.parametrize("entry", entries(lambda entry: not is_layout(entry)))
def test_an_archive_gets_what_its_verdict_says(entry: dict[str, Any], tmp_path: Path) -> None:
    """From a file, from a pipe, and compressed in every way: the same images, byte for byte, or one
    clear refusal.
    """
    archive = CORPUS / entry["file"]
    files = {"as it is": archive}
    if archive.suffix == ".tar" and tarfile_opens(archive):
        for form, compress in COMPRESSIONS.items():
            files[form] = tmp_path / f"{archive.name}.{form}"
            files[form].write_bytes(compress(archive.read_bytes()))
    stores = {way: Imgtool(tmp_path / way) for way in ("pipe", *files)}
    done = {way: stores[way].run("ingest", path) for way, path in files.items()}
    done["pipe"] = piped(stores["pipe"], archive)
    for way, store in stores.items():
        said = f"{way}: {done[way].stderr.decode()}"
        if entry["verdict"] == "accept":
            assert (done[way].returncode, kept(store, entry)) == (0, expected(entry)), said
            assert store.objects() == store.reachable() == stores["as it is"].objects(), said
        else:
            assert done[way].returncode == 2, said
            assert done[way].stderr.startswith(b"imgtool: "), said
            assert not list(store.records()), said
            missing = [digest for root in entry["roots"] for digest in root["missing"]]
            assert all(digest in said for digest in missing), said
    live_and_die(stores["as it is"], {root["digest"] for root in entry["roots"]})


def tarfile_opens(archive: Path) -> bool:
    """Whether it is a plain tar: one that is compressed already, whatever its name, stays as it is."""
    try:
        with tarfile.open(archive, "r:"):
            return True
    except tarfile.ReadError:
        return False


def live_and_die(store: Imgtool, manifests: set[str]) -> None:
    """What is in the store can be listed, printed, checked and removed, and then nothing is left."""
    targets = store.targets()
    for name, digest in targets.items():
        assert store("cat", name).encode() == store.object(digest).read_bytes()
    assert not targets or not manifests or set(targets.values()) == manifests
    store.check_collected()
    store("delete", "--all")
    store("gc")
    assert store.objects() == {}


@pytest.mark.parametrize("entry", entries(is_layout))
def test_a_layout_is_the_same_in_an_archive(entry: dict[str, Any], tmp_path: Path) -> None:
    """Whoever packs a layout with tar means the same images, and the same refusal."""
    layout = unpack(CORPUS / entry["file"], tmp_path / "unpacked")
    archive = tmp_path / f"{layout.name}.tar"
    with Tar(archive) as tar:
        for path in sorted(layout.rglob("*")):
            name = str(path.relative_to(layout))
            if path.is_dir():
                tar.directory(name)
            else:
                tar.file(name, path)
    stores = Imgtool(tmp_path / "layout-store"), Imgtool(tmp_path / "archive-store")
    ours, theirs = stores[0].run("ingest", f"oci:{layout}"), stores[1].run("ingest", f"oci-archive:{archive}")
    assert theirs.returncode == ours.returncode, theirs.stderr.decode()
    assert theirs.stdout == ours.stdout
    assert stores[1].objects() == stores[0].objects()


def test_the_corpus_of_archives_is_whole() -> None:
    """An empty list of parameters would pass every test above."""
    if not CORPUS.exists():
        pytest.skip(f"no corpus at {CORPUS}")
    assert len(entries(lambda entry: not is_layout(entry))) >= 25


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with running(tmp_path_factory.mktemp("containerd")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the archives of this module are made, each once."""
    return tmp_path_factory.mktemp("archives")


@pytest.fixture(scope="module")
def busybox(multi: Layout, work: Path) -> Saved:
    return unpacked(multi, "multi", ("busybox", "registry.example/team/busybox:1.36"), work)


@pytest.fixture(scope="module")
def debian(big: Layout, work: Path) -> tuple[Saved, Saved]:
    """Two images that share three layers."""
    return (
        unpacked(big, "v1", ("debian:v1",), work),
        unpacked(big, "v2", ("localhost:5000/debian:v2",), work),
    )


def ingested(store: Imgtool, archive: Path, *, pipe: bool = False) -> dict[str, str]:
    """Ingest an archive; what `list` then says, name to digest."""
    done = piped(store, archive) if pipe else store.run("ingest", archive)
    assert done.returncode == 0, done.stderr.decode()
    store.check_collected()
    return store.targets()


@pytest.mark.parametrize("form", FORMS)
def test_what_other_programs_save_is_what_containerd_imports(
    form: str, busybox: Saved, containerd: Containerd, work: Path, tmp_path: Path
) -> None:
    """The manifest that such an archive lacks has the same digest there and here, and the same names."""
    archive = work / f"{form}.tar"
    FORMS[form](archive, busybox)
    found = ingested(Imgtool(tmp_path / "file"), archive)
    assert found == ingested(Imgtool(tmp_path / "pipe"), archive, pipe=True)
    assert found.keys() == {reference(tag) for tag in busybox.tags}
    if form != "docker-no-index":  # which containerd does not import
        assert found == containerd.imported(archive)
    else:
        FORMS["docker-old"](work / "again.tar", busybox)
        assert found == ingested(Imgtool(tmp_path / "old"), work / "again.tar")


@pytest.mark.parametrize("tool", ["gzip", "zstd", "xz", "bzip2"])
def test_a_layer_that_is_compressed_has_the_type_that_containerd_gives_it(
    tool: str, busybox: Saved, containerd: Containerd, tmp_path: Path
) -> None:
    """The type is part of the manifest, so of the digest; containerd knows gzip and zstd only."""
    layer = tmp_path / "layer"
    layer.write_bytes(COMPRESSIONS[tool](busybox.layers[0].read_bytes()))
    docker_old(tmp_path / "saved.tar", Saved(("busybox:1",), busybox.config, (layer,)))
    found = ingested(Imgtool(tmp_path / "store"), tmp_path / "saved.tar")
    assert found == containerd.imported(tmp_path / "saved.tar")


def test_an_image_without_layers_is_what_containerd_imports(
    busybox: Saved, containerd: Containerd, tmp_path: Path
) -> None:
    """An empty list is an empty list in the manifest too."""
    config = json.loads(busybox.config) | {"rootfs": {"type": "layers", "diff_ids": []}}
    docker_old(tmp_path / "saved.tar", Saved(("empty:1",), json.dumps(config).encode(), ()))
    found = ingested(Imgtool(tmp_path / "store"), tmp_path / "saved.tar")
    assert found == containerd.imported(tmp_path / "saved.tar")


@pytest.mark.parametrize("form", ["docker-old", "docker-new", "podman"])
def test_two_large_images_in_one_archive_share_their_layers(
    form: str, debian: tuple[Saved, Saved], containerd: Containerd, work: Path, store: Imgtool
) -> None:
    """More than 50 MB, links from one image's directories into another's, each layer kept once."""
    archive = work / f"debian-{form}.tar"
    FORMS[form](archive, *debian)
    found = ingested(store, archive, pipe=form == "docker-old")
    assert found == containerd.imported(archive)
    layers = set(json.loads(debian[1].config)["rootfs"]["diff_ids"])
    assert len(layers) >= 4
    assert layers <= store.objects().keys()
    assert len(store.objects()) == len(layers) + 4, "two manifests, two configs"
    archive.unlink()


def test_what_skopeo_saves_for_docker_is_what_containerd_imports(
    big: Layout, containerd: Containerd, work: Path, tmp_path: Path
) -> None:
    """The archive that most scripts make; once more compressed, through a pipe."""
    need("skopeo", "zstd")
    archive = work / "skopeo-docker.tar"
    run("skopeo", "--insecure-policy", "copy", f"oci:{big.path}:v1", f"docker-archive:{archive}:debian:v1")
    found = ingested(Imgtool(tmp_path / "file"), archive)
    assert found == containerd.imported(archive)
    assert found.keys() == {"docker.io/library/debian:v1"}
    run("zstd", "--quiet", "-1", "--rm", archive)
    assert ingested(Imgtool(tmp_path / "pipe"), work / "skopeo-docker.tar.zst", pipe=True) == found


@pytest.mark.parametrize("ref", ["v2", "multi"])
def test_what_skopeo_saves_as_oci_archive_keeps_every_byte(
    ref: str, request: pytest.FixtureRequest, work: Path, tmp_path: Path
) -> None:
    """Manifests, indexes and layers are those of the layout, and so are the digests."""
    need("skopeo")
    layout: Layout = request.getfixturevalue("multi" if ref == "multi" else "big")
    archive = work / f"{ref}.oci.tar"
    copy = ("skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests")
    run(*copy, f"oci:{layout.path}:{ref}", f"oci-archive:{archive}:{ref}")
    digest = layout.refs()[ref]["digest"]
    for way in ("file", "pipe"):
        store = Imgtool(tmp_path / way)
        assert ingested(store, archive, pipe=way == "pipe") == {ref: digest}
        assert store.objects() == layout.reachable(digest)


def test_what_ctr_exports_comes_in_with_its_names(
    busybox: Saved, containerd: Containerd, work: Path, tmp_path: Path
) -> None:
    """An export of containerd has an index and a `manifest.json`, both of the same images."""
    docker_old(work / "for-ctr.tar", busybox)
    names = [reference(tag) for tag in busybox.tags]
    assert not containerd.ctr("images", "import", "--no-unpack", work / "for-ctr.tar").returncode
    done = containerd.ctr("images", "export", tmp_path / "exported.tar", *names)
    containerd.ctr("images", "rm", *names)
    assert not done.returncode, done.stderr
    found = ingested(Imgtool(tmp_path / "store"), tmp_path / "exported.tar")
    assert found == ingested(Imgtool(tmp_path / "direct"), work / "for-ctr.tar")


def test_one_image_of_an_archive_is_taken_alone(
    debian: tuple[Saved, Saved], work: Path, store: Imgtool
) -> None:
    """The others are read past, and nothing of them stays."""
    archive = work / "two.tar"
    docker_old(archive, *debian)
    store("ingest", f"docker-archive:{archive}:docker.io/library/debian:v1", "--name", "mine")
    assert list(store.targets()) == ["mine"]
    assert len(store.objects()) == len(debian[0].layers) + 2
    store.check_collected()


def test_a_flipped_bit_in_a_saved_layer_is_noticed(busybox: Saved, work: Path, store: Imgtool) -> None:
    """A docker archive states no digest of its layers but in the config, and that is enough."""
    archive = work / "flipped.tar"
    docker_old(archive, busybox)
    with tarfile.open(archive) as tar:
        layer = max(tar, key=lambda member: member.size)
    with archive.open("r+b") as file:
        file.seek(layer.offset_data + layer.size // 2)
        byte = file.read(1)[0]
        file.seek(layer.offset_data + layer.size // 2)
        file.write(bytes([byte ^ 4]))
    done = store.run("ingest", archive)
    assert done.returncode == 5, done.stderr.decode()
    assert store.images() == {}
    store.check()


def test_an_archive_that_breaks_off_leaves_nothing(busybox: Saved, work: Path, store: Imgtool) -> None:
    """A download that ended early, from a pipe: refused, and the bytes that came are gone."""
    archive = work / "whole.tar"
    docker_old(archive, busybox)
    done = store.run("ingest", "-", input=archive.read_bytes()[: archive.stat().st_size // 2])
    assert done.returncode == 2
    assert b"cut off" in done.stderr
    assert store.objects() == {}
    store.check_collected()


# The kernel counts what a process was before exec too, so the parent must be smaller than the child.
SMALL_PARENT = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_as_many_members_as_are_read_take_little_memory(store: Imgtool, tmp_path: Path) -> None:
    """Nobody needs them, but that is known only at the end."""
    entry = [{"Config": "0/json", "RepoTags": ["many:1"], "Layers": ["1/json"]}]
    with (tmp_path / "many.tar").open("wb") as file:
        for number in range(99_999):
            file.write(hostile.member(f"{number}/json", b'{"os":"linux","number":%d}' % number))
        file.write(hostile.member("manifest.json", hostile.doc(entry)) + hostile.END)
    argv = store.argv("ingest", "-q", f"docker-archive:{tmp_path / 'many.tar'}")
    spawn = [sys.executable, "-I", "-S", "-c", SMALL_PARENT, *argv]
    done = subprocess.run(spawn, capture_output=True, timeout=WAIT, env=environment())
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout.split()[-1]) <= 64 << 20
    assert list(store.targets()) == ["docker.io/library/many:1"]


def test_the_streams_of_a_pipeline_are_read_to_their_end(busybox: Saved, work: Path, store: Imgtool) -> None:
    """`zcat | imgtool` under pipefail must not fail because imgtool stops at the end of the tar."""
    archive = work / "padded.tar"
    docker_old(archive, busybox)
    with archive.open("ab") as file:
        file.write(bytes(1 << 20))
    with subprocess.Popen(["cat", archive], stdout=subprocess.PIPE) as cat:
        done = subprocess.run(
            store.argv("ingest", "-"), stdin=cat.stdout, capture_output=True, timeout=WAIT, env=environment()
        )
    assert (cat.returncode, done.returncode) == (0, 0)
