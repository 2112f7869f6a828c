"""The spool: many small things in one file."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from imgtool.errors import ResourceExhausted
from imgtool.ops.spool import KeptReader, Spool


def test_what_was_added_is_there_however_much_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the empty one, also beyond what is kept in memory; and no file shows it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    things = [b"", b"a", bytes(700_000), b"", b"b" * 700_000, b"c"]
    spool = Spool()
    places = [spool.add(thing) for thing in things]
    assert [spool.get(place) for place in reversed(places)] == things[::-1]
    assert spool.get(spool.add(b"later")) == b"later"
    assert list(tmp_path.iterdir()) == []
    spool.close()


def test_a_full_disk_is_told_and_can_be_closed() -> None:
    """The limit on a file's size fails a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    spool = Spool()
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, before[1]))
    try:
        with pytest.raises(ResourceExhausted, match="temporary file"):
            list(map(spool.add, [bytes(1 << 20)] * 8))
        spool.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_reader_of_kept_bytes_knows_how_many_there_were() -> None:
    """Who compares sizes must not take the kept ones for all."""
    with KeptReader(b"abc", 5) as reader:
        assert (reader.size, reader.read(2), reader.read(), reader.read()) == (5, b"ab", b"c", b"")
        assert reader.read_at(2, 1) == b"bc"
    assert KeptReader(b"abc").size == 3
