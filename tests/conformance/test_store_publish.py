"""What `stores.Store.publish` promises, by every store."""

from __future__ import annotations

import pytest

from imgtool import clock
from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, FailedPrecondition, ImgtoolError, InvalidArgument, NotFound
from imgtool.model import Image, Lease, replace
from imgtool.names import EXPIRE
from imgtool.stores import Commit, ContentStore, ImageStore, Put, Store

from .things import ABSENT, NS, OTHER, add, begin, each_raises, image, read, ticking, unchanged

LABELS = {"k": "v"}


def staged(content: ContentStore, data: bytes, algorithm: str = "sha256", /, **what: object) -> Commit:
    """A commit of `data` by an anonymous writer."""
    writer = content.stage(algorithm=algorithm)
    writer.write(data)
    writer.finish()
    return Commit(writer, **what)  # type: ignore[arg-type]  # Commit's own fields, by name


def outcomes(published: list[Image | ImgtoolError]) -> list[str | type[ImgtoolError]]:
    """The name of each image, or the class of its error."""
    return [p.name if isinstance(p, Image) else type(p) for p in published]


def test_content_a_lease_and_images_are_published_together(store: Store, content: ContentStore) -> None:
    """What it returns is what the stores say from then on."""
    commits = [staged(content, bytes([i]), labels={"i": str(i), "gone": ""}) for i in range(3)]
    hold = Lease("l", LABELS, {"content": (Digest.of(b"\0"),)})
    with ticking() as times:
        published = store.publish(NS, commits, [Put(image("a", b"\1")), Put(image("b"))], hold=hold)
    assert list(published.content) == [content.info(Digest.of(bytes([i]))) for i in range(3)]
    assert [info.labels for info in published.content] == [{"i": "0"}, {"i": "1"}, {"i": "2"}]
    assert list(published.images) == list(store.images(NS).list())
    assert outcomes([*published.images]) == ["a", "b"]
    lease = store.leases(NS).get("l")
    assert (lease.labels, lease.resources) == (hold.labels, hold.resources)
    created = [
        *(info.created for info in published.content),
        lease.created,
        store.images(NS).get("a").created,
    ]
    assert all(times[0] <= time <= times[1] for time in created)
    assert read(content, Digest.of(b"\2")) == b"\2"


def test_nothing_is_published_of_nothing(store: Store) -> None:
    """Not even a namespace."""
    published = store.publish(NS)
    assert (list(published.content), list(published.images)) == ([], [])
    assert list(store.namespaces.list()) == []


def test_a_bad_namespace_is_refused(store: Store) -> None:
    """As everywhere, whatever it was to have."""
    content = store.content(NS)
    each_raises(
        InvalidArgument,
        lambda: store.publish("a/b"),
        lambda: store.publish("a/b", [staged(content, b"x")]),
        lambda: store.publish("a/b", puts=[Put(image("a"))]),
        lambda: store.publish("a/b", hold=Lease("l")),
    )
    assert list(store.namespaces.list()) == []


def test_each_kind_of_thing_brings_its_namespace_into_being(store: Store) -> None:
    """Whatever comes first."""
    store.publish("a", puts=[Put(image("i"))])
    store.publish("b", [staged(store.content("b"), b"x")])
    store.publish("c", hold=Lease("l"))
    assert [n.name for n in store.namespaces.list()] == ["a", "b", "c"]


# Content


def test_ingests_are_over_when_they_are_published(store: Store, content: ContentStore) -> None:
    """Their writers need only be closed, and their names are free."""
    begin(content, "ref", b"abc")
    with content.writer("ref") as writer:
        writer.write(b"def")
        info = store.publish(
            NS, [Commit(writer, size=6, expected=Digest.of(b"abcdef"), labels=LABELS)]
        ).content[0]
        content.writer("ref").close()
        content.abort("ref")
    assert (info.digest, info.size, info.labels) == (Digest.of(b"abcdef"), 6, LABELS)
    assert list(content.statuses()) == []


