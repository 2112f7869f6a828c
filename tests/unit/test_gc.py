"""What gc keeps and what it removes, on each kind of store. See imgtool-gc(1)."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import open_store
from imgtool.errors import DataLoss, NotFound
from imgtool.memory import MemoryStore
from imgtool.model import Lease, Settings
from imgtool.oci import media
from imgtool.ops import gc
from imgtool.ops.hold import lease_for, require_lease
from imgtool.stores import Store

from .gc_world import (
    BACK,
    BACK_IMAGE,
    EXPIRE,
    FLAT,
    LAYER,
    NS,
    OTHER,
    REF,
    REF_IMAGE,
    ROOT,
    add,
    add_told,
    entry,
    hold,
    index,
    label,
    manifest,
    objects,
    recorded,
    tag,
)

OCTETS = media.OCTETS
LONG_AGO = "2001-01-01T00:00:00Z"


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A new, empty store."""
    if request.param == "memory":
        yield MemoryStore()
    else:
        with open_store(str(tmp_path / "store")) as opened:
            yield opened


def pass_time(monkeypatch: pytest.MonkeyPatch, ns: int) -> None:
    """Let the wall clock jump."""
    then = time.time_ns() + ns
    monkeypatch.setattr(time, "time_ns", lambda: then)


# --- roots -----------------------------------------------------------------------------------------


def test_what_no_root_reaches_is_removed_and_told(store: Store) -> None:
    """Records by namespace, objects with their sizes; the rest stays."""
    kept, gone = add(store, b"kept"), add(store, b"gone!")
    tag(store, "a", kept, OCTETS)
    garbage = gc.collect(store)
    assert garbage.content == {NS: [gone]}
    assert garbage.objects == {gone: 5}
    assert not garbage.leases
    assert not garbage.litter
    assert recorded(store) == objects(store) == {kept}


def test_a_second_run_finds_nothing(store: Store) -> None:
    """Garbage is gone when gc has returned."""
    add(store, b"gone")
    gc.collect(store)
    assert not any(gc.collect(store))


def test_a_dry_run_tells_the_same_and_removes_nothing(store: Store) -> None:
    """Of a store that nobody changes."""
    add(store, b"gone")
    hold(store, "old", [], expire="2020-01-01T00:00:00Z")
    told = gc.collect(store, dry_run=True)
    assert told == gc.find(store)
    assert len(recorded(store)) == len(objects(store)) == len(list(store.leases(NS).list())) == 1
    assert gc.collect(store) == told


def test_labels_of_an_image_are_roots(store: Store) -> None:
    """containerd's clients keep content by them that no target reaches."""
    target, other = add(store, b"target"), add(store, b"other")
    tag(store, "a", target, OCTETS, labels={f"{REF}.x": other})
    assert not any(gc.collect(store))


@pytest.mark.parametrize("key", [ROOT, f"{ROOT}.mine", f"{ROOT}/mine"])
@pytest.mark.parametrize("value", ["2026-01-01T00:00:00Z", "false"])
def test_content_labelled_as_root_is_kept(store: Store, key: str, value: str) -> None:
    """The value says nothing; a suffix, as in containerd 2.x, tells several owners apart."""
    digest = add(store, b"x", labels={key: value})
    add(store, b"y", labels={f"{ROOT}s": value})
    gc.collect(store)
    assert recorded(store) == {digest}


def test_a_lease_keeps_content_and_what_it_refers_to(store: Store) -> None:
    """A manifest too, whose type nothing but its bytes tells."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    held = add(store, manifest(config, layer))
    hold(store, "l", [held, "no digest", Digest.of(b"absent")])
    assert not any(gc.collect(store))


def test_a_flat_lease_keeps_what_it_lists_alone(store: Store) -> None:
    """containerd's gc.flat; also where the label's value is empty of meaning."""
    layer = add(store, b"layer")
    held = add(store, manifest(layer), labels={REF: layer})
    hold(store, "l", [held], flat="false")
    gc.collect(store)
    assert recorded(store) == {held}


def test_what_a_flat_lease_lists_is_followed_when_something_else_reaches_it(store: Store) -> None:
    """Flat says what the lease adds, not what others may."""
    layer = add(store, b"layer")
    held = add(store, manifest(layer))
    hold(store, "l", [held], flat="1")
    tag(store, "a", held, media.OCI_MANIFEST)
    assert not any(gc.collect(store))


def test_an_expired_lease_is_garbage_and_keeps_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the ingest and the content that only it held."""
    digest = add(store, b"x")
    until = clock.format_time(clock.wall() + clock.HOUR)
    hold(store, "mine", [digest], expire=until)
    with store.content(NS).writer("ref", lease="mine") as writer:
        writer.write(b"abc")
    assert not any(gc.collect(store))
    pass_time(monkeypatch, clock.HOUR + 1)
    garbage = gc.collect(store)
    assert garbage.leases == {NS: ["mine"]}
    assert garbage.content == {NS: [digest]}
    assert [item.name for item in garbage.litter] == ["ref"]
    assert not list(store.leases(NS).list())
    assert not list(store.content(NS).statuses())


