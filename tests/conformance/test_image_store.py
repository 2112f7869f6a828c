"""What `stores.ImageStore` promises, by every store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    ImgtoolError,
    InvalidArgument,
    NotFound,
)
from imgtool.model import SIZE_MAX, Image, Lease, Platform, Target, replace
from imgtool.names import EXPIRE
from imgtool.stores import Garbage, ImageStore, Store

from .things import (
    ABSENT,
    NS,
    OTHER,
    add,
    each_raises,
    each_way_to_be_no_name,
    image,
    target,
    ticking,
    unchanged,
)

LABELS = {"k1": "v1", "k2": "v2"}
NAMES = [
    "../../x",
    "-rf",
    ".",
    "..",
    "A",
    "a",
    "a b",
    "a/b",
    "a.lock",
    "a\nb",
    "\x1b[31m",
    "é",
    "\u202eb",
    "z" * 5000,
]


def test_an_image_reads_back_as_it_was_created(images: ImageStore) -> None:
    """Every field of the descriptor is the user's."""
    whole = image(
        "docker.io/library/a:1",
        b"abc",
        LABELS,
        annotations={"org.x": "y"},
        platform=Platform("linux", "arm", "v7", "1.2", ("a", "b")),
        artifact_type="application/x",
        urls=("https://example.com/a",),
        data="YWJj",
        unknown={"x-later": "kept"},
    )
    created = images.create(whole)
    assert images.get(whole.name) == created
    assert replace(created, created=0, updated=0) == whole


def test_content_of_an_image_need_not_be_there(images: ImageStore) -> None:
    """containerd's Create never looks at content."""
    assert images.create(image("a")).target.digest == target().digest


def test_create_sets_both_times_and_drops_the_callers(images: ImageStore) -> None:
    """Times say when the store was changed."""
    with ticking() as times:
        made = images.create(replace(image("a"), created=5, updated=7))
    assert times[0] <= made.created == made.updated <= times[1]


def test_create_over_a_name_fails_and_changes_nothing(store: Store, images: ImageStore) -> None:
    """Two creators of one name must not both win."""
    images.create(image("a", labels=LABELS))
    with unchanged(store), pytest.raises(AlreadyExists):
        images.create(image("a", b"other"))


def test_entries_without_a_value_are_not_stored(images: ImageStore) -> None:
    """containerd writes no label and no annotation whose value is empty, and answers with what it wrote."""
    made = images.create(image("a", labels={"k": "v", "gone": ""}, annotations={"gone": "", "k": "v"}))
    assert made == images.get("a")
    assert (made.labels, made.target.annotations) == ({"k": "v"}, {"k": "v"})


@pytest.mark.parametrize(
    "bad",
    [
        image(""),
        image("a\0b"),
        image("\udcff"),
        image("a", b""),
        image("a", size=-1),
        image("a", size=SIZE_MAX + 1),
        image("a", media_type=""),
        image("a", digest="sha256:abc"),
        image("a", digest="sha256:../../../../etc/passwd"),
        image("a", labels={"k": "v" * 4096}),
        image("a", labels={"k": "\0"}),
        image("a", annotations={"k": "\0"}),
    ],
)
def test_what_containerd_refuses_is_no_image(store: Store, images: ImageStore, bad: Image) -> None:
    """Name, media type, digest, a size above 0, labels of at most 4,096 bytes."""
    with unchanged(store), pytest.raises(InvalidArgument):
        images.create(bad)
    assert images.names() == []


def test_annotations_are_not_limited_and_a_label_may_have_4096_bytes(images: ImageStore) -> None:
    """The limit is one of labels, of key and value together, in bytes."""
    made = images.create(image("a", labels={"é": "v" * 4094}, annotations={"k": "v" * 10000}))
    assert images.get("a") == made


@each_way_to_be_no_name
def test_what_cannot_be_a_name_is_refused_everywhere(store: Store, images: ImageStore, name: str) -> None:
    """An argument that could never be right is not merely absent."""
    images.create(image("a"))
    with unchanged(store):
        each_raises(
            InvalidArgument,
            lambda: images.get(name),
            lambda: images.update(image(name)),
            lambda: images.delete(name),
            lambda: images.rename("a", name),
            lambda: images.rename(name, "b"),
        )


def test_all_other_names_are_legal_and_distinct(images: ImageStore) -> None:
    """No reference grammar; and no two names share a record, whatever the file system thinks of them."""
    for name in NAMES:
        images.create(image(name, labels={"size": str(len(name))}))
    for name in NAMES:
        assert images.get(name).name == name
        assert images.get(name).labels == {"size": str(len(name))}


