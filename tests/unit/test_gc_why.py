"""Why content is kept, or since when it is garbage. See imgtool-gc(1), `--why`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import DiskStore, atomic, open_store
from imgtool.errors import DataLoss, NotFound
from imgtool.model import ContentInfo, Descriptor, Image, Lease
from imgtool.oci import media
from imgtool.ops import gc, released
from imgtool.ops.mark import spaces
from imgtool.ops.why import ABSENT, GARBAGE, KEPT, Answer, Step, explain

from .gc_world import (
    BACK,
    BACK_IMAGE,
    EXPIRE,
    FLAT,
    NS,
    OTHER,
    REF,
    REF_IMAGE,
    ROOT,
    add,
    entry,
    hold,
    index,
    label,
    manifest,
    tag,
)

OCTETS = media.OCTETS
LONG_AGO = "2001-01-01T00:00:00Z"
NEVER_LED_TO = "recorded, and nothing has led to it since"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[DiskStore]:
    with open_store(str(root)) as opened:
        yield opened


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the time of records and of the log, in seconds since the epoch."""
    return lambda second: monkeypatch.setenv("SOURCE_DATE_EPOCH", str(second))


def ways(store: DiskStore, digest: Digest) -> list[tuple[str, ...]]:
    """The one answer, each step as kind, name and what leads to it; of a garbage one too."""
    (answer,) = explain(store, digest)
    return [tuple(step) for step in answer.steps]


def gone(store: DiskStore, digest: Digest) -> tuple[str, int | None]:
    """What let go of content of the namespace, and when, in seconds."""
    (answer,) = explain(store, digest)
    assert answer.status == GARBAGE
    assert answer.namespace == NS
    ((kind, name, by),) = answer.steps
    assert (kind, name) == ("content", digest)
    return by, None if answer.since is None else answer.since // clock.SECOND


# --- kept ------------------------------------------------------------------------------------------


def test_the_way_from_an_image_tells_each_step(store: DiskStore) -> None:
    """What a document tells, and where there is one the label as well."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    top = add(store, manifest(config, layer), labels={f"{REF}.l.0": layer})
    outer = add(store, index(entry(top, media.OCI_MANIFEST)))
    tag(store, "app:1", outer, media.OCI_INDEX)
    way = [("image", "app:1", "root"), ("content", outer, "target"), ("content", top, "index")]
    assert ways(store, outer) == way[:2]
    assert ways(store, config) == [*way, ("content", config, "manifest")]
    assert ways(store, layer) == [*way, ("content", layer, f"manifest, {REF}.l.0")]
    (answer,) = explain(store, layer)
    assert answer.status == KEPT
    assert answer.since is None


def test_of_several_ways_the_shortest_is_told_and_then_the_first(store: DiskStore) -> None:
    """Images come before what else there is, in the order of their names."""
    layer = add(store, b"layer")
    top = add(store, b"top", labels={REF: layer})
    tag(store, "a", top, OCTETS)
    tag(store, "c", layer, OCTETS)
    tag(store, "b", layer, OCTETS)
    assert ways(store, layer) == [("image", "b", "root"), ("content", layer, "target")]
    hold(store, "l", [layer])
    assert ways(store, layer) == [("lease", "l", "root"), ("content", layer, "resource")]


def test_other_roots_are_told_with_what_makes_them(store: DiskStore) -> None:
    """A label, leases flat and not, an ingest with its time, and one that a lease holds."""
    marked = add(store, b"marked", labels={f"{ROOT}.by-hand": "x"})
    assert ways(store, marked) == [("content", marked, f"{ROOT}.by-hand")]
    held = add(store, b"held")
    hold(store, "flat", [held], flat="x")
    assert ways(store, held) == [("lease", "flat", "root"), ("content", held, "resource, flat")]
    expected = Digest.of(b"abc")
    store.content(NS).writer("r", expected=expected).close()
    add(store, b"abc")
    assert ways(store, expected) == [("ingest", "r", "root"), ("content", expected, "expected")]
    store.content(NS).abort("r")
    store.leases(NS).create(Lease("l"))
    store.content(NS).delete(expected)
    store.content(NS).writer("r", expected=expected, lease="l").close()
    add(store, b"abc")
    way = [("lease", "l", "root"), ("ingest", "r", "resource"), ("content", expected, "expected")]
    assert ways(store, expected) == way


def test_what_lives_with_something_is_told_by_its_own_label_or_subject(store: DiskStore) -> None:
    """The way goes against the reference, and says so by the label's name."""
    config = add(store, b"{}")
    subject = add(store, manifest(config))
    referrer = add(store, manifest(config, subject=subject, annotations={"n": "1"}))
    labelled = add(store, b"labelled", labels={f"{BACK}.x": subject})
    cache = add(store, b"cache", labels={BACK_IMAGE: "a"})
    tag(store, "a", subject, media.OCI_MANIFEST)
    way = [("image", "a", "root"), ("content", subject, "target")]
    assert ways(store, referrer) == [*way, ("content", referrer, "subject")]
    assert ways(store, labelled) == [*way, ("content", labelled, f"{BACK}.x")]
    assert ways(store, cache) == [way[0], ("content", cache, BACK_IMAGE)]


