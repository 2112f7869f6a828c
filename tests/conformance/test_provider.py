"""What `stores.Provider` and `stores.Reader` promise, by every store."""

from __future__ import annotations

import pytest

from imgtool.digest import ALGORITHMS, Digest
from imgtool.errors import NotFound
from imgtool.stores import ContentStore, Store

from .things import ABSENT, NS, OTHER, add, begin, read

DATA = bytes(range(256)) * 300


def test_read_returns_the_bytes_in_order(store: Store, content: ContentStore) -> None:
    """Fewer at the end, none past it."""
    with content.reader(add(store, DATA)) as reader:
        assert reader.size == len(DATA)
        assert reader.read(0) == b""
        assert reader.read(5) == DATA[:5]
        assert reader.read(70000) == DATA[5:70005]
        assert reader.read(70000) == DATA[70005:]
        assert reader.read(1) == reader.read() == b""


def test_read_without_a_length_returns_all_that_is_left(store: Store, content: ContentStore) -> None:
    """-1 is the same."""
    digest = add(store, DATA)
    with content.reader(digest) as reader:
        assert reader.read() == DATA
    with content.reader(digest) as reader:
        assert reader.read(7) + reader.read(-1) == DATA


def test_read_at_does_not_move_the_position(store: Store, content: ContentStore) -> None:
    """Two ways to read that do not disturb each other."""
    with content.reader(add(store, DATA)) as reader:
        assert reader.read(3) == DATA[:3]
        assert reader.read_at(10, 100) == DATA[100:110]
        assert reader.read_at(10, len(DATA) - 4) == DATA[-4:]
        assert (
            reader.read_at(10, len(DATA)) == reader.read_at(10, len(DATA) + 9) == reader.read_at(0, 0) == b""
        )
        assert reader.read(3) == DATA[3:6]


def test_empty_content_is_content(store: Store, content: ContentStore) -> None:
    """Some layers are."""
    with content.reader(add(store, b"")) as reader:
        assert (reader.size, reader.read(), reader.read_at(1, 0)) == (0, b"", b"")


def test_two_readers_have_two_positions(store: Store, content: ContentStore) -> None:
    """Export reads what fsck reads."""
    digest = add(store, DATA)
    with content.reader(digest) as one, content.reader(digest) as two:
        assert (one.read(4), two.read(2), one.read(4)) == (DATA[:4], DATA[:2], DATA[4:8])


def test_a_reader_may_be_closed_twice(store: Store, content: ContentStore) -> None:
    """By hand, and by `with`."""
    with content.reader(add(store, DATA)) as reader:
        reader.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_content_is_read_by_its_digest_in_any_algorithm(content: ContentStore, algorithm: str) -> None:
    """A digest names bytes, whoever computed it."""
    digest = Digest.of(DATA, algorithm)
    with content.writer("ref", expected=digest) as writer:
        writer.write(DATA)
        writer.commit(expected=digest)
    assert read(content, digest) == DATA


def test_content_without_a_record_here_is_not_found(store: Store, content: ContentStore) -> None:
    """Whatever other namespaces have, or an ingest has gathered."""
    there = add(store, b"there", OTHER)
    begin(content, "ref", b"unfinished")
    for digest in (ABSENT, there, Digest.of(b"unfinished")):
        with pytest.raises(NotFound):
            content.reader(digest)


def test_deleted_content_is_not_found_but_an_open_reader_goes_on(store: Store, content: ContentStore) -> None:
    """The record goes at once, the bytes at a later gc."""
    digest = add(store, DATA)
    with content.reader(digest) as reader:
        content.delete(digest)
        assert reader.read() == DATA
    with pytest.raises(NotFound):
        content.reader(digest)


def test_delete_in_one_namespace_leaves_the_bytes_to_the_other(store: Store) -> None:
    """They are one copy under two records."""
    digest = add(store, DATA, NS)
    assert add(store, DATA, OTHER) == digest
    store.content(NS).delete(digest)
    assert read(store.content(OTHER), digest) == DATA