def test_lists_are_in_byte_order(images: ImageStore) -> None:
    """containerd's keys are sorted as bytes; so U+FFFF comes before U+10000."""
    names = [*NAMES, "\U00010000", "\uffff", "a-b", "a.b", "aa"]
    for name in names:
        images.create(image(name))
    ordered = sorted(names, key=str.encode)
    assert images.names() == images.names(on_error=lambda error: pytest.fail(str(error))) == ordered
    assert [i.name for i in images.list()] == ordered


def test_get_of_an_absent_image_is_not_found(images: ImageStore) -> None:
    """Also while others are there, and for a prefix of a name."""
    images.create(image("ab"))
    for name in ("a", "abc", "AB"):
        with pytest.raises(NotFound):
            images.get(name)


def test_an_absent_namespace_reads_as_an_empty_one(store: Store) -> None:
    """Reading creates nothing."""
    images = store.images("nobody")
    assert (images.names(), list(images.list())) == ([], [])
    with pytest.raises(NotFound):
        images.get("a")
    with pytest.raises(NotFound):
        images.delete("a")
    assert list(store.namespaces.list()) == []


def test_namespaces_do_not_see_each_others_images(store: Store) -> None:
    """The key of an image is namespace and name."""
    store.images(NS).create(image("a"))
    store.images(OTHER).create(image("a", b"other"))
    store.images(NS).delete("a")
    assert store.images(OTHER).get("a").target.digest == Digest.of(b"other")
    assert store.images(NS).names() == []


def test_the_first_image_brings_its_namespace_into_being(store: Store) -> None:
    """As in containerd; and it stays when the last one goes."""
    store.images("new").create(image("a"))
    store.images("new").delete("a")
    assert store.namespaces.get("new").name == "new"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a..b", "-a", "a\n", "é", "a" * 77])
def test_a_bad_namespace_is_refused(store: Store, name: str) -> None:
    """It names a directory on disk."""
    with pytest.raises(InvalidArgument):
        store.images(name).create(image("a"))


def test_list_yields_what_matches_one_of_the_filters(images: ImageStore) -> None:
    """Arguments are OR, commas AND; every field of an image can be asked for."""
    for i in range(4):
        images.create(image(f"i{i}", bytes([i]), {"even": str(i % 2 == 0)}, annotations={"n": str(i)}))

    def names(*filters: str) -> list[str]:
        return [i.name for i in images.list(*filters)]

    assert (
        names() == names("") == names("labels.even==True", "labels.even==False") == ["i0", "i1", "i2", "i3"]
    )
    assert names("labels.even==True") == ["i0", "i2"]
    assert names("labels.even==True,name!=i0") == ["i2"]
    assert names("annotations.n==3", "name==i0") == ["i0", "i3"]
    assert names(f"target.digest=={Digest.of(bytes([1]))}") == ["i1"]
    assert names("target.mediatype~=^application/vnd.oci") == ["i0", "i1", "i2", "i3"]
    assert names("created") == []


def test_a_bad_filter_fails_even_where_nothing_could_match(images: ImageStore) -> None:
    """A mistake in a filter must not look like an empty store."""
    with pytest.raises(InvalidArgument, match="filters: parse error"):
        list(images.list("name==a", "name="))


def test_a_listing_may_be_acted_on_while_it_goes_on(images: ImageStore) -> None:
    """Delete what matches: the natural loop."""
    for name in "abc":
        images.create(image(name))
    for each in images.list("name!=b"):
        images.delete(each.name)
    assert images.names() == ["b"]


def test_on_error_is_not_called_while_all_is_well(images: ImageStore) -> None:
    """It is for records that cannot be read."""
    images.create(image("a"))
    errors: list[ImgtoolError] = []
    assert len(list(images.list(on_error=errors.append))) == 1
    assert errors == []


BASE = {"foo": "bar", "baz": "boo"}
NEW = {"foo": "new", "add": "x"}