@pytest.mark.parametrize("expire", ["", "tomorrow", "2020-01-01", "2020-01-01T00:00:60Z"])
def test_a_lease_without_a_time_that_can_be_read_never_expires(store: Store, expire: str) -> None:
    """As in containerd: better kept for ever than lost by a misspelt label."""
    digest = add(store, b"x")
    hold(store, "l", [digest], expire=expire)
    assert not any(gc.collect(store))


def test_content_without_a_name_is_held_for_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a repeat of it begins the day anew."""
    with store.content(NS).stage(algorithm="blake3") as writer:
        writer.write(b"from a pipe")
        digest = writer.digest()
        writer.commit()
    store.publish(NS, hold=lease_for(digest))
    pass_time(monkeypatch, clock.DAY - clock.HOUR)
    store.publish(NS, hold=lease_for(digest))
    pass_time(monkeypatch, clock.DAY - clock.HOUR)
    assert not any(gc.collect(store))
    pass_time(monkeypatch, 2 * clock.HOUR)
    assert gc.collect(store).content == {NS: [digest]}


def test_an_unfinished_write_keeps_what_it_expects(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a day has passed; then it goes, and what it expected."""
    with store.content(NS).writer("ref", expected=Digest.of(b"abc")) as writer:
        writer.write(b"a")
    digest = add(store, b"abc")
    assert not any(gc.collect(store))
    pass_time(monkeypatch, clock.DAY + clock.HOUR)
    garbage = gc.collect(store)
    assert garbage.content == {NS: [digest]}
    assert [(item.kind, item.namespace, item.name) for item in garbage.litter] == [("ingest", NS, "ref")]


def test_an_unfinished_write_that_a_lease_holds_has_no_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lasts as long as the lease, flat or not."""
    store.leases(NS).create(Lease("l", {"containerd.io/gc.flat": "x"}))
    with store.content(NS).writer("ref", expected=Digest.of(b"abc"), lease="l") as writer:
        writer.write(b"a")
    add(store, b"abc")
    pass_time(monkeypatch, 400 * clock.DAY)
    assert not any(gc.collect(store))
    store.leases(NS).delete("l")
    assert [item.name for item in gc.collect(store).litter] == ["ref"]


# --- images that expire ----------------------------------------------------------------------------


def test_an_image_past_its_time_is_garbage_with_its_content(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """containerd 2.x: an image with gc.expire is a root until then. Another name is not touched."""
    mine, other = add(store, b"mine"), add(store, b"other")
    tag(store, "a", mine, OCTETS, labels={EXPIRE: clock.format_time(clock.wall() + clock.HOUR)})
    tag(store, "b", other, OCTETS)
    assert not any(gc.collect(store))
    pass_time(monkeypatch, clock.HOUR + 1)
    told = gc.find(store)
    assert told.images == {NS: ["a"]}
    assert told.content == {NS: [mine]}
    assert gc.collect(store) == told
    assert store.images(NS).names() == ["b"]
    assert recorded(store) == objects(store) == {other}


def test_images_leases_and_ingests_hold_until_their_time_and_in_that_very_moment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rule for all, whoever asks, and it is containerd's."""
    with store.content(NS).writer("ref") as writer:
        writer.write(b"half")
    end = store.content(NS).status("ref").expires
    assert end is not None
    until = {EXPIRE: clock.format_time(end)}
    tag(store, "a", add(store, b"tagged"), OCTETS, labels=until)
    store.leases(NS).create(Lease("l", until, {"content": (add(store, b"held"),)}))
    monkeypatch.setattr(clock, "wall", lambda: end)
    assert not any(gc.collect(store))
    require_lease(store.leases(NS), "l")
    monkeypatch.setattr(clock, "wall", lambda: end + 1)
    with pytest.raises(NotFound, match="expired"):
        require_lease(store.leases(NS), "l")
    told = gc.collect(store)
    assert (told.images, told.leases, len(told.litter)) == ({NS: ["a"]}, {NS: ["l"]}, 1)
    assert recorded(store) == set()