def test_an_image_past_its_time_is_no_root_but_may_be_on_the_way(store: DiskStore) -> None:
    """Held by a lease, or referred to."""
    x = add(store, b"x")
    tag(store, "old", x, OCTETS, labels={EXPIRE: LONG_AGO})
    store.leases(NS).create(Lease("l", resources={"images": ("old",)}))
    way = [("lease", "l", "root"), ("image", "old", "resource"), ("content", x, "target")]
    assert ways(store, x) == way
    store.leases(NS).delete("l")
    tag(store, "new", add(store, b"y"), OCTETS, labels={REF_IMAGE: "old"})
    assert ways(store, x) == [("image", "new", "root"), ("image", "old", REF_IMAGE), *way[2:]]


def test_by_labels_alone_documents_make_no_way(root: Path, store: DiskStore) -> None:
    """What keeps content is what gc goes by."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    top = add(store, manifest(config, layer), labels={f"{REF}.config": config})
    tag(store, "a", top, media.OCI_MANIFEST)
    with (root / "imgtool.toml").open("a") as settings:
        settings.write('[gc]\nfollow = "labels"\n')
    with open_store(str(root)) as again:
        assert ways(again, config)[-1] == ("content", config, f"{REF}.config")
        assert gone(again, layer)[0] == NEVER_LED_TO


# --- namespaces ------------------------------------------------------------------------------------


def test_each_namespace_answers_for_itself(store: DiskStore) -> None:
    """The bytes stay while one of them keeps the content; none that has nothing to do with it is told."""
    digest = add(store, b"x")
    add(store, b"x", OTHER)
    add(store, b"y", "third")
    tag(store, "a", digest, OCTETS, OTHER)
    here, there = explain(store, digest)
    assert (here.namespace, here.status) == (NS, GARBAGE)
    assert (there.namespace, there.status) == (OTHER, KEPT)


def test_a_way_to_what_a_namespace_does_not_have_keeps_nothing(store: DiskStore) -> None:
    """Someone wonders why the image of another namespace does not keep it: that has no record."""
    digest = add(store, b"x")
    tag(store, "a", digest, OCTETS, OTHER)
    here, there = explain(store, digest)
    assert (here.namespace, here.status) == (NS, GARBAGE)
    assert (there.namespace, there.status) == (OTHER, ABSENT)
    assert [tuple(step) for step in there.steps] == [("image", "a", "root"), ("content", digest, "target")]


def test_what_an_unfinished_write_expects_is_kept_without_a_record(store: DiskStore) -> None:
    """Its bytes are there still, of a namespace that has let go of them."""
    digest = add(store, b"abc", OTHER)
    store.content(NS).writer("r", expected=digest).close()
    store.content(OTHER).delete(digest)
    assert digest not in gc.collect(store).objects
    (answer,) = explain(store, digest)
    assert (answer.namespace, answer.status) == (NS, KEPT)


def test_an_object_that_no_namespace_has_is_garbage_since_its_last_record_went(
    store: DiskStore, at: Callable[[int], None]
) -> None:
    """By hand; the next gc takes the bytes."""
    digest = add(store, b"x")
    add(store, b"x", OTHER)
    for second, namespace in ((1000, OTHER), (2000, NS)):
        at(second)
        store.content(namespace).delete(digest)
    step = Step("object", digest, f"its record in namespace '{NS}' removed")
    assert explain(store, digest) == [Answer("", GARBAGE, [step], 2000 * clock.SECOND)]


def test_what_the_store_does_not_have_is_not_found(store: DiskStore) -> None:
    """Also where an image points to it."""
    digest = Digest.of(b"absent")
    with pytest.raises(NotFound, match=digest):
        explain(store, digest)
    tag(store, "a", digest, OCTETS)
    with pytest.raises(NotFound, match=digest):
        explain(store, digest)


def test_where_gc_stops_there_is_no_answer(store: DiskStore, root: Path) -> None:
    """A manifest that cannot be read may be what it hangs on."""
    digest = add(store, b"x")
    tag(store, "a", add(store, b"no manifest"), media.OCI_MANIFEST)
    with pytest.raises(DataLoss):
        explain(store, digest)


# --- garbage ---------------------------------------------------------------------------------------

Change = Callable[[DiskStore, Digest], object]


def _delete_image(store: DiskStore, top: Digest) -> None:
    store.images(NS).delete("a")


def _move_image(store: DiskStore, top: Digest) -> None:
    store.images(NS).update(Image("a", Descriptor(OCTETS, add(store, b"next"), 4)), "target")


def _remove_label(store: DiskStore, top: Digest) -> None:
    store.content(NS).update(ContentInfo(top, 0), f"labels.{REF}.l.0")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_delete_image, "image 'a' deleted"),
        (_move_image, "image 'a' given another target"),
        (_remove_label, f"label '{REF}.l.0' of content '{{top}}' changed"),
    ],
)
def test_the_change_that_let_go_is_told_of_all_that_it_let_go_of(
    store: DiskStore, at: Callable[[int], None], change: Change, told: str
) -> None:
    """Through what is garbage itself, as long as that is there."""
    at(1000)
    layer = add(store, b"layer")
    top = add(store, b"top", labels={f"{REF}.l.0": layer})
    tag(store, "a", top, OCTETS)
    at(2000)
    change(store, top)
    at(3000)
    add(store, b"something else")
    assert gone(store, layer) == (told.format(top=top), 2000)


def test_without_labels_what_documents_say_counts(store: DiskStore, at: Callable[[int], None]) -> None:
    """A part of a manifest, and a referrer of one, go with the image."""
    config = add(store, b"{}")
    top = add(store, manifest(config))
    referrer = add(store, manifest(config, subject=top, annotations={"n": "1"}))
    tag(store, "a", top, media.OCI_MANIFEST)
    at(2000)
    store.images(NS).delete("a")
    for digest in (config, top, referrer):
        assert gone(store, digest) == ("image 'a' deleted", 2000)


def test_of_several_changes_the_last_is_told(store: DiskStore, at: Callable[[int], None]) -> None:
    """While another name was there, it was kept."""
    digest = add(store, b"x")
    for name in ("a", "b", "c"):
        tag(store, name, digest, OCTETS)
    for second, name in ((2000, "b"), (3000, "c"), (4000, "a")):
        at(second)
        store.images(NS).delete(name)
    assert gone(store, digest) == ("image 'a' deleted", 4000)


def test_a_record_that_came_after_the_last_change_is_garbage_since_then(
    store: DiskStore, at: Callable[[int], None]
) -> None:
    """Content without a name or lease; what held it in its first life does not count."""
    at(1000)
    digest = add(store, b"x")
    assert gone(store, digest) == (NEVER_LED_TO, 1000)
    tag(store, "a", digest, OCTETS)
    at(2000)
    store.images(NS).delete("a")
    gc.collect(store)
    at(3000)
    add(store, b"x")
    assert gone(store, digest) == (NEVER_LED_TO, 3000)


def test_leases_let_go_when_deleted_or_of_one_resource(store: DiskStore, at: Callable[[int], None]) -> None:
    """A flat one lets go of what it lists, and not of what that refers to."""
    layer = add(store, b"layer")
    top = add(store, b"top", labels={REF: layer})
    hold(store, "l", [top])
    hold(store, "flat", [top], flat="x")
    at(2000)
    store.leases(NS).remove("l", "content", top)
    at(3000)
    store.leases(NS).delete("flat")
    assert gone(store, top) == ("lease 'flat' deleted", 3000)
    assert gone(store, layer) == ("resource removed from lease 'l'", 2000)


def test_a_lease_made_flat_lets_go(store: DiskStore, at: Callable[[int], None]) -> None:
    """Of all but what it lists."""
    layer = add(store, b"layer")
    hold(store, "l", [add(store, b"top", labels={REF: layer})])
    at(2000)
    store.leases(NS).update(Lease("l", {FLAT: "x"}))
    assert gone(store, layer) == (f"label '{FLAT}' of lease 'l' changed", 2000)


def test_labels_that_made_a_root_or_referred_back_let_go(store: DiskStore, at: Callable[[int], None]) -> None:
    """They are the content's own."""
    top = add(store, b"top")
    tag(store, "a", top, OCTETS)
    for key, value in ((ROOT, "x"), (f"{BACK}.x", top), (BACK_IMAGE, "a")):
        at(1000)
        digest = add(store, key.encode(), labels={key: value})
        at(2000)
        label(store, digest, {key: ""})
        assert gone(store, digest) == (f"label '{key}' of content '{digest}' changed", 2000)


