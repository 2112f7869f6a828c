"""Header blocks: what is known by sight must say what unpacking would."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder, HPACKError, OversizedHeaderListError
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.serve.headers import HEADERS_MAX, Unpacker, pack

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/x")]
NAMES = st.sampled_from(["a", "b", "te", "containerd-namespace", "content-type"])
VALUES = st.sampled_from(["", "trailers", "default", "x" * 300, "é"])
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=4)
REQUESTS = st.lists(st.tuples(FIELDS, st.booleans(), st.integers(0, 3)), max_size=12)


@settings(deadline=None)
@given(REQUESTS, st.sampled_from([0, 50, 200, 4096]))
def test_a_block_says_the_same_whether_it_was_seen_before_or_not(
    requests: list[tuple[list[tuple[str, str, bool]], bool, int]], table: int
) -> None:
    """Against the library alone, for clients that fill the table, overflow it, change its size, and repeat
    themselves: `False` among a field's members lets it into the table.
    """
    encoder, alone, unpacker = Encoder(), Decoder(), Unpacker()
    for number, (more, is_packed, times) in enumerate(requests):
        if number == len(requests) // 2:
            encoder.header_table_size = table
        for _ in range(1 + times):
            block = encoder.encode([*REQUEST, *more], huffman=is_packed)
            expected: dict[str, str] = {}
            for name, value in alone.decode(block):
                expected.setdefault(str(name), str(value))
            found = unpacker.unpack(block)
            is_good = all(value == "trailers" for name, value, _ in more if name == "te")
            assert found == (expected if is_good else None)


def test_a_block_is_unpacked_anew_when_the_table_has_changed() -> None:
    """The same bytes name another field then."""
    unpacker = Unpacker()
    newest, one_before = b"\x83\x86\xbe", b"\x83\x86\xbf"
    assert unpacker.unpack(b"\x83\x86\x44\x02/p") == dict(REQUEST, **{":path": "/p"})
    assert unpacker.unpack(newest) == dict(REQUEST, **{":path": "/p"})
    assert unpacker.unpack(b"\x83\x86\x44\x02/q") == dict(REQUEST, **{":path": "/q"})
    assert unpacker.unpack(newest) == dict(REQUEST, **{":path": "/q"})
    assert unpacker.unpack(one_before) == dict(REQUEST, **{":path": "/p"})


def test_a_block_that_is_known_is_not_unpacked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is all that knowing it is for."""
    unpacker = Unpacker()
    unpacker.unpack(b"\x83\x86\x44\x02/p")
    before = unpacker.unpack(b"\x83\x86\xbe")
    monkeypatch.setattr(Decoder, "decode", lambda *_: pytest.fail("unpacked"))
    assert unpacker.unpack(b"\x83\x86\xbe") == before


def test_headers_that_are_too_long_or_damaged_are_refused() -> None:
    with pytest.raises(OversizedHeaderListError):
        Unpacker().unpack(Encoder().encode([*REQUEST, ("x", "y" * HEADERS_MAX)]))
    with pytest.raises(HPACKError):
        Unpacker().unpack(b"\xbe")


def test_what_is_packed_changes_no_table() -> None:
    """So it can be sent again and again, whatever size of table the client allows."""
    decoder = Decoder()
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    block = pack((":status", "200"), ("grpc-status", "5"), ("content-type", "application/grpc"))
    first: list[object] = list(decoder.decode(block))
    assert first == [(":status", "200"), ("grpc-status", "5"), ("content-type", "application/grpc")]
    assert list(decoder.decode(block)) == first
    assert list(Decoder().decode(block + block)) == [*first, *first]
