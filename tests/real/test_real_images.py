"""Images from Debian packages, through the five commands, judged by other people's tools."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .images import REF_NAME, Layout, need, run
from .process import WAIT, Imgtool, environment

MB = 10**6


def raw_digest(layout: Layout, tag: str) -> str:
    """The digest of a tag's manifest as `skopeo inspect --raw | sha256sum` has it."""
    skopeo = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{layout.path}:{tag}"], check=True, capture_output=True
    )
    summed = subprocess.run(["sha256sum"], input=skopeo.stdout, check=True, capture_output=True)
    return f"sha256:{summed.stdout.split()[0].decode()}"


def umoci_layers(layout: Layout, tag: str) -> dict[str, int]:
    """The layers of a tag as umoci has them: digest to size."""
    stat = json.loads(run("umoci", "stat", "--json", "--image", f"{layout.path}:{tag}"))
    layers = [entry["layer"] for entry in stat["history"] if entry["layer"]]
    return {layer["digest"]: layer["size"] for layer in layers}


def write_layout(store: Imgtool, name: str, to: Path) -> Layout:
    """Make an OCI layout of an image by hand, with what anybody can read in the store."""
    target = store.images()[name]["target"]
    descriptor = {key: target[key] for key in ("mediaType", "digest", "size")}
    layout = Layout(to)
    (to / "blobs/sha256").mkdir(parents=True)
    for digest in store.objects():
        shutil.copyfile(store.object(digest), layout.blob(digest))
    (to / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    tagged = descriptor | {"annotations": {REF_NAME: "copy"}}
    (to / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [tagged]}))
    return layout


def test_the_big_image_is_worth_the_name(big: Layout) -> None:
    """What is proved with it is proved for three layers and more than 50 MB."""
    need("umoci")
    layers = umoci_layers(big, "v1")
    assert len(layers) >= 3
    assert sum(layers.values()) >= 50 * MB


@pytest.mark.parametrize("tag", ["v1", "v2"])
def test_ingest_of_one_tag_keeps_exactly_its_bytes(store: Imgtool, big: Layout, tag: str) -> None:
    """The digest is the one that every other tool shows, and each object is whole and needed."""
    need("skopeo", "umoci")
    digest, name = store("ingest", f"oci:{big.path}:{tag}").rstrip("\n").split(" ", 1)
    assert digest == raw_digest(big, tag) == store.targets()[name]
    assert list(store.targets()) == [name]
    assert umoci_layers(big, tag).items() <= store.objects().items()
    assert store.objects() == big.reachable(digest)
    store.check_collected()


def test_ingest_of_a_layout_takes_every_tag(store: Imgtool, big: Layout) -> None:
    """A path without a tag means all that is in it; names are those that umoci lists."""
    need("umoci")
    lines = store("ingest", f"oci:{big.path}").splitlines()
    assert sorted(line.split(" ", 1)[1] for line in lines) == run("umoci", "ls", "--layout", big.path).split()
    assert store.targets() == {name: d["digest"] for name, d in big.refs().items()}
    store.check_collected()


def test_list_and_inspect_say_what_skopeo_says(store: Imgtool, big: Layout) -> None:
    """Platform, size and layers are read from the same bytes."""
    need("skopeo")
    store("ingest", f"oci:{big.path}:v1", "--name", "debian")
    theirs = json.loads(run("skopeo", "inspect", f"oci:{big.path}:v1"))
    row = store.images()["debian"]
    assert row["target"]["digest"] == theirs["Digest"]
    assert row["platforms"] == [f"{theirs['Os']}/{theirs['Architecture']}"]
    assert row["size"] == sum(big.reachable(theirs["Digest"]).values())
    inspected = store("inspect", "debian")
    assert theirs["Digest"] in inspected
    assert all(layer in inspected for layer in theirs["Layers"])
    config = json.loads(big.blob(theirs["Digest"]).read_bytes())["config"]["digest"]
    assert store("cat", config) == big.blob(config).read_text()


