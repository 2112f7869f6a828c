"""Export: what goes out, under which digests and names."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from imgtool.digest import BLAKE3, Digest
from imgtool.disk import open_store
from imgtool.errors import InvalidArgument, NotFound
from imgtool.model import Descriptor, Platform, replace
from imgtool.oci import media, platforms
from imgtool.oci.descriptor import to_dict
from imgtool.oci.layout import IMAGE_NAME, REF_NAME
from imgtool.ops.export_documents import TITLE, index
from imgtool.ops.export_plan import Exported

from .export_world import AMD64, ARM64, BIG, LAYER, NS, World, blob, blobs, spoil

FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


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


# --- which content ---------------------------------------------------------------------------------


def test_an_image_goes_out_with_its_own_bytes_and_nothing_else(world: World) -> None:
    """Every digest must be what it was, and a neighbour's layers are nobody's business."""
    layer, config = world.put(BIG), world.config()
    target = world.tag("app:1", world.manifest(layer, config=config))
    world.image("other", b"other")
    assert world.export("app:1") == [Exported(target.digest, "app:1", target.size)]
    found = world.files()
    assert blobs(found) == {blob(d) for d in (target, layer, config)}
    assert all(found[blob(d)] == world.object(d).read_bytes() for d in (target, layer, config))
    assert found["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'
    assert json.loads(found["index.json"])["schemaVersion"] == 2


def test_what_images_share_goes_out_once(world: World) -> None:
    shared = world.put(b"shared")
    a = world.tag("a", world.manifest(shared))
    b = world.tag("b", world.manifest(shared, world.put(b"more")))
    assert [e.digest for e in world.export("b", "a", "b")] == [a.digest, b.digest]
    with tarfile.open(world.path / "out") as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
    assert [e["annotations"][IMAGE_NAME] for e in world.entries()] == ["a", "b"]


def test_a_nested_index_goes_out_whole(world: World) -> None:
    inner = world.index(world.manifest(world.put(b"1")), world.manifest(world.put(b"2")))
    world.tag("nested", world.index(inner, world.manifest(world.put(b"3"))))
    world.export("nested")
    assert len(blobs(world.files())) == 2 + 3 + 1 + 3  # indexes, manifests, the one config, layers


def test_what_is_absent_by_choice_is_told_and_no_error(world: World) -> None:
    """Docker saves an index with one of its platforms, and foreign layers are never passed on."""
    absent = replace(world.manifest(world.put(b"arm")), digest=Digest.of(b"?"), platform=ARM64)
    foreign = Descriptor(FOREIGN, Digest.of(b"foreign"), 7)
    linked = Descriptor(LAYER, Digest.of(b"linked"), 6, urls=("https://example.org/layer",))
    present = replace(world.manifest(foreign, linked), platform=AMD64)
    world.tag("sparse", world.index(present, absent))
    world.export("sparse")
    assert not {blob(absent), blob(foreign), blob(linked)} & blobs(world.files())
    [note] = world.said
    assert all(d.digest in note for d in (absent, foreign, linked))


def test_a_manifest_that_its_index_is_labelled_with_may_be_absent_too(world: World) -> None:
    """Clients of containerd that pull one platform label the index with the manifests of all."""
    absent = Descriptor(media.OCI_MANIFEST, Digest.of(b"absent"), 6)
    world.tag("index", world.index(world.manifest(world.put(b"1")), absent, **media.gc_labels([absent])))
    world.export("index")
    assert blob(absent) not in blobs(world.files())
    assert absent.digest in world.said[0]


def test_content_that_is_only_in_its_descriptor_goes_out_as_a_blob(world: World) -> None:
    """Other tools look for the blob, whatever the descriptor carries."""
    inline = Descriptor(LAYER, Digest.of(b"inline"), 6, data="aW5saW5l")
    world.tag("inline", world.manifest(inline))
    world.export("inline")
    assert world.files()[blob(inline)] == b"inline"


def test_a_referrer_stays_behind_unless_it_is_named(world: World) -> None:
    """It is an image of its own, and `ctr` and `skopeo` do not bring it either."""
    target = world.image()
    subject = {"subject": to_dict(target)}
    document = {"schemaVersion": 2, "config": to_dict(world.put(b"{}", media.OCI_EMPTY)), "layers": []}
    signature = world.put(json.dumps(document | subject).encode(), media.OCI_MANIFEST)
    world.tag("signature", signature)
    world.export("app:1")
    assert blob(signature) not in world.files()
    world.export("app:1", "signature")
    assert blob(signature) in world.files()


# --- platforms -------------------------------------------------------------------------------------


def two_platforms(world: World, name: str = "multi") -> tuple[Descriptor, Descriptor]:
    amd64 = replace(world.manifest(world.put(b"amd64")), platform=AMD64)
    arm64 = replace(world.manifest(world.put(b"arm64"), config=world.config(ARM64)), platform=ARM64)
    world.tag(name, world.index(amd64, arm64))
    return amd64, arm64


def test_a_platform_leaves_out_the_others_and_keeps_the_index(world: World) -> None:
    amd64, arm64 = two_platforms(world)
    [done] = world.export("multi", platform="linux/arm64")
    found = world.files()
    assert blob(arm64) in found
    assert blob(amd64) not in found
    assert done.digest == world.store.images(NS).get("multi").target.digest
    assert amd64.digest in world.said[0]


def test_a_platform_that_an_image_lacks_is_an_error(world: World) -> None:
    """An archive without any manifest would be of no use, and the other image goes nowhere without it."""
    two_platforms(world)
    world.image()
    with pytest.raises(NotFound, match="'multi' has no manifest for platform 'linux/s390x'"):
        world.export("app:1", "multi", platform="linux/s390x")
    assert world.there() == []


def test_a_platform_of_which_the_manifest_is_absent_is_an_error(world: World) -> None:
    """The index lists it, and that is all there is."""
    there = replace(world.manifest(world.put(b"1")), platform=AMD64)
    world.tag(
        "sparse", world.index(there, Descriptor(media.OCI_MANIFEST, Digest.of(b"?"), 1, platform=ARM64))
    )
    with pytest.raises(NotFound, match="linux/arm64"):
        world.export("sparse", platform="linux/arm64")


def test_what_is_left_out_of_one_image_goes_out_as_another(world: World) -> None:
    amd64, arm64 = two_platforms(world)
    world.tag("amd64", replace(amd64, platform=None))
    world.export("multi", "amd64", platform="linux/arm64")
    assert {blob(amd64), blob(arm64)} <= blobs(world.files())


def test_a_manifest_that_is_listed_for_two_platforms_is_for_both(world: World) -> None:
    """Scripts are often the same on every processor."""
    script = world.manifest(world.put(b"script"))
    world.tag("script", world.index(replace(script, platform=AMD64), replace(script, platform=ARM64)))
    world.export("script", platform="linux/arm64")
    assert blob(script) in world.files()


def test_a_damaged_manifest_of_another_platform_is_in_nobodys_way(world: World) -> None:
    amd64, arm64 = two_platforms(world)
    spoil(world.object(amd64), b"?" * amd64.size)
    world.export("multi", platform="linux/arm64")
    assert blob(arm64) in world.files()


def test_content_without_a_platform_goes_out_for_every_platform(world: World) -> None:
    world.image()
    world.tag("file", world.put(b"plain", "text/plain"))
    assert len(world.export("app:1", "file", platform="linux/s390x")) == 2


# --- digests that do not leave ----------------------------------------------------------------------


def test_a_plain_file_is_wrapped_in_an_artifact_manifest(world: World) -> None:
    """No other tool knows blake3, or an image that is no manifest."""
    target = world.tag("dir/notes.txt", world.put(b"notes", "text/plain", BLAKE3))
    [done] = world.export("dir/notes.txt")
    found = world.files()
    [entry] = world.entries()
    assert entry["digest"] == done.digest == Digest.of(found[blob(done.digest)])
    assert (entry["mediaType"], entry["artifactType"]) == (media.OCI_MANIFEST, "text/plain")
    manifest = json.loads(found[blob(done.digest)])
    assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, media.OCI_MANIFEST)
    assert manifest["artifactType"] == "text/plain"
    assert manifest["config"]["mediaType"] == media.OCI_EMPTY
    assert found[blob(Digest.parse(manifest["config"]["digest"]))] == b"{}"
    [layer] = manifest["layers"]
    assert layer == {
        "mediaType": "text/plain",
        "digest": Digest.of(b"notes"),
        "size": 5,
        "annotations": {TITLE: "notes.txt"},
    }
    assert found[blob(Digest.of(b"notes"))] == b"notes"
    assert blob(target) not in found


@pytest.mark.parametrize(
    ("name", "title"), [("a", "a"), ("a/b:1", "b:1"), ("a/b/", "b"), ("a/..", None), (".", None), ("/", None)]
)
def test_the_title_of_a_plain_file_can_be_a_file_name(world: World, name: str, title: str | None) -> None:
    """Who unpacks an artifact makes a file of it."""
    world.tag(name, world.put(b"plain", "text/plain", BLAKE3))
    [done] = world.export(name)
    [layer] = json.loads(world.files()[blob(done.digest)])["layers"]
    assert layer.get("annotations", {}).get(TITLE) == title


def test_a_plain_file_with_a_known_digest_keeps_it(world: World) -> None:
    for algorithm in ("sha256", "sha512"):
        target = world.tag(algorithm, world.put(b"plain", "text/plain", algorithm))
        world.export(algorithm)
        assert world.files()[blob(target)] == b"plain"


def test_a_plain_file_with_a_media_type_that_is_none_is_refused(world: World) -> None:
    """No document could state it."""
    world.tag("file", world.put(b"plain", "plain text", BLAKE3))
    with pytest.raises(InvalidArgument, match="media type of image 'file' is 'plain text'"):
        world.export("file")


def test_a_manifest_called_by_blake3_goes_out_as_sha256(world: World) -> None:
    target = world.tag("app", world.manifest(world.put(b"layer"), algorithm=BLAKE3))
    raw = world.object(target).read_bytes()
    [done] = world.export("app")
    assert done.digest == Digest.of(raw) == world.entries()[0]["digest"]
    assert world.files()[blob(done.digest)] == raw
    assert blob(target) not in world.files()
    assert not world.warned


def test_names_of_one_plain_file_share_its_bytes(world: World) -> None:
    """Only the titles differ, and with them the manifests."""
    target = world.tag("a.txt", world.put(BIG, "text/plain", BLAKE3))
    world.tag("b.txt", target)
    a, b = world.export("a.txt", "b.txt")
    assert a.digest != b.digest
    assert blobs(world.files()) == {blob(d) for d in (a.digest, b.digest, Digest.of(BIG), Digest.of(b"{}"))}


def test_what_a_manifest_calls_by_blake3_goes_out_so_with_a_warning(world: World) -> None:
    """To change it would change every digest above it."""
    layer = world.put(b"layer", algorithm=BLAKE3)
    world.tag("app", world.manifest(layer))
    world.export("app")
    assert world.files()[blob(layer)] == b"layer"
    [warning] = world.warned
    assert layer.digest in warning


@pytest.mark.parametrize("names", [("top", "app"), ("app", "top"), ("a", "b")])
def test_a_manifest_that_also_an_index_calls_by_blake3_goes_out_twice(
    world: World, names: Sequence[str]
) -> None:
    """Whichever of the two is met first."""
    target = world.tag(names[1], world.manifest(world.put(b"layer"), algorithm=BLAKE3))
    raw = world.object(target).read_bytes()
    world.tag(names[0], world.index(target))
    world.export(*names)
    assert world.files()[blob(target)] == world.files()[blob(Digest.of(raw))] == raw


# --- index.json ------------------------------------------------------------------------------------

SOME = Descriptor(media.OCI_MANIFEST, Digest.of(b"some"), 4)


def named(*names: str) -> list[dict[str, str]]:
    """The annotations of images with these names, each with another target."""
    images = [(name, replace(SOME, digest=Digest.of(name.encode()))) for name in names]
    return [entry["annotations"] for entry in json.loads(index(images))["manifests"]]


@pytest.mark.parametrize(
    ("name", "ref"),
    [
        ("docker.io/library/redis:7", "7"),
        ("localhost:5000/app:1.0", "1.0"),
        ("docker.io/library/redis:7@sha256:" + "a" * 64, "7@sha256:" + "a" * 64),
        ("my_host/app:1", "1"),
        # `ctr` takes what stands before the first slash for a host: it writes these names whole,
        ("hello:1.0", "hello:1.0"),
        ("hello:1.0/x:2", "hello:1.0/x:2"),
        # and an empty ref name or one that no tool accepts for these.
        ("redis:7", "redis:7"),
        ("app.txt", "app.txt"),
        ("docker.io/library/redis", "docker.io/library/redis"),
        ("docker.io/library/redis@sha256:" + "a" * 64, "docker.io/library/redis@sha256:" + "a" * 64),
        # Nothing of these may be a ref name.
        ("two words", None),
        ("a/b:two words", None),
        ("/", None),
        ("größe", None),
    ],
)
def test_images_are_named_as_ctr_names_them(name: str, ref: str | None) -> None:
    """skopeo and umoci find an image by its ref name, containerd by its whole name."""
    [annotations] = named(name)
    assert annotations[IMAGE_NAME] == name
    assert annotations.get(REF_NAME) == ref


def test_a_tag_that_two_images_have_does_not_name_either() -> None:
    """skopeo would silently take the first."""
    a, b, c = named("x.io/a:latest", "x.io/b:latest", "x.io/c:1")
    assert (a[REF_NAME], b[REF_NAME], c[REF_NAME]) == ("x.io/a:latest", "x.io/b:latest", "1")


def test_a_tag_that_two_names_of_one_image_have_names_it() -> None:
    both = json.loads(index([("x.io/a:1", SOME), ("x.io/b:1", SOME)]))["manifests"]
    assert [entry["annotations"][REF_NAME] for entry in both] == ["1", "1"]


def test_the_targets_own_fields_are_kept_and_its_old_names_are_not() -> None:
    """An image that was renamed must not be found under the name that it came with."""
    old = {REF_NAME: "old", IMAGE_NAME: "old", "org.opencontainers.image.created": "2025-01-01T00:00:00Z"}
    target = replace(
        SOME, annotations=old, platform=ARM64, artifact_type="application/x", urls=("https://e.org/",)
    )
    [entry] = json.loads(index([("two words", target)]))["manifests"]
    assert entry["annotations"] == {
        IMAGE_NAME: "two words",
        "org.opencontainers.image.created": "2025-01-01T00:00:00Z",
    }
    assert entry["platform"] == {"architecture": "arm64", "os": "linux"}
    assert (entry["artifactType"], entry["urls"]) == ("application/x", ["https://e.org/"])


# --- docker ----------------------------------------------------------------------------------------


def test_a_docker_archive_is_an_oci_archive_with_dockers_names(world: World) -> None:
    """So the digests survive, and docker of any age finds config and layers."""
    layer, config = world.put(b"layer"), world.config()
    world.tag("docker.io/library/app:1", world.manifest(layer, config=config))
    world.export("docker.io/library/app:1", out="oci")
    world.export("docker.io/library/app:1", out="docker", to="docker-archive")
    assert world.docker("docker") == [
        {"Config": blob(config), "RepoTags": ["app:1"], "Layers": [blob(layer)]}
    ]
    assert world.files("oci").items() < world.files("docker").items()


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("app", ["app:latest"]),
        ("docker.io/library/app:1", ["app:1"]),
        ("docker.io/me/app:1", ["me/app:1"]),
        ("ghcr.io/me/app", ["ghcr.io/me/app:latest"]),
        ("app:1@sha256:" + "a" * 64, ["app:1"]),
        ("app@sha256:" + "a" * 64, []),
    ],
)
def test_names_in_a_docker_archive_are_dockers(world: World, name: str, tags: list[str]) -> None:
    """Docker refuses an archive in which a name has no tag."""
    world.image(name)
    world.export(name, to="docker-archive")
    assert [entry["RepoTags"] for entry in world.docker()] == [tags]


def test_names_of_one_image_are_tags_of_one_entry(world: World) -> None:
    target = world.image("app:1")
    for name in ("app:2", "docker.io/library/app:1"):
        world.tag(name, target)
    world.image("other", b"other")
    world.export("app:1", "app:2", "docker.io/library/app:1", "other", to="docker-archive")
    assert [entry["RepoTags"] for entry in world.docker()] == [["app:1", "app:2"], ["other:latest"]]


def test_two_images_that_docker_cannot_tell_apart_are_refused(world: World) -> None:
    """Docker would keep one of them."""
    world.image("app", b"1")
    world.image("docker.io/library/app:latest", b"2")
    with pytest.raises(InvalidArgument, match="'app:latest'"):
        world.export("app", "docker.io/library/app:latest", to="docker-archive")
    assert world.there() == []


def test_a_name_that_is_no_reference_is_refused_for_docker(world: World) -> None:
    """As `ctr images export` refuses it."""
    world.image("Not One")
    with pytest.raises(InvalidArgument, match="'Not One'") as raised:
        world.export("Not One", to="docker-archive")
    assert "imgtool tag" in (raised.value.hint or "")
    world.export("Not One")


def test_what_is_no_container_image_is_refused_for_docker(world: World) -> None:
    """`docker load` would take a chart's values for the configuration of an image."""
    chart = world.put(b"{}", "application/vnd.cncf.helm.config.v1+json")
    world.tag("chart", world.manifest(config=chart))
    world.tag("file", world.put(b"plain", "text/plain", BLAKE3))
    for name in ("chart", "file"):
        with pytest.raises(InvalidArgument, match=f"'{name}' is no container image"):
            world.export(name, to="docker-archive")
    assert world.there() == []