@pytest.mark.parametrize(
    ("paths", "labels", "annotations", "retargeted"),
    [
        ((), NEW, NEW, True),
        (("labels",), NEW, BASE, False),
        (("annotations",), BASE, NEW, False),
        (("annotations", "labels"), NEW, NEW, False),
        (("labels.foo",), {"foo": "new", "baz": "boo"}, BASE, False),
        (("labels.add", "labels.baz"), {"foo": "bar", "add": "x"}, BASE, False),
        (("annotations.foo",), BASE, {"foo": "new", "baz": "boo"}, False),
        (("annotations.baz",), BASE, {"foo": "bar"}, False),
        (("target",), BASE, NEW, True),
        (("target", "annotations.foo"), BASE, NEW, True),
        (("labels.none",), BASE, BASE, False),
        (("labels.",), BASE, BASE, False),
    ],
)
def test_update_replaces_what_its_paths_name(
    images: ImageStore,
    paths: tuple[str, ...],
    labels: dict[str, str],
    annotations: dict[str, str],
    retargeted: bool,
) -> None:
    """containerd's field paths: a key that the input lacks is removed, and none at all replace everything."""
    old = images.create(image("a", b"old", BASE, annotations=BASE))
    new = image("a", b"newer", NEW, annotations=NEW, media_type="application/new")
    with ticking() as times:
        updated = images.update(new, *paths)
    wanted = new.target if retargeted else old.target
    assert updated == images.get("a")
    assert updated.target == replace(wanted, annotations=annotations)
    assert updated.labels == labels
    assert updated.created == old.created
    assert times[0] <= updated.updated <= times[1]


def test_a_key_is_all_that_follows_the_first_dot(images: ImageStore) -> None:
    """Keys are full of dots and slashes."""
    images.create(image("a", labels={"x.io/a.b": "1", "k": "2"}))
    updated = images.update(image("a", labels={"x.io/a.b": "3"}), "labels.x.io/a.b")
    assert updated.labels == {"x.io/a.b": "3", "k": "2"}


def test_an_empty_value_removes(images: ImageStore) -> None:
    """Which is how `imgtool label NAME k=` works."""
    images.create(image("a", labels=BASE, annotations=BASE))
    updated = images.update(
        image("a", labels={"foo": ""}, annotations={"foo": ""}), "labels.foo", "annotations.foo"
    )
    assert (updated.labels, updated.target.annotations) == ({"baz": "boo"}, {"baz": "boo"})


@pytest.mark.parametrize(
    "path", ["", "name", "target.size", "target.annotations", "Labels", "created", "labels/foo"]
)
def test_any_other_path_is_refused_and_nothing_changes(store: Store, images: ImageStore, path: str) -> None:
    """Not even by the paths before it."""
    images.create(image("a", labels=BASE))
    with unchanged(store), pytest.raises(InvalidArgument):
        images.update(image("a", labels=NEW), "labels", path)


def test_an_update_is_checked_as_a_whole(store: Store, images: ImageStore) -> None:
    """The merged record must be one that create would take; what is not taken does not matter."""
    images.create(image("a", labels=BASE))
    for bad, paths in (
        (image("a", media_type=""), ["target"]),
        (image("a", size=0), []),
        (image("a", labels={"foo": "v" * 4096}), ["labels.foo"]),
    ):
        with unchanged(store), pytest.raises(InvalidArgument):
            images.update(bad, *paths)
    assert images.update(image("a", size=0, labels=NEW), "labels").labels == NEW


def test_update_of_an_absent_image_is_not_found(store: Store, images: ImageStore) -> None:
    """It never creates."""
    images.create(image("a"))
    with unchanged(store), pytest.raises(NotFound):
        images.update(image("b"))


def test_an_update_keeps_what_this_version_does_not_know(images: ImageStore) -> None:
    """An older imgtool must not lose the keys of a newer one."""
    images.create(replace(image("a", unknown={"x": "target"}), unknown={"y": "image"}))
    updated = images.update(image("a", labels=BASE), "labels")
    assert (updated.unknown, updated.target.unknown) == ({"y": "image"}, {"x": "target"})
    assert images.get("a") == updated


def test_update_if_target_compares_before_it_swaps(store: Store, images: ImageStore) -> None:
    """Another client may have moved the tag since it was read."""
    images.create(image("a", b"old"))
    with unchanged(store), pytest.raises(FailedPrecondition):
        images.update(image("a", b"new"), if_target=Digest.of(b"new"))
    assert images.update(image("a", b"new"), if_target=Digest.of(b"old")).target == target(b"new")
    with pytest.raises(NotFound):
        images.update(image("b"), if_target=Digest.of(b"old"))


