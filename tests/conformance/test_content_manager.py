"""What `stores.Manager` promises, by every store."""

from __future__ import annotations

import pytest

from imgtool.digest import Digest
from imgtool.errors import ImgtoolError, InvalidArgument, NotFound
from imgtool.model import ContentInfo, Lease, References
from imgtool.names import GC_REF, for_gc
from imgtool.stores import Commit, ContentStore, Store

from .things import ABSENT, NS, OTHER, add, begin, image, ticking, unchanged

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def publish(store: Store, data: bytes, told: References | None = None) -> Digest:
    """Content with what it refers to."""
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(data)
        writer.finish()
        return store.publish(NS, [Commit(writer, references=told)]).content[0].digest


def labelled(digest: Digest, **labels: str) -> ContentInfo:
    return ContentInfo(digest, 0, labels)


def test_info_is_the_record_that_commit_made(store: Store, content: ContentStore) -> None:
    """Digest, size, labels, and both times."""
    with ticking() as times:
        digest = add(store, b"abc", k="v", gone="")
    info = content.info(digest)
    assert (info.digest, info.size, info.labels) == (Digest.of(b"abc"), 3, {"k": "v"})
    assert times[0] <= info.created == info.updated <= times[1]


def test_content_of_another_namespace_or_an_ingest_is_not_found(store: Store, content: ContentStore) -> None:
    """Visibility is the record in this namespace."""
    there = add(store, b"there", OTHER)
    begin(content, "ref", b"unfinished")
    for digest in (there, ABSENT, Digest.of(b"unfinished")):
        with unchanged(store), unchanged(store, OTHER):
            with pytest.raises(NotFound):
                content.info(digest)
            with pytest.raises(NotFound):
                content.update(labelled(digest, k="v"))
            with pytest.raises(NotFound):
                content.delete(digest)


def test_an_absent_namespace_has_no_content(store: Store) -> None:
    """And asking makes none."""
    content = store.content("nobody")
    assert list(content.list()) == []
    for call in (content.info, content.delete):
        with pytest.raises(NotFound):
            call(ABSENT)
    assert list(store.namespaces.list()) == []


def test_labels_and_times_are_a_namespaces_own(store: Store) -> None:
    """Only the bytes are shared."""
    digest = add(store, b"x", NS, k="here")
    add(store, b"x", OTHER, k="there")
    store.content(NS).update(labelled(digest, k="new"))
    assert store.content(OTHER).info(digest).labels == {"k": "there"}
    store.content(NS).delete(digest)
    assert store.content(OTHER).info(digest).size == 1


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        ((), {"k": "new", "m": "x"}),
        (("labels",), {"k": "new", "m": "x"}),
        (("labels.k",), {"k": "new", "x.io/l": "w"}),
        (("labels.x.io/l",), {"k": "v"}),
        (("labels.x.io/l", "labels.m"), {"k": "v", "m": "x"}),
        (("labels.none",), {"k": "v", "x.io/l": "w"}),
        (("labels.none", "labels"), {"k": "new", "m": "x"}),
    ],
)
def test_update_replaces_the_labels_that_its_paths_name(
    store: Store, content: ContentStore, paths: tuple[str, ...], labels: dict[str, str]
) -> None:
    """An empty value removes its label, and so does none at all; no paths replace all labels."""
    old = content.info(add(store, b"abc", **{"k": "v", "x.io/l": "w"}))
    with ticking() as times:
        new = content.update(ContentInfo(old.digest, 99, {"k": "new", "m": "x", "gone": ""}, 5, 7), *paths)
    assert new == content.info(old.digest)
    assert (new.labels, new.size, new.created) == (labels, 3, old.created)
    assert times[0] <= new.updated <= times[1]