def config_of(world: World) -> Platform:
    """What the image runs on that a docker-archive names."""
    [entry] = world.docker()
    found = json.loads(world.files()[entry["Config"]])
    return Platform(found["os"], found["architecture"])


def test_an_index_is_to_docker_the_manifest_for_the_platform(world: World) -> None:
    two_platforms(world)
    world.export("multi", to="docker-archive", platform="linux/arm64")
    assert config_of(world) == ARM64


def host(monkeypatch: pytest.MonkeyPatch, platform: Platform) -> None:
    monkeypatch.setattr(platforms, "host", lambda: platform)


def test_an_index_is_to_docker_the_manifest_for_this_machine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the others go out as well: docker with containerd's store has them all."""
    amd64, arm64 = two_platforms(world)
    for platform in (AMD64, ARM64):
        host(monkeypatch, platform)
        world.export("multi", to="docker-archive")
        assert config_of(world) == platform
        assert {blob(amd64), blob(arm64)} <= blobs(world.files())


def test_the_best_of_several_manifests_for_this_machine_is_dockers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(monkeypatch, Platform("linux", "arm", "v7"))
    listed = []
    for variant in ("v5", "v7", "v6"):
        config = world.put(json.dumps({"os": "linux", "architecture": variant}).encode(), media.OCI_CONFIG)
        listed.append(replace(world.manifest(config=config), platform=Platform("linux", "arm", variant)))
    world.tag("arm", world.index(*listed))
    world.export("arm", to="docker-archive")
    assert config_of(world).architecture == "v7"