@pytest.mark.parametrize("expire", ["tomorrow", "2020-01-01", "2201-01-01T00:00:00Z"])
def test_an_image_without_a_past_time_is_kept(store: Store, expire: str) -> None:
    """As a lease: a misspelt label loses nothing."""
    tag(store, "a", add(store, b"x"), OCTETS, labels={EXPIRE: expire})
    assert not any(gc.collect(store))


def test_a_lease_keeps_an_image_past_its_time(store: Store) -> None:
    """containerd 2.x puts such an image under the lease that it was made with."""
    layer = add(store, b"layer")
    top = add(store, manifest(layer))
    tag(store, "a", top, media.OCI_MANIFEST, labels={EXPIRE: LONG_AGO})
    store.leases(NS).create(Lease("l", resources={"images": ("a", "absent")}))
    assert not any(gc.collect(store))
    store.leases(NS).delete("l")
    assert gc.collect(store).images == {NS: ["a"]}
    assert not objects(store)


def test_a_flat_lease_keeps_an_image_past_its_time_and_its_target_alone(store: Store) -> None:
    """Neither what the image's labels name nor what the target refers to."""
    layer, other = add(store, b"layer"), add(store, b"other")
    top = add(store, manifest(layer), labels={f"{REF}.l.0": layer})
    tag(store, "a", top, media.OCI_MANIFEST, labels={EXPIRE: LONG_AGO, REF: other})
    store.leases(NS).create(Lease("l", {FLAT: "x"}, {"images": ("a",)}))
    assert set(gc.collect(store).content[NS]) == {layer, other}
    assert store.images(NS).names() == ["a"]


@pytest.mark.parametrize("key", [REF_IMAGE, f"{REF_IMAGE}.base", f"{REF_IMAGE}/base"])
def test_a_reference_keeps_an_image_past_its_time(store: Store, key: str) -> None:
    """From content or from another image."""
    for name in ("a", "b"):
        tag(store, name, add(store, name.encode()), OCTETS, labels={EXPIRE: LONG_AGO})
    tag(store, "root", add(store, b"x", labels={key: "a"}), OCTETS, labels={key: "b"})
    assert not any(gc.collect(store))
    store.images(NS).delete("root")
    assert gc.collect(store).images == {NS: ["a", "b"]}


def test_an_image_past_its_time_lives_with_what_it_refers_back_to(store: Store) -> None:
    """The label is on the image: an attestation with a name of its own, say."""
    top = add(store, b"top")
    tag(store, "root", top, OCTETS)
    for name, labels in (("a", {BACK: top}), ("b", {f"{BACK_IMAGE}.of": "root"})):
        tag(store, name, add(store, name.encode()), OCTETS, labels={EXPIRE: LONG_AGO, **labels})
    assert not any(gc.collect(store))
    store.images(NS).delete("root")
    assert gc.collect(store).images == {NS: ["a", "b"]}


# --- edges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [REF, f"{REF}.0", f"{REF}.l.12", f"{REF}/whatever", f"{REF}."])
def test_a_reference_label_keeps_content(store: Store, key: str) -> None:
    """containerd's, with any suffix behind a dot or slash; through any number of steps."""
    last = add(store, b"last")
    middle = add(store, b"middle", labels={key: last})
    tag(store, "a", add(store, b"first", labels={key: middle}), OCTETS)
    assert not any(gc.collect(store))


@pytest.mark.parametrize("key", [f"{REF}s", f"{REF}-x", "containerd.io/gc.ref", f"x{REF}"])
def test_a_label_that_only_looks_like_a_reference_keeps_nothing(store: Store, key: str) -> None:
    """The key ends, or a dot or slash follows."""
    child = add(store, b"child")
    tag(store, "a", add(store, b"x", labels={key: child}), OCTETS)
    assert gc.collect(store).content == {NS: [child]}


def test_labels_of_a_lease_refer_to_nothing(store: Store) -> None:
    """As in containerd: it holds its resources, and its labels tell of itself alone."""
    digest = add(store, b"x")
    store.leases(NS).create(Lease("l", {REF: digest, ROOT: "x"}))
    assert gc.collect(store).content == {NS: [digest]}