@pytest.mark.parametrize("path", ["", "size", "digest", "label.k", "Labels"])
def test_update_by_any_other_path_is_refused(store: Store, content: ContentStore, path: str) -> None:
    """And changes nothing, not even by the paths before it."""
    digest = add(store, b"x", k="v")
    with unchanged(store), pytest.raises(InvalidArgument):
        content.update(labelled(digest, k="w"), "labels", path)


@pytest.mark.parametrize("label", [{"k": "v" * 4096}, {"k" * 4096: "v"}, {"k": "\0"}, {"\udcff": "v"}])
def test_update_to_labels_that_do_not_fit_is_refused(
    store: Store, content: ContentStore, label: dict[str, str]
) -> None:
    """4,096 bytes for key and value, of text."""
    digest = add(store, b"x", k="v")
    with unchanged(store), pytest.raises(InvalidArgument):
        content.update(ContentInfo(digest, 1, label))


def test_labels_of_4096_bytes_fit_and_a_key_may_be_empty(store: Store, content: ContentStore) -> None:
    """Nothing else is asked of a label."""
    labels = {"": "v", "k" * 96: "v" * 4000, "a b\n\x1b": "é"}
    digest = add(store, b"x")
    assert content.update(ContentInfo(digest, 1, labels)).labels == labels
    assert content.info(digest).labels == labels


def test_list_is_in_byte_order_of_digests_and_filtered(store: Store, content: ContentStore) -> None:
    """Fields: digest and labels. Size is none, as in containerd."""
    digests = [add(store, bytes([i]), even=str(i % 2 == 0)) for i in range(8)]
    with content.stage(algorithm="blake3") as writer:
        writer.write(b"b")
        digests.append(writer.commit(labels={"even": "True"}).digest)

    def found(*filters: str) -> list[Digest]:
        errors: list[ImgtoolError] = []
        infos = list(content.list(*filters, on_error=errors.append))
        assert not errors
        assert infos == [content.info(info.digest) for info in infos]
        return [info.digest for info in infos]

    assert found() == found("") == sorted(digests)
    assert found("labels.even==True") == sorted([*digests[:8:2], digests[8]])
    assert found("labels.even==True,digest~=^blake3:") == [digests[8]]
    assert found(f"digest=={digests[1]}", f"digest=={digests[2]}") == sorted(digests[1:3])
    assert found("size==1") == []
    with pytest.raises(InvalidArgument, match="filters"):
        found("digest=x")


def test_the_inventory_is_the_list_in_short(store: Store, content: ContentStore) -> None:
    """It has at least the labels that gc looks for, and what content refers to where that is told."""
    add(store, b"none")
    add(store, b"other", k="v")
    rooted = add(store, b"root", **{"containerd.io/gc.root": "yes"})
    add(store, b"elsewhere", OTHER)
    told = References(MANIFEST, {rooted: LAYER, Digest.of(b"absent"): CONFIG}, Digest.of(b"subject"))
    document, labelled = publish(store, b"document", told), publish(store, b"labelled", told)
    for n, child in enumerate(told.children):
        content.update(ContentInfo(labelled, 0, {f"{GC_REF}.l.{n}": child}), f"labels.{GC_REF}.l.{n}")
    sizes, labels, references = content.inventory()
    assert [*sizes.items()] == [(info.digest, info.size) for info in content.list()]
    assert labels[rooted] == {"containerd.io/gc.root": "yes"}
    assert all(content.info(digest).labels.items() >= of.items() for digest, of in labels.items())
    assert told.referred[:3] == (MANIFEST, f"{rooted} {Digest.of(b'absent')}", (LAYER, CONFIG))
    assert told.referred[3:] == (told.subject, False)
    assert references == {
        document: told.referred,
        labelled: told.referred._replace(labelled=True),
    }