def test_an_index_without_a_manifest_for_this_machine_needs_a_platform(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(monkeypatch, Platform("linux", "s390x"))
    two_platforms(world)
    with pytest.raises(NotFound, match="'multi' has no manifest for platform 'linux/s390x'") as raised:
        world.export("multi", to="docker-archive")
    assert raised.value.hint == "choose one with --platform: linux/amd64, linux/arm64"


def test_the_only_manifest_of_an_index_is_dockers_whatever_it_runs_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is to be chosen; what attests to it is no image, and what is absent neither."""
    host(monkeypatch, Platform("linux", "s390x"))
    there = replace(world.manifest(world.put(b"1"), config=world.config(ARM64)), platform=ARM64)
    absent = Descriptor(media.OCI_MANIFEST, Digest.of(b"?"), 1, platform=Platform("linux", "s390x"))
    about = replace(world.manifest(world.put(b"about")), platform=Platform("unknown", "unknown"))
    world.tag("one", world.index(about, absent, there))
    world.export("one", to="docker-archive")
    assert config_of(world) == ARM64


def test_a_manifest_without_a_platform_runs_on_what_its_config_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(monkeypatch, ARM64)
    amd64, arm64 = (
        world.manifest(world.put(p.architecture.encode()), config=world.config(p)) for p in (AMD64, ARM64)
    )
    world.tag("bare", world.index(amd64, arm64))
    world.export("bare", to="docker-archive")
    assert config_of(world) == ARM64