def test_the_life_of_an_image(store: Imgtool, big: Layout) -> None:
    """Every step leaves a sound store, and gc leaves what the names need and nothing else."""
    refs = big.refs()
    v1, v2 = refs["v1"]["digest"], refs["v2"]["digest"]
    store("ingest", f"oci:{big.path}:v1", "--name", "app:1", "--label", "from=umoci")
    store.check()
    store("ingest", f"oci:{big.path}:v2", "--name", "app:2")
    store.check()

    store("update", "app:1", "--label", "tier=gold", "--label", "from=")
    assert store.images()["app:1"]["labels"] == {"tier": "gold"}
    store.check()

    store("update", "app:1", "--rename", "app:one")
    assert store.targets() == {"app:one": v1, "app:2": v2}
    assert store.images()["app:one"]["labels"] == {"tier": "gold"}
    store.check()

    store("tag", "app:one", "app:keep", "app:also")
    assert store.targets() == {"app:one": v1, "app:keep": v1, "app:also": v1, "app:2": v2}
    store.check()

    store("update", "app:one", "--target", "app:2")
    store("update", "app:also", "--target", v2, "--if-digest", v1)
    store("update", "app:also", "--target", v1, "--if-digest", v1, code=5)
    assert store.targets() == {"app:one": v2, "app:keep": v1, "app:also": v2, "app:2": v2}
    store("gc")
    assert store.objects() == big.reachable(v1, v2)
    store.check_collected()

    store("delete", "app:keep")
    store.check()
    assert store.objects() == big.reachable(v1, v2), "delete leaves the bytes to gc"
    planned = store("gc", "--dry-run")
    gone = set(big.reachable(v1)) - set(big.reachable(v2))
    assert all(digest in planned for digest in gone)
    assert not any(digest in planned for digest in big.reachable(v2))
    store("gc")
    assert store.objects() == big.reachable(v2), "layers shared with v1 stay"
    store.check_collected()

    store("delete", "app:one", "app:also", "app:2")
    store("gc")
    assert store.images() == {}
    assert store.objects() == {}
    store.check_collected()


def test_other_tools_read_what_the_store_kept(store: Imgtool, big: Layout, tmp_path: Path) -> None:
    """Objects are the image's own bytes: copied into a layout, skopeo copies it with every digest checked."""
    need("skopeo")
    digest = big.refs()["v2"]["digest"]
    store("ingest", f"oci:{big.path}:v2", "--name", "app")
    copy = write_layout(store, "app", tmp_path / "copy")
    run("skopeo", "--insecure-policy", "copy", f"oci:{copy.path}:copy", f"dir:{tmp_path / 'dir'}")
    assert raw_digest(copy, "copy") == digest


def test_a_multi_platform_image_is_kept_with_all_its_platforms(store: Imgtool, multi: Layout) -> None:
    """Which platform is wanted is not known when the image is stored."""
    need("skopeo")
    store("ingest", f"oci:{multi.path}:multi", "--name", "busybox")
    digest = raw_digest(multi, "multi")
    row = store.images()["busybox"]
    assert row["target"]["digest"] == digest
    assert sorted(row["platforms"]) == ["linux/amd64", "linux/arm64"]
    assert row["size"] == sum(multi.reachable(digest).values())
    assert store.objects() == multi.reachable(digest)
    inspected = store("inspect", "busybox")
    assert all(m["digest"] in inspected for m in json.loads(multi.blob(digest).read_bytes())["manifests"])
    store.check_collected()


def test_content_records_of_an_index_show_other_programs_the_graph(store: Imgtool, multi: Layout) -> None:
    """containerd's collector reads labels only: without them it would take the children."""
    store("ingest", f"oci:{multi.path}:nested", "--name", "nested")
    for digest in multi.reachable(multi.refs()["nested"]["digest"]):
        [info] = json.loads(store("content", "info", digest, "--format", "json"))["content"]
        edges = {
            value for key, value in info["labels"].items() if key.startswith("containerd.io/gc.ref.content")
        }
        assert edges == direct_children(multi, digest)


def direct_children(layout: Layout, digest: str) -> set[str]:
    with layout.blob(digest).open("rb") as file:
        if file.read(1) != b"{":
            return set()
    document = json.loads(layout.blob(digest).read_bytes())
    lists = document.get("manifests", []), document.get("layers", []), [document.get("config", {})]
    return {d["digest"] for part in lists for d in part if "digest" in d}


def test_a_nested_index_is_followed_to_its_leaves(store: Imgtool, multi: Layout) -> None:
    """The inner index is nobody's name; only the outer one keeps it and what it reaches."""
    refs = multi.refs()
    outer, inner = refs["nested"]["digest"], refs["multi"]["digest"]
    store("ingest", f"oci:{multi.path}")
    store("delete", "multi")
    store("gc")
    assert store.objects() == multi.reachable(outer)
    assert inner in store.objects()
    store.check_collected()

    amd64 = json.loads(multi.blob(outer).read_bytes())["manifests"][1]["digest"]
    store("tag", amd64, "one-platform")
    store("delete", "nested")
    store("gc")
    assert store.objects() == multi.reachable(amd64)
    assert store.images()["one-platform"]["platforms"] == ["linux/amd64"]
    store.check_collected()