def test_a_time_on_content_says_nothing(store: Store) -> None:
    """As in containerd: content is no root before it, and no garbage after it."""
    kept = add(store, b"kept", labels={EXPIRE: LONG_AGO})
    tag(store, "a", kept, OCTETS)
    gone = add(store, b"gone", labels={EXPIRE: "2201-01-01T00:00:00Z"})
    assert gc.collect(store).content == {NS: [gone]}
    assert recorded(store) == {kept}


@pytest.mark.parametrize("value", ["-", "x", "sha256:abc", "sha384:" + "0" * 96, Digest.of(b"absent")])
def test_a_reference_to_nothing_is_harmless(store: Store, value: str) -> None:
    """As in containerd; fsck remarks on it."""
    tag(store, "a", add(store, b"x", labels={f"{REF}.0": value}), OCTETS)
    tag(store, "b", Digest.of(b"nowhere"), media.OCI_MANIFEST)
    assert not any(gc.collect(store))


def test_references_end_at_the_namespace(store: Store) -> None:
    """A record lives by its own namespace; an object by any."""
    both, mine = add(store, b"both"), add(store, b"mine")
    add(store, b"both", OTHER)
    tag(store, "a", both, OCTETS, labels={REF: mine}, namespace=OTHER)
    garbage = gc.collect(store)
    assert {ns: set(digests) for ns, digests in garbage.content.items()} == {NS: {both, mine}}
    assert set(garbage.objects) == {mine}
    assert recorded(store, OTHER) == objects(store) == {both}


def test_a_cycle_is_kept_or_removed_whole(store: Store) -> None:
    """Labels can make one."""
    a, b = add(store, b"a"), add(store, b"b")
    label(store, a, {REF: b})
    label(store, b, {REF: a})
    tag(store, "x", a, OCTETS)
    assert not any(gc.collect(store))
    store.images(NS).delete("x")
    assert set(gc.collect(store).content[NS]) == {a, b}


def test_an_image_without_labels_keeps_all_its_parts(store: Store) -> None:
    """An index of an index of manifests: what containerd itself would collect."""
    parts = [add(store, bytes([i])) for i in range(4)]
    first, second = add(store, manifest(*parts[:2])), add(store, manifest(*parts[2:]))
    inner = add(store, index(entry(first, media.OCI_MANIFEST)))
    outer = index(entry(inner, media.OCI_INDEX), entry(second, media.OCI_MANIFEST))
    tag(store, "a", add(store, outer), media.OCI_INDEX)
    assert not any(gc.collect(store))
    assert len(recorded(store)) == 8


@pytest.mark.parametrize("labelled", [True, False])
def test_a_manifest_that_is_called_a_layer_keeps_what_its_labels_name(store: Store, labelled: bool) -> None:
    """It is not opened, nor is what its record tells of its bytes; labels count whatever it is."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    top = add_told(store, manifest(config, layer))
    if labelled:
        label(store, top, {f"{REF}.config": config, f"{REF}.l.0": layer})
    tag(store, "a", add(store, manifest(add(store, b"config"), top)), media.OCI_MANIFEST)
    dead = gc.collect(store).content.get(NS, [])
    assert set(dead) == (set() if labelled else {config, layer})


def test_an_artifact_keeps_its_blobs(store: Store) -> None:
    """The manifest of image-spec's release candidates has no config and calls its layers blobs."""
    blob = add(store, b"blob")
    document = b'{"mediaType": "%b", "blobs": [{"mediaType": "text/plain", "digest": "%b", "size": 4}]}'
    artifact = add(store, document % (media.OCI_ARTIFACT.encode(), blob.encode()))
    tag(store, "a", artifact, media.OCI_ARTIFACT)
    assert not any(gc.collect(store))


def test_a_manifest_inside_its_index_keeps_its_layers(store: Store) -> None:
    """The document stands in `data` of the descriptor, and nowhere else."""
    layer = add(store, b"layer")
    inner = manifest(layer)
    inline = entry(Digest.of(inner), media.OCI_MANIFEST) | {
        "size": len(inner),
        "data": base64.b64encode(inner).decode(),
    }
    tag(store, "a", add(store, index(inline)), media.OCI_INDEX)
    assert not any(gc.collect(store))