def test_content_that_is_recorded_keeps_its_record_and_gets_the_labels(
    store: Store, content: ContentStore
) -> None:
    """A second image may bring a layer that is here, and its parents' labels with it."""
    old = content.info(add(store, b"abc", k="old", l="w"))
    with ticking() as times:
        published = store.publish(NS, [staged(content, b"abc", labels={"m": "x"})])
    new = content.info(old.digest)
    assert list(published.content) == [new]
    assert (new.labels, new.created, new.size) == ({"k": "old", "l": "w", "m": "x"}, old.created, 3)
    assert times[0] <= new.updated <= times[1]


def test_publishing_again_changes_nothing(store: Store, content: ContentStore) -> None:
    """A repeated ingest is a success."""
    store.publish(NS, [staged(content, b"abc", labels=LABELS)], [Put(image("a", b"abc", LABELS))])
    with unchanged(store):
        published = store.publish(NS, [staged(content, b"abc", labels=LABELS)], [Put(image("a", b"abc"))])
    assert outcomes([*published.images]) == ["a"]
    assert published.content[0] == content.info(Digest.of(b"abc"))


def test_the_same_content_twice_is_published_once(store: Store, content: ContentStore) -> None:
    """Two layers of an image may be equal."""
    commits = [staged(content, b"abc", labels={"k": "v"}), staged(content, b"abc", labels={"l": "w"})]
    published = store.publish(NS, commits)
    assert [info.digest for info in published.content] == [Digest.of(b"abc")] * 2
    assert content.info(Digest.of(b"abc")).labels == {"k": "v", "l": "w"}
    assert len(list(content.list())) == 1


def test_an_expected_digest_of_another_algorithm_names_the_content(
    store: Store, content: ContentStore
) -> None:
    """As for a commit alone."""
    expected = Digest.of(b"abc", "sha512")
    assert (
        store.publish(NS, [staged(content, b"abc", "blake3", expected=expected)]).content[0].digest
        == expected
    )


def test_a_writers_lease_holds_what_it_published(store: Store, content: ContentStore) -> None:
    """And the ingest no longer."""
    store.leases(NS).create(Lease("l"))
    with content.writer("ref", lease="l") as writer:
        writer.write(b"abc")
        store.publish(NS, [Commit(writer)])
    assert store.leases(NS).get("l").resources == {"content": (Digest.of(b"abc"),)}


@pytest.mark.parametrize("wanted", [{"size": 2}, {"expected": ABSENT}])
def test_one_commit_that_differs_stops_them_all(
    store: Store, content: ContentStore, wanted: dict[str, object]
) -> None:
    """Half an archive must not appear. The ingests stay as they are."""
    begin(content, "ref", b"abc")
    with unchanged(store), content.writer("ref") as writer, pytest.raises(FailedPrecondition):
        store.publish(
            NS,
            [staged(content, b"good"), Commit(writer), staged(content, b"bad", **wanted)],
            [Put(image("a"))],
            hold=Lease("l"),
        )
    assert content.status("ref").offset == 3
    with content.writer("ref") as writer:
        assert writer.commit().digest == Digest.of(b"abc")


def test_labels_that_do_not_fit_stop_them_all(store: Store, content: ContentStore) -> None:
    """An argument that could never be right."""
    with unchanged(store), pytest.raises(InvalidArgument):
        store.publish(
            NS,
            [staged(content, b"good"), staged(content, b"bad", labels={"k": "v" * 4096})],
            [Put(image("a"))],
        )


# The lease


def test_hold_renews_a_lease_that_is_there(store: Store) -> None:
    """Labels and resources are added; it was created when it was."""
    old = store.leases(NS).create(Lease("l", LABELS, {"content": ("a",), "ingests": ("r",)}))
    store.publish(NS, hold=Lease("l", {"l": "w", "none": ""}, {"content": ("b", "a")}))
    new = store.leases(NS).get("l")
    assert (new.labels, new.created) == ({**LABELS, "l": "w"}, old.created)
    assert {type: sorted(ids) for type, ids in new.resources.items()} == {
        "content": ["a", "b"],
        "ingests": ["r"],
    }


SOON, LATER = "2200-01-01T00:00:00Z", "2200-01-01T01:00:00+00:30"