def test_create_and_update_need_what_they_are_told_to_need(store: Store, images: ImageStore) -> None:
    """So no gc can have taken it; content of another namespace does not count."""
    here, there = add(store, b"here"), add(store, b"there", OTHER)
    images.create(image("a", labels=BASE), needs=[here])
    with unchanged(store):
        for missing in (there, ABSENT):
            with pytest.raises(NotFound):
                images.create(image("b"), needs=[here, missing])
            with pytest.raises(NotFound):
                images.update(image("a", b"new"), needs=[missing])
    assert images.update(image("a", b"new"), needs=iter([here])).target == target(b"new")


def test_what_is_needed_must_be_whole(store: Store, images: ImageStore) -> None:
    """A record without its object is damage, and not the same as no record."""
    digest = add(store, b"here")
    images.create(image("a"))
    with store.removing() as remove:
        remove(Garbage({}, {}, {digest: 4}, []))
    with unchanged(store):
        each_raises(
            DataLoss,
            lambda: images.create(image("b"), needs=[digest]),
            lambda: images.update(image("a", b"new"), needs=[digest]),
        )


def test_refusals_say_what_was_found(store: Store, images: ImageStore) -> None:
    """In the same words, whichever store it is."""
    digest, lost = add(store, b"here"), add(store, b"lost")
    images.create(image("a", b"here"))
    images.create(image("b"))
    images.create(image("labelled", b"here", labels=LABELS))
    with store.removing() as remove:
        remove(Garbage({}, {}, {lost: 4}, []))
    other = f"image 'a' has target {digest}, expected {ABSENT}"
    no_image, no_content = "image 'none' not found", f"content '{ABSENT}' not found in namespace '{NS}'"
    broken = f"object '{lost}' is missing from the store or has another size"
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: images.get("none"), no_image),
        (lambda: images.update(image("none")), no_image),
        (lambda: images.rename("none", "new"), no_image),
        (lambda: images.delete("none"), no_image),
        (lambda: images.update(image("a"), if_target=ABSENT), other),
        (lambda: images.rename("a", "new", if_target=ABSENT), other),
        (lambda: images.rename("none", "a", if_target=ABSENT), other),
        (lambda: images.delete("a", target=ABSENT), other),
        (lambda: images.create(image("new"), needs=[ABSENT]), no_content),
        (lambda: images.update(image("a"), needs=[digest, ABSENT]), no_content),
        (lambda: images.create(image("new"), needs=[lost]), broken),
        (lambda: images.create(image("a")), "image 'a' already exists"),
        (lambda: images.rename("a", "b"), f"image 'b' already exists, with target {Digest.of(b'x')}"),
        (
            lambda: images.rename("a", "labelled"),
            "image 'labelled' already exists, with other labels or annotations",
        ),
    ]
    with unchanged(store):
        for call, message in calls:
            with pytest.raises(ImgtoolError) as refused:
                call()
            assert refused.value.message == message


def test_rename_moves_the_record(images: ImageStore) -> None:
    """Labels, annotations and target come along."""
    old = images.create(image("a", b"old", LABELS, annotations=BASE))
    new = images.rename("a", "b")
    assert images.names() == ["b"]
    assert new == images.get("b")
    assert (new.name, new.target, new.labels) == ("b", old.target, old.labels)


def test_a_repeated_rename_finishes_the_first(images: ImageStore) -> None:
    """A crash between its two changes leaves both names, or it had ended and the answer was lost."""
    images.create(image("a", labels=LABELS))
    there = images.create(image("b", labels=LABELS))
    assert images.rename("a", "b") == there
    assert images.names() == ["b"]
    assert images.rename("a", "b") == there
    assert images.names() == ["b"]


def test_rename_onto_a_twin_with_other_labels_loses_none(store: Store, images: ImageStore) -> None:
    """The labels of the old name would go with it."""
    images.create(image("a", labels=LABELS))
    images.create(image("b"))
    with unchanged(store), pytest.raises(AlreadyExists):
        images.rename("a", "b")


def test_rename_does_not_overwrite_another_image(store: Store, images: ImageStore) -> None:
    """Only the same target counts as created."""
    images.create(image("a"))
    images.create(image("b", b"other"))
    with unchanged(store), pytest.raises(AlreadyExists):
        images.rename("a", "b")


def test_rename_of_nothing_is_not_found(store: Store, images: ImageStore) -> None:
    """Neither name is there."""
    images.create(image("c"))
    with unchanged(store), pytest.raises(NotFound):
        images.rename("a", "b")


def test_rename_if_target_compares_first(store: Store, images: ImageStore) -> None:
    """Also where only the new name is left."""
    images.create(image("a", b"old"))
    with unchanged(store), pytest.raises(FailedPrecondition):
        images.rename("a", "b", if_target=ABSENT)
    images.rename("a", "b", if_target=Digest.of(b"old"))
    with unchanged(store), pytest.raises(FailedPrecondition):
        images.rename("a", "b", if_target=ABSENT)
    assert images.rename("a", "b", if_target=Digest.of(b"old")).name == "b"