def test_a_referrer_of_an_image_goes_with_it(store: DiskStore, at: Callable[[int], None]) -> None:
    """By the image's name, or by the digest of what the store never had."""
    absent = Digest.of(b"absent")
    tag(store, "a", absent, OCTETS)
    one = add(store, b"one", labels={BACK_IMAGE: "a"})
    two = add(store, b"two", labels={BACK: absent})
    at(2000)
    store.images(NS).delete("a")
    assert gone(store, one) == gone(store, two) == ("image 'a' deleted", 2000)


def test_a_time_that_has_passed_let_go(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image, a lease, an ingest; all of them still there until gc comes by."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    now = time.time_ns()
    until = now + clock.HOUR
    a, b, c = (add(store, data) for data in (b"a", b"b", b"c"))
    tag(store, "a", a, OCTETS, labels={EXPIRE: clock.format_time(until)})
    hold(store, "l", [b], expire=clock.format_time(until))
    store.content(NS).delete(c)
    store.content(NS).writer("r", expected=c).close()
    add(store, b"c")
    assert all(answer.status == KEPT for digest in (a, b, c) for answer in explain(store, digest))
    monkeypatch.setattr(time, "time_ns", lambda: now + 30 * clock.HOUR)
    assert gone(store, a) == ("image 'a' expired", until // clock.SECOND)
    assert gone(store, b) == ("lease 'l' expired", until // clock.SECOND)
    (status,) = store.content(NS).statuses()
    assert status.expires is not None
    assert gone(store, c) == ("ingest 'r' expired", status.expires // clock.SECOND)


def test_a_lease_or_image_that_gc_has_removed_expired_before(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gc that was killed after the records of the roots: what they held is still there."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    now = time.time_ns()
    until = now + clock.HOUR
    a, b = add(store, b"a"), add(store, b"b")
    tag(store, "a", a, OCTETS, labels={EXPIRE: clock.format_time(until)})
    hold(store, "l", [b], expire=clock.format_time(until))
    monkeypatch.setattr(time, "time_ns", lambda: now + 2 * clock.HOUR)
    garbage = gc.find(store)
    with store.removing() as remove:
        remove(garbage._replace(content={}, objects={}))
    assert store.images(NS).names() == []
    assert gone(store, a) == ("image 'a' expired", until // clock.SECOND)
    assert gone(store, b) == ("lease 'l' expired", until // clock.SECOND)


@pytest.mark.parametrize("gone_first", [True, False], ids=["removed-meanwhile", "there-still"])
def test_a_lease_or_image_that_another_gc_removes_meanwhile_expired_all_the_same(
    store: DiskStore, at: Callable[[int], None], gone_first: bool
) -> None:
    """It was there at the look at everything, and is gone at the look at it alone: then the log tells."""
    at(1000)
    a, b = add(store, b"a"), add(store, b"b")
    until = clock.format_time(2000 * clock.SECOND)
    tag(store, "a", a, OCTETS, labels={EXPIRE: until})
    hold(store, "l", [b], expire=until)
    at(3000)
    (space,) = spaces(store)
    if gone_first:
        garbage = gc.find(store)
        with store.removing() as remove:
            remove(garbage._replace(content={}, objects={}))
    assert released.of_content(store, space, a) == ("image 'a' expired", 2000 * clock.SECOND)
    assert released.of_content(store, space, b) == ("lease 'l' expired", 2000 * clock.SECOND)


@pytest.mark.parametrize("last", ["lease", "image"])
def test_of_a_lease_that_gc_has_removed_and_an_image_the_later_end_is_told(
    store: DiskStore, at: Callable[[int], None], last: str
) -> None:
    """The log of gc has the lease's id alone; what it held stands further back."""
    at(1000)
    digest = add(store, b"x")
    hold(store, "other", [], expire=LONG_AGO)
    hold(store, "l", [digest], expire=clock.format_time(2000 * clock.SECOND))
    tag(store, "a", digest, OCTETS)
    at(1500 if last == "lease" else 4000)
    store.images(NS).delete("a")
    at(3000)
    if last == "image":
        tag(store, "a", digest, OCTETS)
    garbage = gc.find(store)
    with store.removing() as remove:
        remove(garbage._replace(content={}, objects={}))
    if last == "image":
        at(4000)
        store.images(NS).delete("a")
    told = {"lease": ("lease 'l' expired", 2000), "image": ("image 'a' deleted", 4000)}
    assert gone(store, digest) == told[last]


def test_an_image_that_had_expired_before_it_was_made_never_kept_anything(
    store: DiskStore, at: Callable[[int], None]
) -> None:
    """The time that is told is not before there was a record."""
    at(2_000_000_000)
    digest = add(store, b"x")
    tag(store, "a", digest, OCTETS, labels={EXPIRE: LONG_AGO})
    assert gone(store, digest) == ("image 'a' expired", 2_000_000_000)


def test_without_a_log_the_record_tells(store: DiskStore, root: Path, at: Callable[[int], None]) -> None:
    """It may have been cut, or never be written; lines that cannot be read are passed over."""
    at(1000)
    digest = add(store, b"x")
    tag(store, "a", digest, OCTETS)
    at(2000)
    store.images(NS).delete("a")
    path = root / "namespaces" / NS / "log"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:1], b"not a line\n", *lines[1:-1], lines[-1].replace(b'"a"', b'"b"')]))
    assert gone(store, digest) == (NEVER_LED_TO, 1000)
    path.unlink()
    assert gone(store, digest) == (NEVER_LED_TO, 1000)


def test_a_change_that_did_not_happen_let_go_of_nothing(
    store: DiskStore, at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the log and the record; the next writer says so in the log."""
    at(1000)
    digest = add(store, b"x")
    for name in ("a", "b"):
        tag(store, name, digest, OCTETS)
    at(2000)
    store.images(NS).delete("b")
    at(3000)
    with monkeypatch.context() as patch:
        patch.setattr(atomic.Batch, "unlink", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.images(NS).delete("a")
    tag(store, "c", add(store, b"c"), OCTETS)
    store.images(NS).update(Image("a", Descriptor(OCTETS, Digest.of(b"c"), 1)), "target")
    at(4000)
    assert gone(store, digest) == ("image 'a' given another target", 3000)


def _interrupt(self: atomic.Batch, path: str) -> None:
    raise KeyboardInterrupt