@pytest.mark.parametrize(
    ("there", "hold", "then"),
    [
        (SOON, LATER, LATER),
        (LATER, SOON, LATER),
        ("2001-01-01T00:00:00Z", SOON, SOON),
        (None, SOON, None),
        (SOON, None, None),
        (None, None, None),
        ("tomorrow", SOON, "tomorrow"),
    ],
)
def test_hold_never_shortens_a_lease(
    store: Store, there: str | None, hold: str | None, then: str | None
) -> None:
    """Its owner may have given it more time, or said that it shall not end."""

    def until(end: str | None) -> dict[str, str]:
        return {} if end is None else {EXPIRE: end}

    store.leases(NS).create(Lease("l", {**LABELS, **until(there)}))
    store.publish(NS, hold=Lease("l", until(hold), {"content": (ABSENT,)}))
    assert store.leases(NS).get("l").labels == {**LABELS, **until(then)}


def test_hold_without_an_id_stops_all(store: Store, content: ContentStore) -> None:
    """It could not be held."""
    with unchanged(store), pytest.raises(InvalidArgument):
        store.publish(NS, [staged(content, b"x")], [Put(image("a"))], hold=Lease(""))


# A lease that is there


def test_a_lease_holds_all_that_is_published(store: Store, content: ContentStore) -> None:
    """Content that was here before too. Its labels and what it held before stay."""
    old = store.leases(NS).create(Lease("l", LABELS, {"content": (ABSENT,), "ingests": ("r",)}))
    before = add(store, b"before")
    store.publish(NS, [staged(content, b"x"), staged(content, b"before")], lease="l")
    assert store.leases(NS).get("l") == replace(
        old, resources={"content": (ABSENT, Digest.of(b"x"), before), "ingests": ("r",)}
    )


def test_a_lease_holds_what_the_images_need_that_get_their_names(store: Store) -> None:
    """And no more: who is told that a name failed has nothing to give back."""
    store.leases(NS).create(Lease("l"))
    a, b = add(store, b"a"), add(store, b"b")
    store.images(NS).create(image("taken", b"other"))
    puts = [
        Put(image("one", b"a"), needs=frozenset([a])),
        Put(image("taken", b"b"), needs=frozenset([b])),
        Put(image("two", b"a"), needs=frozenset([a, ABSENT])),
    ]
    assert outcomes([*store.publish(NS, puts=puts, lease="l").images]) == ["one", AlreadyExists, NotFound]
    assert store.leases(NS).get("l").resources == {"content": (a,)}


def test_a_lease_holds_an_image_that_would_expire(store: Store) -> None:
    """As containerd's does; an image without an expiry needs no lease. What counts is the record as it
    stands then: one that is there stays as it is.
    """
    store.leases(NS).create(Lease("l"))
    short, there, stays = (
        image(name, labels={"containerd.io/gc.expire": "2001-01-01T00:00:00Z"})
        for name in ("short", "there", "stays")
    )
    store.images(NS).create(there)
    store.images(NS).create(image("stays"))
    puts = [Put(short), Put(image("long")), Put(image("there")), Put(stays)]
    assert len(outcomes([*store.publish(NS, puts=puts, lease="l").images])) == 4
    assert store.leases(NS).get("l").resources == {"images": ("short", "there")}


def test_an_absent_lease_stops_all(store: Store, content: ContentStore) -> None:
    """What should have been under it would be gc's. One of another namespace is absent."""
    store.leases(OTHER).create(Lease("l"))
    with unchanged(store), pytest.raises(NotFound, match="'l'"):
        store.publish(NS, [staged(content, b"x")], [Put(image("a"))], lease="l")
    assert list(store.objects()) == []