def test_two_namespaces_share_bytes_and_not_names(store: Imgtool, multi: Layout) -> None:
    """Deleting in one namespace and collecting may take nothing that another still names."""
    store("ingest", f"oci:{multi.path}:multi", "--name", "busybox", "--namespace", "one")
    store("--namespace", "two", "ingest", f"oci:{multi.path}:multi", "--name", "busybox")
    store("delete", "busybox", "--namespace", "one")
    store("gc")
    assert store.objects() == multi.reachable(multi.refs()["multi"]["digest"])
    store.check_collected()
    store("delete", "busybox", "--namespace", "two", "--sync")
    assert store.objects() == {}


def test_a_layer_through_a_pipe_is_the_layer(store: Imgtool, big: Layout) -> None:
    """A pipe cannot seek and says no size; what comes out is what went in, and sha256 is on request."""
    layer = max(umoci_sized(big), key=lambda path: path.stat().st_size)
    with subprocess.Popen(["cat", layer], stdout=subprocess.PIPE) as cat:
        said = store("ingest", "-", "--as", "file", "--name", "layer", stdin=cat.stdout)
    with subprocess.Popen(["cat", layer], stdout=subprocess.PIPE) as cat:
        ask = ("--as", "file", "--name", "layer-2", "--digest-algorithm", "sha256")
        said_sha256 = store("ingest", "-", *ask, stdin=cat.stdout)
    digest, name = said.rstrip("\n").split(" ", 1)
    assert (digest.partition(":")[0], name) == ("blake3", "layer")
    assert said_sha256 == f"sha256:{layer.name} layer-2\n"
    with layer.open("rb") as file, store.object(digest).open("rb") as kept:
        assert hashlib.file_digest(kept, "sha512").digest() == hashlib.file_digest(file, "sha512").digest()
    store.check()
    with subprocess.Popen(store.argv("cat", "layer"), stdout=subprocess.PIPE, env=environment()) as cat:
        out = subprocess.run(["sha256sum"], stdin=cat.stdout, check=True, capture_output=True, timeout=WAIT)
    assert out.stdout.split()[0].decode() == layer.name


def umoci_sized(layout: Layout) -> list[Path]:
    """The layer files of tag `v1`."""
    manifest = json.loads(layout.blob(layout.refs()["v1"]["digest"]).read_bytes())
    return [layout.blob(layer["digest"]) for layer in manifest["layers"]]


def test_an_image_ingested_twice_changes_nothing(store: Imgtool, big: Layout) -> None:
    """A cron job that ingests what is there already must not touch records or objects."""
    first = store("ingest", f"oci:{big.path}:v1")
    before = {path: path.stat().st_mtime_ns for path in store.root.glob("objects/*/*/*")}
    records = {path: path.read_bytes() for path in store.root.glob("namespaces/*/images/*")}
    assert store("ingest", f"oci:{big.path}:v1") == first
    assert {path: path.read_bytes() for path in store.root.glob("namespaces/*/images/*")} == records
    assert set(store.root.glob("objects/*/*/*")) == set(before)
    store.check_collected()


def test_a_damaged_layer_is_found_and_healed_by_the_next_ingest(store: Imgtool, big: Layout) -> None:
    """One flipped bit in 20 MB: fsck says which object, gc keeps all, and the same ingest repairs it."""
    store("ingest", f"oci:{big.path}:v1", "--name", "app")
    digest, size = max(store.objects().items(), key=lambda item: item[1])
    victim = store.object(digest)
    victim.chmod(0o644)
    with victim.open("r+b") as file:
        file.seek(size // 2)
        byte = file.read(1)[0]
        file.seek(size // 2)
        file.write(bytes([byte ^ 1]))
    victim.chmod(0o444)
    done = store.run("fsck")
    assert done.returncode == 6
    assert digest in done.stdout.decode() + done.stderr.decode()
    store("ingest", f"oci:{big.path}:v1", "--name", "app")
    store.check_collected()


def test_a_layout_with_a_damaged_blob_leaves_no_name(store: Imgtool, multi: Layout, tmp_path: Path) -> None:
    """The copy that arrives broken is refused whole; what is there already stays."""
    copy = Layout(tmp_path / "broken")
    shutil.copytree(multi.path, copy.path)
    digest = max(copy.reachable(copy.refs()["multi"]["digest"]).items(), key=lambda item: item[1])[0]
    data = bytearray(copy.blob(digest).read_bytes())
    data[len(data) // 2] ^= 1
    copy.blob(digest).write_bytes(data)
    done = store.run("ingest", f"oci:{copy.path}:multi", "--name", "broken")
    assert done.returncode in (2, 5)
    assert digest in done.stderr.decode()
    assert store.images() == {}
    store.check()
    store("gc")
    assert store.objects() == {}