def test_documents_are_told_by_their_bytes_where_no_type_is_known(store: Store) -> None:
    """A label names a digest and nothing else; white space may stand before JSON."""
    layer = add(store, b"layer")
    spaced = add(store, b"\n " + manifest(layer))
    tag(store, "a", add(store, b"x", labels={REF: spaced}), OCTETS)
    assert not any(gc.collect(store))


def test_what_is_too_large_for_a_document_is_none(store: Store) -> None:
    """4 MiB: what no manifest may have is not read."""
    child = add(store, b"child")
    tag(store, "a", add(store, manifest(child) + b" " * (4 << 20)), OCTETS)
    assert gc.collect(store).content == {NS: [child]}


@pytest.mark.parametrize("key", [BACK, f"{BACK}.x", f"{BACK}/subject"])
def test_a_back_reference_keeps_the_content_that_has_it(store: Store, key: str) -> None:
    """containerd 2.x: the label on the child names the parent; and what the child refers to stays."""
    subject, leaf = add(store, b"subject"), add(store, b"leaf")
    add(store, b"child", labels={key: subject, REF: leaf})
    tag(store, "a", subject, OCTETS)
    assert not any(gc.collect(store))
    store.images(NS).delete("a")
    assert len(gc.collect(store).content[NS]) == 3


@pytest.mark.parametrize("key", [BACK_IMAGE, f"{BACK_IMAGE}.x"])
def test_content_may_live_as_long_as_an_image(store: Store, key: str) -> None:
    """containerd 2.x: a cache of an image, which its manifest does not know of."""
    cache = add(store, b"cache", labels={key: "a"})
    tag(store, "a", add(store, b"x"), OCTETS)
    assert not any(gc.collect(store))
    store.images(NS).delete("a")
    assert cache in gc.collect(store).content[NS]


def test_what_refers_back_may_come_before_its_parent(store: Store) -> None:
    """As in containerd the parent need not be there, if only something refers to it."""
    absent = Digest.of(b"to come")
    child = add(store, b"child", labels={BACK: absent})
    tag(store, "a", absent, OCTETS)
    assert not any(gc.collect(store))
    store.images(NS).delete("a")
    assert gc.collect(store).content == {NS: [child]}


def test_a_flat_lease_keeps_nothing_that_refers_back(store: Store) -> None:
    """It keeps what it lists alone: no child, no referrer."""
    subject = add(store, manifest(add(store, b"{}")))
    add(store, b"child", labels={BACK: subject})
    add(store, manifest(Digest.of(b"{}"), subject=subject))
    hold(store, "l", [subject], flat="x")
    gc.collect(store)
    assert recorded(store) == {subject}


def test_a_referrer_lives_as_long_as_its_subject(store: Store) -> None:
    """Without a label: its own bytes say what it is about. A referrer of a referrer too."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    subject = add(store, manifest(config, layer))
    signature = add(store, b"signature")
    referrer = add(store, manifest(config, signature, subject=subject))
    add(store, manifest(config, subject=referrer))
    tag(store, "a", subject, media.OCI_MANIFEST)
    assert not any(gc.collect(store))
    store.images(NS).delete("a")
    assert len(gc.collect(store).content[NS]) == 6


def test_a_referrer_does_not_keep_its_subject(store: Store) -> None:
    """Who tags a signature keeps the signature."""
    config = add(store, b"{}")
    subject = add(store, manifest(config))
    referrer = add(store, manifest(config, subject=subject))
    tag(store, "a", referrer, media.OCI_MANIFEST)
    assert gc.collect(store).content == {NS: [subject]}


def test_what_refers_is_removed_before_what_it_refers_to(store: Store) -> None:
    """Killed half-way, gc leaves content without its parent, and no manifest without its parts."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    child = add(store, manifest(config, layer))
    top = add(store, index(entry(child, media.OCI_MANIFEST)))
    referrer = add(store, manifest(config, subject=child))
    labelled = add(store, b"labelled", labels={REF: top})
    order = gc.find(store).content[NS]
    at = order.index
    assert len(order) == 6
    assert at(labelled) < at(top) < at(child) < at(config)
    assert at(referrer) < at(child) < at(layer)