@pytest.mark.parametrize(
    ("labels", "are_left_out"),
    [
        ({f"{GC_REF}.l.0": b"a", f"{GC_REF}/config": b"b"}, True),
        ({GC_REF: b"a", f"{GC_REF}.m": b"b", "k": b"b"}, True),
        ({f"{GC_REF}.0": b"a", f"{GC_REF}.1": b"b", f"{GC_REF}.2": b"a"}, True),
        ({f"{GC_REF}.0": b"a"}, False),
        ({f"{GC_REF}.0": b"a", f"{GC_REF}.1": b"b", f"{GC_REF}.2": b"c"}, False),
        ({f"{GC_REF}.0": b"a", f"{GC_REF}s": b"b"}, False),
        ({f"{GC_REF}.0": b"a", f"{GC_REF}.1": b"b", "containerd.io/gc.root": b"a"}, False),
        ({f"{GC_REF}.0": b"a", "containerd.io/gc.bref.content": b"b"}, False),
        ({"k": b"a", "l": b"b"}, False),
    ],
)
def test_the_inventory_has_labels_that_say_more_than_the_bytes(
    store: Store, content: ContentStore, labels: dict[str, bytes], are_left_out: bool
) -> None:
    """Those that tell of the very same children are left out, and it says so."""
    told = References(MANIFEST, {Digest.of(b"a"): LAYER, Digest.of(b"b"): CONFIG})
    digest = publish(store, b"document", told)
    content.update(ContentInfo(digest, 0, {key: Digest.of(value) for key, value in labels.items()}))
    _, found, references = content.inventory()
    assert references[digest].labelled == are_left_out
    assert for_gc(found.get(digest, {})) == ({} if are_left_out else for_gc(content.info(digest).labels))


def test_what_content_refers_to_is_told_by_who_publishes_it(store: Store, content: ContentStore) -> None:
    """The last who knows: the bytes were read again. Labels come and go beside it."""
    told = References(MANIFEST, {Digest.of(b"child"): LAYER})
    digest = publish(store, b"document")
    assert content.info(digest).references is None
    created = content.info(digest).created
    assert publish(store, b"document", told) == digest
    assert content.info(digest) == content.info(digest)._replace(references=told, created=created)
    content.update(ContentInfo(digest, 0, {"k": "v"}))
    publish(store, b"document", told)
    publish(store, b"document")
    info = content.info(digest)
    assert (info.references, info.labels) == (told, {"k": "v"})
    publish(store, b"document", References(MANIFEST))
    assert content.info(digest).references == References(MANIFEST)


def test_a_listing_may_be_acted_on_while_it_goes_on(store: Store, content: ContentStore) -> None:
    """Delete what matches: the natural loop."""
    digests = [add(store, bytes([i])) for i in range(5)]
    for info in content.list(f"digest!={digests[0]}"):
        content.delete(info.digest)
    assert [info.digest for info in content.list()] == [digests[0]]


def test_delete_does_not_ask_images_or_leases(store: Store, content: ContentStore) -> None:
    """containerd never refuses because something refers to content."""
    digest = add(store, b"x")
    store.images(NS).create(image("a"))
    store.leases(NS).create(Lease("l", {}, {"content": (digest,)}))
    content.delete(digest)
    with pytest.raises(NotFound):
        content.info(digest)
    assert store.images(NS).names() == ["a"]
    with pytest.raises(NotFound):
        content.delete(digest)


def test_content_that_is_written_again_starts_anew(store: Store, content: ContentStore) -> None:
    """Nothing of a deleted record shines through."""
    content.delete(add(store, b"x", k="v"))
    assert content.info(add(store, b"x")).labels == {}


@pytest.mark.parametrize("text", ["", "sha256:abc", "sha256:../../../../etc/passwd", "md5:" + "0" * 32])
def test_what_is_no_digest_is_never_found(store: Store, content: ContentStore, text: str) -> None:
    """Text becomes a path only through Digest.parse; who got round it meets it here."""
    digest = str.__new__(Digest, text)
    for call in (content.info, content.delete, content.reader):
        with unchanged(store), pytest.raises((InvalidArgument, NotFound)):
            call(digest)