def test_a_lease_past_its_time_stops_all(
    store: Store, content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was good when the caller looked, and a long read of stdin came between."""
    in_an_hour = clock.wall() + clock.HOUR
    store.leases(NS).create(Lease("l", {EXPIRE: clock.format_time(in_an_hour)}))
    monkeypatch.setattr(clock, "wall", lambda: in_an_hour + 1)
    with unchanged(store), pytest.raises(NotFound, match="'l' has expired"):
        store.publish(NS, [staged(content, b"x")], [Put(image("a"))], lease="l")
    assert list(store.objects()) == []


def test_a_lease_that_is_made_or_renewed_at_the_same_time_holds(store: Store, content: ContentStore) -> None:
    """Then it is there."""
    store.publish(NS, [staged(content, b"x")], hold=Lease("l"), lease="l")
    assert store.leases(NS).get("l").resources == {"content": (Digest.of(b"x"),)}


def test_a_lease_holds_the_content_of_its_own_ingest_once(store: Store, content: ContentStore) -> None:
    """The ingest was under it too, and is no more."""
    store.leases(NS).create(Lease("l"))
    with content.writer("ref", lease="l") as writer:
        writer.write(b"abc")
        store.publish(NS, [Commit(writer)], lease="l")
    assert store.leases(NS).get("l").resources == {"content": (Digest.of(b"abc"),)}


# Images


def test_a_name_with_the_same_target_is_left_as_it_is(store: Store, images: ImageStore) -> None:
    """Labels, times and all, also with replace; it counts as published."""
    old = images.create(image("a", labels=LABELS))
    with unchanged(store):
        for put in (Put(image("a", labels={"l": "w"})), Put(image("a"), replace=True)):
            assert list(store.publish(NS, puts=[put]).images) == [old]


def test_a_name_with_another_target_is_replaced_only_when_told(store: Store, images: ImageStore) -> None:
    """Whole, but for the time of its creation."""
    old = images.create(image("a", labels=LABELS))
    with unchanged(store):
        assert outcomes([*store.publish(NS, puts=[Put(image("a", b"new"))]).images]) == [AlreadyExists]
    with ticking() as times:
        (new,) = store.publish(NS, puts=[Put(image("a", b"new", {"l": "w"}), replace=True)]).images
    assert new == images.get("a")
    assert isinstance(new, Image)
    assert replace(new, updated=0) == replace(image("a", b"new", {"l": "w"}), created=old.created)
    assert times[0] <= new.updated <= times[1]


def test_an_image_that_fails_does_not_stop_the_others(
    store: Store, content: ContentStore, images: ImageStore
) -> None:
    """Each is for itself, and its error stands in its place."""
    images.create(image("taken", b"other"))
    published = store.publish(
        NS,
        [staged(content, b"x")],
        [
            Put(image("a")),
            Put(image("taken")),
            Put(image("", b"x")),
            Put(image("empty", b"")),
            Put(image("needy", needs := b"x"), needs=frozenset([Digest.of(needs), ABSENT])),
            Put(image("b")),
        ],
    )
    assert outcomes([*published.images]) == [
        "a",
        AlreadyExists,
        InvalidArgument,
        InvalidArgument,
        NotFound,
        "b",
    ]
    assert images.names() == ["a", "b", "taken"]
    assert images.get("taken").target.digest == Digest.of(b"other")
    assert content.info(Digest.of(b"x")).size == 1


def test_needs_are_met_by_content_of_the_same_step(store: Store, content: ContentStore) -> None:
    """First all content, then the images. Another namespace's does not count."""
    there = add(store, b"there", OTHER)
    needs = frozenset([Digest.of(b"x"), add(store, b"here")])
    puts = [Put(image("a"), needs=needs), Put(image("b"), needs=needs | {there})]
    assert outcomes([*store.publish(NS, [staged(content, b"x")], puts).images]) == ["a", NotFound]


def test_puts_of_one_name_follow_each_other(store: Store, images: ImageStore) -> None:
    """A later one sees what an earlier one left."""
    puts = [
        Put(image("a", b"1")),
        Put(image("a", b"2")),
        Put(image("a", b"3"), replace=True),
        Put(image("a", b"3")),
    ]
    assert outcomes([*store.publish(NS, puts=puts).images]) == ["a", AlreadyExists, "a", "a"]
    assert images.get("a").target.digest == Digest.of(b"3")


def test_entries_without_a_value_are_not_stored(store: Store, images: ImageStore) -> None:
    """As by create."""
    store.publish(NS, puts=[Put(image("a", labels={"k": "v", "gone": ""}, annotations={"gone": ""}))])
    assert (images.get("a").labels, images.get("a").target.annotations) == (LABELS, {})