# --- containerd's rule alone -----------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def labels_only(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store whose settings say `follow = "labels"`."""
    if request.param == "memory":
        yield MemoryStore(Settings(follow="labels"))
        return
    with open_store(str(tmp_path / "store")) as made:
        add(made, b"")
    with (tmp_path / "store" / "imgtool.toml").open("a") as settings:
        settings.write('[gc]\nfollow = "labels"\n')
    with open_store(str(tmp_path / "store")) as opened:
        opened.content(NS).delete(Digest.of(b""))
        yield opened


def test_by_labels_alone_children_without_a_label_go(labels_only: Store) -> None:
    """As in containerd: who stores a manifest sets the labels. A referrer needs one too."""
    config, layer = add(labels_only, b"{}"), add(labels_only, b"layer")
    top = add(labels_only, manifest(config, layer), labels={f"{REF}.config": config})
    referrer = add(labels_only, manifest(config, subject=top))
    labelled = add(labels_only, manifest(layer, subject=top), labels={f"{BACK}.subject": top})
    tag(labels_only, "a", top, media.OCI_MANIFEST)
    assert set(gc.collect(labels_only).content[NS]) == {layer, referrer}
    assert recorded(labels_only) == {top, config, labelled}


@pytest.mark.parametrize("called", [media.OCI_MANIFEST, LAYER, OCTETS])
def test_by_labels_alone_what_a_record_tells_counts_as_far_as_it_is_labelled(
    labels_only: Store, called: str
) -> None:
    """Whatever the content is called."""
    parts = [add(labels_only, bytes([n])) for n in range(4)]
    whole, half = (add_told(labels_only, manifest(*parts[n : n + 2])) for n in (0, 2))
    label(labels_only, whole, {f"{REF}.config": parts[0], f"{REF}.l.0": parts[1]})
    label(labels_only, half, {f"{REF}.l.0": parts[3]})
    tag(labels_only, "whole", whole, called)
    tag(labels_only, "half", half, called)
    assert set(gc.collect(labels_only).content[NS]) == {parts[2]}


def test_by_labels_alone_no_manifest_is_read(labels_only: Store) -> None:
    """Not even one that is none: what it would say does not count."""
    tag(labels_only, "a", add(labels_only, b"no manifest"), media.OCI_MANIFEST)
    assert gc.collect(labels_only).objects.keys() <= {Digest.of(b"")}
    assert recorded(labels_only) == {Digest.of(b"no manifest")}


# --- what cannot be known --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [b"no json", b"{}", b'{"schemaVersion": 1}', b" " * (5 << 20)],
    ids=["text", "empty", "schema-1", "too-large"],
)
def test_a_manifest_that_cannot_be_read_stops_gc(store: Store, raw: bytes) -> None:
    """Nobody knows what hangs on it. Who deletes the image may go on."""
    add(store, b"gone")
    digest = add(store, raw)
    tag(store, "a", digest, media.OCI_MANIFEST)
    with pytest.raises(DataLoss, match=digest):
        gc.collect(store)
    assert len(recorded(store)) == 2
    store.images(NS).delete("a")
    assert len(gc.collect(store).content[NS]) == 2


def test_a_manifest_that_cannot_be_read_and_that_nothing_reaches_is_garbage(store: Store) -> None:
    """Nothing hangs on it."""
    digest = add(store, b'{"schemaVersion": 2, "manifests": 7}')
    assert gc.collect(store).content == {NS: [digest]}


# --- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-(10**9) * clock.SECOND, 400 * clock.DAY], ids=["back", "forward"])
def test_no_clock_removes_what_is_referenced_or_leased_for_good(
    store: Store, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    """A machine wakes up in 1994, or next year."""
    tag(store, "a", add(store, b"named"), OCTETS)
    hold(store, "l", [add(store, b"leased")])
    add(store, b"root", labels={ROOT: "x"})
    pass_time(monkeypatch, jump)
    assert not any(gc.collect(store))


def test_a_clock_that_went_back_makes_time_longer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to last a day lasts a day and the jump; nothing ends early."""
    digest = add(store, b"x")
    store.publish(NS, hold=lease_for(digest))
    with store.content(NS).writer("ref") as writer:
        writer.write(b"a")
    pass_time(monkeypatch, -30 * clock.DAY)
    assert not any(gc.collect(store))


def test_a_frozen_clock_ends_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is of one instant, and that is not past."""
    pass_time(monkeypatch, 0)
    digest = add(store, b"x")
    store.publish(NS, hold=lease_for(digest))
    gone = add(store, b"y")
    assert gc.collect(store).content == {NS: [gone]}