def test_rename_to_its_own_name_is_refused(store: Store, images: ImageStore) -> None:
    """Create, then delete would lose the image."""
    images.create(image("a"))
    with unchanged(store), pytest.raises(InvalidArgument):
        images.rename("a", "a")


def test_delete_returns_the_record_and_keeps_the_content(store: Store, images: ImageStore) -> None:
    """The collector takes content, nobody else."""
    digest = add(store, b"x")
    made = images.create(image("a"))
    assert images.delete("a") == made
    assert images.names() == []
    assert store.content(NS).info(digest).size == 1
    with pytest.raises(NotFound):
        images.delete("a")


def test_delete_with_stale_target_keeps_the_image(store: Store, images: ImageStore) -> None:
    """A second client may have moved the tag between our read and our delete."""
    images.create(image("a", b"new"))
    with unchanged(store), pytest.raises(FailedPrecondition):
        images.delete("a", target=Digest.of(b"old"))
    images.delete("a", target=Digest.of(b"new"))
    with pytest.raises(NotFound):
        images.delete("a", target=Digest.of(b"new"))


@pytest.mark.parametrize(
    "changed",
    [{"labels": {"k1": "v2"}}, {"target": target(b"new")}, {"target": target(annotations={"k": "v"})}],
    ids=["labels", "target", "annotations"],
)
def test_delete_of_a_record_that_was_changed_since_it_was_seen_keeps_the_image(
    store: Store, images: ImageStore, elsewhere: Store, changed: dict[str, Any]
) -> None:
    """Who let it go by its labels has not seen these."""
    seen = images.create(image("a", labels=LABELS))
    new = elsewhere.images(NS).update(replace(seen, **changed))
    with unchanged(store), pytest.raises(FailedPrecondition, match="image 'a' has been changed"):
        images.delete("a", seen=seen)
    assert images.delete("a", seen=new) == new
    with pytest.raises(NotFound):
        images.delete("a", seen=new)


def test_delete_unless_a_lease_holds_it(store: Store, images: ImageStore, elsewhere: Store) -> None:
    """A lease that comes before the delete, however late, holds the name; one that is past does not, nor one
    that holds something else of that name, or is of another namespace.
    """
    images.create(image("a"))
    images.create(image("b"))
    leases = elsewhere.leases(NS)
    leases.create(Lease("past", {EXPIRE: "2001-01-01T00:00:00Z"}, {"images": ("a",)}))
    leases.create(Lease("write", {}, {"ingests": ("a",), "images": ("b",)}))
    elsewhere.leases(OTHER).create(Lease("other", {}, {"images": ("a",)}))
    leases.create(Lease("l", {}, {"images": ("b", "a")}))
    with unchanged(store), pytest.raises(FailedPrecondition, match="lease 'l' holds image 'a'"):
        images.delete("a", unless_held=True)
    leases.remove("l", "images", "a")
    images.delete("a", unless_held=True)
    images.delete("b")
    assert images.names() == []


def test_a_deleted_name_can_be_created_again(images: ImageStore) -> None:
    """Nothing of the old record shines through."""
    images.create(image("a", labels=LABELS))
    images.delete("a")
    assert images.create(image("a", b"new")).labels == {}


def test_record_times_follow_source_date_epoch(images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reproducible stores; containerd 2 takes the same time from the request."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = images.create(image("a"))
    assert (made.created, made.updated) == (1_700_000_000_000_000_000,) * 2
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    assert images.update(image("a")).updated == 1_800_000_000_000_000_000


def test_the_targets_are_the_list_in_short(store: Store, images: ImageStore) -> None:
    """In the same order, whatever names are like, with the labels that are for gc and no others."""
    for n, name in enumerate(NAMES[1:]):
        images.create(image(name, b"%d" % n, LABELS if n % 2 else {EXPIRE: "2100-01-01T00:00:00Z", "k": "v"}))
    store.images(OTHER).create(image("elsewhere"))
    listed = list(images.list())
    assert [*images.targets().items()] == [
        (
            i.name,
            Target(i.target.digest, i.target.media_type, {k: v for k, v in i.labels.items() if k == EXPIRE}),
        )
        for i in listed
    ]
    assert listed
    assert store.images("nobody").targets() == {}
