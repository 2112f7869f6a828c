"""The tar reader: what it reads, held against tarfile and GNU tar, and what it refuses."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import threading
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from imgtool.errors import ImgtoolError, InvalidArgument
from imgtool.oci import tar
from imgtool.oci.compression import FileSource, Prefixed, Readable, open_decompressed
from imgtool.oci.tar import Member, TarReader, link_target, normal_name

SHARED = Path(os.environ.get("IMGTOOL_SHARED") or Path(__file__).parents[3] / "shared")
CORPUS = SHARED / "corpus"
GNU_TAR = shutil.which("tar")

MIB = 1 << 20
END = bytes(1024)

fuzz = settings(derandomize=bool(os.environ.get("CI")), deadline=1000)
needs_tar = pytest.mark.skipif(GNU_TAR is None, reason="tar is not installed")


class Read(NamedTuple):
    """A member with its data."""

    name: str
    kind: str
    size: int
    link_name: str
    data: bytes


class Dribble:
    """A source that gives a few bytes at once, as a slow pipe does, and counts how often it is asked."""

    def __init__(self, raw: bytes, step: int) -> None:
        self._source = Prefixed(raw)
        self._step = step
        self.calls = 0

    def readinto(self, buffer: memoryview, /) -> int:
        self.calls += 1
        return self._source.readinto(buffer[: self._step])

    def skip(self, count: int, /) -> int:
        self.calls += 1
        return self._source.skip(count)


class Huge:
    """A source that has `raw`, and behind it as many bytes as anybody asks for."""

    def __init__(self, raw: bytes) -> None:
        self._raw = Prefixed(raw)
        self.skipped = 0

    def readinto(self, buffer: memoryview, /) -> int:
        return self._raw.readinto(buffer) or len(buffer)

    def skip(self, count: int, /) -> int:
        self.skipped += count
        return count


def read(source: Readable | bytes) -> list[Read]:
    reader = TarReader(Prefixed(source) if isinstance(source, bytes) else source)
    return [Read(*member[:4], b"".join(map(bytes, reader.chunks()))) for member in reader]


def refused(raw: bytes) -> str:
    """The message; by then no more than a few MiB were used for it, however large the claims."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgument) as caught:
            read(raw)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    return caught.value.message


def octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def header(
    name: bytes = b"a",
    size: int | bytes = 0,
    type: bytes = b"0",
    *,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
) -> bytes:
    """A header block; a `size` of bytes is put into the field as it is."""
    field = size if isinstance(size, bytes) else octal(size, 12)
    fields = name.ljust(100, b"\0") + b"0000644\0" + octal(0, 8) * 2 + field.ljust(12, b"\0")
    fields += octal(0, 12) + b" " * 8 + type + link.ljust(100, b"\0") + magic.ljust(8, b"\0")
    return seal((fields + bytes(80) + prefix).ljust(512, b"\0"))


def seal(block: bytes) -> bytes:
    """`block` with the checksum that it must have."""
    return block[:148] + b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:])) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: bytes = b"a", data: bytes = b"", type: bytes = b"0", **more: Any) -> bytes:
    return header(name, more.pop("size", len(data)), type, **more) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], type: bytes = b"x") -> bytes:
    return pax_raw(b"".join(record(*r) for r in records), type)


def pax_raw(data: bytes, type: bytes = b"x") -> bytes:
    return member(b"PaxHeaders/a", data, type)


def long(name: bytes, type: bytes = b"L") -> bytes:
    return member(b"././@LongLink", name + b"\0", type, magic=b"ustar  \0")


def base256(number: int) -> bytes:
    mark = 0xFF if number < 0 else 0x80
    return bytes([mark]) + (number % (1 << 88)).to_bytes(11, "big")


# --- what is read ----------------------------------------------------------------------------------


def test_a_member_has_the_offset_of_its_data() -> None:
    """Who has the file as well can read the data from there."""
    raw = member(b"a", b"one") + pax((b"path", b"b")) + member(b"x", b"two") + END
    assert [(m.name, m.offset) for m in TarReader(Prefixed(raw))] == [("a", 512), ("b", 2560)]


@pytest.mark.parametrize("magic", [b"", b"ustar\x0000", b"ustar  \0", b"junk"])
def test_every_magic_is_read(magic: bytes) -> None:
    """v7 has none, and the checksum alone tells that it is a header."""
    assert read(member(b"a", b"one", magic=magic) + END) == [Read("a", tar.FILE, 3, "", b"one")]


def test_the_prefix_counts_for_ustar_only() -> None:
    """GNU keeps times there."""
    names = [read(member(b"a", prefix=b"dir", magic=m) + END)[0].name for m in (b"ustar\x0000", b"ustar  \0")]
    assert names == ["dir/a", "a"]


@pytest.mark.parametrize(
    ("type", "kind"),
    [
        (b"\0", tar.FILE),
        (b"0", tar.FILE),
        (b"7", tar.FILE),
        (b"1", tar.HARD_LINK),
        (b"2", tar.SYMLINK),
        (b"3", tar.DEVICE),
        (b"4", tar.DEVICE),
        (b"5", tar.DIRECTORY),
        (b"6", tar.PIPE),
        (b"V", tar.OTHER),
        (b"Z", tar.OTHER),
    ],
)
def test_a_type_is_a_kind(type: bytes, kind: str) -> None:
    """Only a file can be what an image needs."""
    assert read(member(b"a", type=type, link=b"b") + END) == [Read("a", kind, 0, "b", b"")]


def test_a_member_of_an_unknown_type_has_data() -> None:
    """POSIX has it read like a file; taken for a header it would be a member out of nowhere."""
    raw = member(b"a", member(b"smuggled"), b"Z") + member(b"b") + END
    assert [m.name for m in read(raw)] == ["a", "b"]


@pytest.mark.parametrize("type", [b"\0", b"0"])
def test_a_file_with_a_slash_behind_its_name_is_a_directory(type: bytes) -> None:
    """That is how v7 says directory."""
    assert read(member(b"a/", type=type) + END)[0].kind == tar.DIRECTORY


@pytest.mark.parametrize(
    "field",
    [b"00000000003\0", b"000000000003", b"3 ", b"   3", b"3\0junk", b" 3 \0", base256(3)],
)
def test_a_size_may_be_written_in_many_ways(field: bytes) -> None:
    """Each of them is what some tool writes."""
    assert read(member(b"a", b"one", size=field) + END)[0].data == b"one"


@pytest.mark.parametrize("field", [b"", b" " * 12])
def test_a_blank_size_is_none(field: bytes) -> None:
    """Old tars leave it out for what has no data."""
    assert read(member(size=field) + END)[0].size == 0


def test_a_checksum_of_signed_bytes_fits_too() -> None:
    """Where char is signed, old tars have summed it so."""
    block = header(b"\xe9t\xe9")
    signed = sum(memoryview(block[:148] + b" " * 8 + block[156:]).cast("b"))
    assert read(block[:148] + b"%06o\0 " % signed + block[156:] + END)[0].name == "\udce9t\udce9"


def test_the_largest_size_is_read_to_its_end() -> None:
    """2^63-1 is what a descriptor can state; whoever reads has to count that far."""
    source = Huge(header(size=base256(2**63 - 1)))
    reader = TarReader(source)
    assert next(reader).size == 2**63 - 1
    reader.skip()
    assert source.skipped == 2**63


def test_a_pax_header_overrides() -> None:
    """Path, link and size; everything else is of no interest."""
    records = [(b"path", "ä/\n=".encode()), (b"linkpath", b"l"), (b"size", b"3"), (b"uid", b"x"), (b"c", b"")]
    assert read(pax(*records) + member(b"a", b"one", size=0) + END) == [
        Read("ä/\n=", tar.FILE, 3, "l", b"one")
    ]


def test_the_size_in_a_pax_header_is_the_one_to_skip() -> None:
    """CVE-2025-62518: with the other one, what is in the data would be a member."""
    inner = member(b"smuggled", b"x")
    raw = pax((b"size", b"%d" % len(inner))) + member(b"a", inner, size=0) + member(b"b") + END
    assert [(m.name, m.size) for m in TarReader(Prefixed(raw))] == [("a", 1024), ("b", 0)]


def test_a_pax_header_is_for_one_member_and_for_no_header_between() -> None:
    """Its size is not the length of the GNU name that follows it."""
    raw = pax((b"size", b"3")) + long(b"n" * 200) + member(b"a", b"one", size=0) + member(b"b") + END
    assert [(m.name, m.data) for m in read(raw)] == [("n" * 200, b"one"), ("b", b"")]


def test_an_empty_pax_value_states_nothing() -> None:
    """POSIX: what the member's own header says counts then."""
    assert read(pax((b"path", b""), (b"size", b"")) + member(b"a", b"one") + END)[0].name == "a"


def test_a_global_header_is_passed_over() -> None:
    """`git archive` begins with one."""
    raw = pax((b"comment", b"0" * 40), type=b"g") + member(b"a") + pax((b"mtime", b"1"), type=b"g") + END
    assert [m.name for m in read(raw)] == ["a"]


def test_a_long_name_may_end_with_its_size() -> None:
    """Some tools leave out the NUL that GNU tar has there."""
    for name in (b"n" * 200, b"n" * 512):
        assert (
            read(header(type=b"L", size=len(name)) + padded(name) + member() + END)[0].name == name.decode()
        )


def test_the_same_may_be_stated_twice() -> None:
    """Some tools write the GNU header and the pax header of a long name."""
    name = b"n" * 200
    assert read(long(name) + pax((b"path", name)) + member(b"n" * 100) + END)[0].name == name.decode()


def test_64_extension_headers_are_read() -> None:
    """One more is refused, see below."""
    assert read(long(b"b") * tar.CHAIN_MAX + member(b"a") + END)[0].name == "b"


def test_bytes_that_are_no_utf_8_stay_in_the_name() -> None:
    """They equal no name that a document can state, and two such names stay two."""
    for raw in (member(b"\xff"), pax((b"path", b"\xff")) + member()):
        assert read(raw + END)[0].name == "\udcff"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(member(b"a", b"one"), id="no end"),
        pytest.param(member(b"a", b"one") + bytes(512), id="half an end"),
        pytest.param(member(b"a", b"one") + bytes(100), id="a bit of an end"),
        pytest.param(member(b"a", b"one") + bytes(10240), id="a long end"),
        pytest.param(member(b"a", b"one") + END + member(b"b"), id="another archive behind it"),
        pytest.param(member(b"a", b"one") + END + b"garbage", id="garbage behind it"),
    ],
)
def test_an_archive_may_end_in_many_ways(raw: bytes) -> None:
    """As GNU tar has it: the blocks of zeros may be cut off, and nothing counts behind them."""
    assert [m.name for m in read(raw)] == ["a"]


def test_what_follows_the_end_is_read() -> None:
    """Who writes into a pipe shall not be cut off while it pads its last record."""
    reading, writing = os.pipe()
    thread = threading.Thread(target=fill, args=(writing, member() + bytes(3 * MIB)))
    thread.start()
    try:
        assert len(read(FileSource(reading, "stdin"))) == 1
        assert os.read(reading, 1) == b""
    finally:
        os.close(reading)
        thread.join()


def test_an_archive_of_nothing_but_its_end_has_no_members() -> None:
    """What `tar -cT /dev/null` writes is an archive."""
    assert read(END) == []


def test_after_the_end_there_is_nothing() -> None:
    """tar ignores what stands behind the end; a second archive there must not slip in."""
    reader = TarReader(Prefixed(member() + END + member()))
    assert len(list(reader)) == 1
    assert list(reader) == []


# --- reading a member ------------------------------------------------------------------------------


def test_what_is_not_read_is_skipped() -> None:
    """A reader that lost its place would take data for a header."""
    raw = b"".join(member(b"%d" % n, bytes([n]) * 1000) for n in range(4)) + END
    reader = TarReader(Prefixed(raw))
    assert next(reader).name == "0"
    assert next(reader).name == "1"
    assert reader.readinto(memoryview(bytearray(10))) == 10
    assert next(reader).name == "2"
    reader.skip()
    assert next(reader).name == "3"
    assert reader.read(1000) == b"\x03" * 1000
    assert list(reader) == []


def test_data_ends_where_the_member_ends() -> None:
    """However large the buffer, no byte of the padding or of the next header is in it."""
    reader = TarReader(Prefixed(member(b"a", b"one") + member(b"b") + END))
    next(reader)
    buffer = memoryview(bytearray(4096))
    assert (reader.readinto(buffer), bytes(buffer[:4])) == (3, b"one\0")
    assert reader.readinto(buffer) == 0
    assert list(reader.chunks()) == []
    assert reader.read(0) == b""


def test_a_member_over_the_limit_is_refused_unread() -> None:
    """A document's size is known before its bytes come."""
    reader = TarReader(Prefixed(header(b"index.json", 5000)), "archive 'x.tar'")
    next(reader)
    with pytest.raises(InvalidArgument) as caught:
        reader.read(4999)
    assert caught.value.message == (
        "archive 'x.tar': member 'index.json' at byte 0 has 5000 bytes, at most 4999 are read"
    )


def test_an_error_of_the_source_comes_through(tmp_path: Path) -> None:
    """A disk that cannot be read is no malformed archive."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ImgtoolError, match=r"cannot read 'x\.tar': is a directory") as caught:
            read(FileSource(fd, "x.tar"))
        assert not isinstance(caught.value, InvalidArgument)
    finally:
        os.close(fd)


# --- what is refused: FAULTS T11 -------------------------------------------------------------------

HOSTILE = {
    "base-256 of 2^95": (
        header(size=base256(2**87)),
        "'a' at byte 0 has the size 154742504910672534362390528",
    ),
    "base-256 of 2^63": (
        header(size=base256(2**63)),
        "has the size 9223372036854775808, which is not between",
    ),
    "base-256 of all bits": (header(size=b"\xbf" + b"\xff" * 11), "has the size 1980704062856608439838598"),
    "base-256 below zero": (header(size=base256(-1)), "has the size -1, which is not between 0 and"),
    "base-256 of the least": (header(size=b"\xc0" + bytes(11)), "has the size -"),
    "octal below zero": (header(size=b" -0000000001"), "has the size b' -0000000001', which is no number"),
    "octal with a sign": (header(size=b"+1"), "which is no number"),
    "hexadecimal": (header(size=b"0x10"), "which is no number"),
    "octal behind NUL": (header(size=b"\x003"), "which is no number"),  # 3, 0 or nothing, as the tool has it
    "two octals": (header(size=b"3 5"), "which is no number"),
    "digits of nine": (header(size=b"00000000009"), "which is no number"),
    "underscores": (header(size=b"1_0"), "which is no number"),
    "long name of 2^63": (
        header(type=b"L", size=base256(2**63)),
        "extension header at byte 0 has the size 92",
    ),
    "pax of -1": (header(type=b"x", size=base256(-1)), "extension header at byte 0 has the size -1"),
    "pax size of 2^63": (
        pax((b"size", b"9223372036854775808")) + member(),
        "has the size 9223372036854775808",
    ),
    "pax size below zero": (
        pax((b"size", b"-1")) + member(),
        "'a' at byte 1024 has the size '-1', which is no",
    ),
    "pax size of 5,000 digits": (pax((b"size", b"9" * 5000)) + member(), "…', which is no number"),
    "pax size in Arabic digits": (pax((b"size", "٣".encode())) + member(), "which is no number"),
    "pax size in space": (pax((b"size", b" 3")) + member(), "which is no number"),
    "pax size in hexadecimal": (pax((b"size", b"0x3")) + member(), "which is no number"),
    "pax size other than ustar's": (
        pax((b"size", b"1024")) + member(b"a", member(b"smuggled")[:512]),
        "member 'a' at byte 1024 has the size 512 in one header, 1024 in another",
    ),
    "pax size of none": (
        pax((b"size", b"0")) + member(b"a", b"one"),
        "member 'a' at byte 1024 has the size 3 in one header, 0 in another",
    ),
    "pax of 64 MiB": (
        header(type=b"x", size=64 * MIB),
        "header at byte 0 has 67108864 bytes, at most 1048576",
    ),
    "long name of 64 MiB": (header(type=b"L", size=64 * MIB), "has 67108864 bytes, at most 1048576 are read"),
    "long link of 8 EiB": (header(type=b"K", size=base256(2**63 - 1)), "bytes, at most 1048576 are read"),
    "pax record of no length": (
        pax_raw(b"path=a\n") + member(),
        "header at byte 0 has a malformed record at",
    ),
    "pax record of length 0": (pax_raw(b"0 path=a\n") + member(), "has a malformed record at its byte 0"),
    "pax record too short": (pax_raw(b"8 path=a\n") + member(), "has a malformed record at its byte 0"),
    "pax record within its key": (pax_raw(b"4 path=a\n") + member(), "has a malformed record at its byte 0"),
    "pax record too long": (pax_raw(b"11 path=a\n") + member(), "has a malformed record at its byte 0"),
    "pax record of 5,000 digits": (pax_raw(b"9" * 5000 + b" a=b\n") + member(), "has a malformed record"),
    "pax record padded": (pax_raw(b"012 path=ab\n") + member(), "has a malformed record at its byte 0"),
    "pax record below zero": (pax_raw(b"-10 path=a\n") + member(), "has a malformed record at its byte 0"),
    "pax record without key": (pax_raw(b"5 =a\n") + member(), "has a malformed record at its byte 0"),
    "pax record without value": (pax_raw(b"7 path\n") + member(), "has a malformed record at its byte 0"),
    "pax record without end": (pax_raw(b"10 path=ab") + member(), "has a malformed record at its byte 0"),
    "pax record with NUL in its key": (pax((b"pa\0th", b"a")) + member(), "has a malformed record at its"),
    "second pax record": (pax_raw(record(b"a", b"b") + b"junk") + member(), "malformed record at its byte 6"),
    "pax path with NUL": (pax((b"path", b"a\0b")) + member(), "has a name with NUL"),
    "pax link with NUL": (pax((b"linkpath", b"a\0b")) + member(), "has a name with NUL"),
    "pax path twice": (
        pax((b"path", b"a"), (b"path", b"b")) + member(),
        "extension header at byte 0 states another path than was stated before",
    ),
    "pax size twice": (pax((b"size", b"0"), (b"size", b"00")) + member(), "states another size than was"),
    "two pax headers": (
        pax((b"linkpath", b"a")) + pax((b"linkpath", b"b")) + member(),
        "extension header at byte 1024 states another linkpath than was stated before",
    ),
    "two names": (long(b"a") + pax((b"path", b"b")) + member(), "states another path than was stated before"),
    "two long names": (long(b"a") + long(b"b") + member(), "states another path than was stated before"),
    "a path for all": (
        pax((b"path", b"a"), type=b"g") + member(),
        "at byte 0 states a path for every member",
    ),
    "a size for all": (
        pax((b"size", b"0"), type=b"g") + member(),
        "at byte 0 states a size for every member",
    ),
    "65 long names": (
        long(b"a") * 65 + member(),
        "header at byte 0 begins a chain of more than 64 extension",
    ),
    "5,000 pax headers": (
        pax() * 5000 + member(),
        "header at byte 0 begins a chain of more than 64 extension",
    ),
    "65 global headers": (pax(type=b"g") * 65 + member(), "begins a chain of more than 64 extension headers"),
    "pax header at the end": (
        pax((b"path", b"a")) + END,
        "extension header at byte 0 has no member behind it",
    ),
    "long name cut off": (long(b"a"), "extension header at byte 0 has no member behind it"),
    "long name cut in": (
        long(b"a" * 600)[:700],
        "extension header at byte 0 is cut off: the archive ends at",
    ),
    "long name of none": (long(b"") + member(), "extension header at byte 0 states no whole path"),
    "long name without end": (header(type=b"L", size=9) + b"n" * 512 + member(), "states no whole path"),
    "name of 4,097 bytes": (long(b"a" * 4097) + member(), "has a name of 4097 bytes, at most 4096 are read"),
    "pax path of 4,097 bytes": (pax((b"path", b"a" * 4097)) + member(), "has a name of 4097 bytes, at most"),
    "link of 4,097 bytes": (long(b"a" * 4097, b"K") + member(type=b"2"), "has a name of 4097 bytes, at most"),
    "sparse file": (
        header(type=b"S", size=512),
        "member 'a' at byte 0 is sparse, which image archives are not",
    ),
    "sparse file in pax": (
        pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")) + member(),
        "extension header at byte 0 is of a sparse file, which image archives do not have",
    ),
    "another volume": (header(type=b"M"), "member 'a' at byte 0 is continued from another volume"),
    "header of Solaris": (header(type=b"X"), "member 'a' at byte 0 has an extended header of Solaris"),
    "directory with data": (
        member(data=b"x", type=b"5"),
        "'a' at byte 0 is a directory of 1 bytes, which must",
    ),
    "directory by its slash": (member(b"a/", b"x"), "member 'a/' at byte 0 is a directory of 1 bytes, which"),
    "hard link with data": (member(data=b"x", type=b"1"), "is a hard link of 1 bytes, which must be none"),
    "symbolic link with data": (member(data=b"x", type=b"2"), "is a symbolic link of 1 bytes, which must be"),
    "device with data": (member(data=b"x", type=b"3"), "is a device of 1 bytes, which must be none"),
    "pipe with data": (member(data=b"x", type=b"6"), "is a pipe of 1 bytes, which must be none"),
    "directory with data by pax": (pax((b"size", b"1")) + member(type=b"5"), "is a directory of 1 bytes"),
    "lone block of zeros": (
        member() + bytes(512) + member() + END,
        "block at byte 512 is a lone block of zeros, with more behind it",
    ),
    "header cut off": (member() + header()[:100], "header at byte 512 is cut off after 100 bytes"),
    "data cut off": (member(b"a", b"x" * 9)[:515], "ends at byte 515, with 6 bytes of its data missing"),
    "no data": (
        header(b"a", 9),
        "member 'a' at byte 0 is cut off: the archive ends at byte 512, with 9 bytes",
    ),
    "padding cut off": (member(b"a", b"x")[:600], "ends at byte 600, within the padding of its data"),
    "bad checksum": (
        member() + b"x" + header()[1:],
        "header at byte 512 is damaged: its checksum does not fit",
    ),
    "no checksum": (member() + header()[:148] + bytes(364), "header at byte 512 is damaged: its checksum"),
    "nothing": (b"", "archive is no tar archive: it has 0 bytes"),
    "a bit of nothing": (bytes(511), "archive is no tar archive: it has 511 bytes"),
    "text": (b"hello world\n" * 100, "archive is no tar archive"),
    "zip": (b"PK\x03\x04".ljust(1024, b"\0"), "archive is no tar archive"),
}


@pytest.mark.parametrize(("raw", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_could_harm_or_be_misread_is_refused(raw: bytes, message: str) -> None:
    """In one line that says where."""
    found = refused(raw)
    assert message in found
    assert found.startswith("archive")
    assert "\n" not in found


@pytest.mark.parametrize("skip", [True, False])
def test_a_cut_is_found_whether_data_is_read_or_skipped(skip: bool, tmp_path: Path) -> None:
    """Skipping in a file is a seek, which goes past its end without a word."""
    path = tmp_path / "x.tar"
    path.write_bytes(member(b"a", b"x" * 5000)[:-1000])
    fd = os.open(path, os.O_RDONLY)
    try:
        reader = TarReader(FileSource(fd, "x.tar"))
        next(reader)
        with pytest.raises(InvalidArgument, match="'a' at byte 0 is cut off: the archive ends at byte 4632"):
            reader.skip() if skip else list(reader.chunks())
    finally:
        os.close(fd)


def test_more_than_100_000_members_are_refused() -> None:
    """CVE-2025-8194 and its like: each costs its reader something."""
    reader = TarReader(Prefixed(header() * 100_001))
    with pytest.raises(InvalidArgument, match="member 'a' at byte 51200000 is one more than 100000"):
        for _ in reader:
            pass


def test_names_are_bounded_together() -> None:
    """A caller keeps them, and 100,000 of 4,096 bytes would be 400 MiB."""
    reader = TarReader(Prefixed((pax((b"path", b"a" * 4096)) + member()) * 4097))
    with pytest.raises(InvalidArgument, match="brings all names together over 16777216 bytes"):
        for _ in reader:
            pass


def test_extension_headers_are_bounded_together() -> None:
    """Each is small enough, and all of them are as much work as anybody likes."""
    reader = TarReader(Prefixed((pax((b"comment", b"a" * (MIB - 100))) + member()) * 65))
    with pytest.raises(InvalidArgument, match=r"header at byte 67\d{6} brings all of them together over 671"):
        for _ in reader:
            pass


def test_headers_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty ones too, of which a compressed archive holds millions in a few KiB."""
    monkeypatch.setattr(tar, "HEADERS_MAX", 1000)
    reader = TarReader(Prefixed((pax() * 50 + member()) * 20))
    with pytest.raises(InvalidArgument, match="header at byte 512000 is one more than 1000"):
        for _ in reader:
            pass


# --- against tarfile and GNU tar -------------------------------------------------------------------

TYPES = {
    tarfile.REGTYPE: tar.FILE,
    tarfile.AREGTYPE: tar.FILE,
    tarfile.CONTTYPE: tar.FILE,
    tarfile.LNKTYPE: tar.HARD_LINK,
    tarfile.SYMTYPE: tar.SYMLINK,
    tarfile.DIRTYPE: tar.DIRECTORY,
    tarfile.CHRTYPE: tar.DEVICE,
    tarfile.BLKTYPE: tar.DEVICE,
    tarfile.FIFOTYPE: tar.PIPE,
}
LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)

NAMES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60),
    st.lists(st.text("aä/.\\\n ", min_size=1, max_size=90), min_size=1, max_size=4).map("/".join),
    st.binary(min_size=1, max_size=120).map(
        lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")
    ),
).filter(lambda name: name.strip("/") != "")


@st.composite
def archives(draw: st.DrawFn, format: int) -> bytes:
    """What tarfile writes of any members in `format`."""
    target = io.BytesIO()
    headers = draw(st.dictionaries(st.sampled_from(["comment", "mtime", "uname"]), st.just("1"), max_size=2))
    with tarfile.open(fileobj=target, mode="w", format=format, pax_headers=headers) as archive:
        for name in draw(st.lists(NAMES, min_size=1, max_size=5)):
            info = tarfile.TarInfo(name)
            info.type = draw(st.sampled_from(list(TYPES)))
            info.mtime = draw(st.integers(0, 2**40))
            info.linkname = draw(NAMES) if info.type in LINKS else ""
            data = b""
            if info.isreg() and not name.endswith("/"):
                data = draw(st.binary(max_size=1200))
                info.size = len(data)
            try:
                archive.addfile(info, io.BytesIO(data))
            except ValueError:  # the format cannot hold the name
                assume(False)
    return target.getvalue()


def by_tarfile(raw: bytes) -> list[Read]:
    found = []
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for info in archive:
            file = archive.extractfile(info) if info.isreg() else None
            data = file.read() if file else b""
            kind = TYPES.get(info.type, tar.OTHER)
            found.append(Read(info.name, kind, info.size, info.linkname, data))
    return found


def without_slash(found: Read) -> Read:
    """Tarfile takes the slashes from the ends of some names."""
    return found._replace(name=found.name.rstrip("/"))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@fuzz
@given(data=st.data(), step=st.integers(1, 2000))
def test_members_are_those_that_tarfile_reads(format: int, data: st.DataObject, step: int) -> None:
    """Whatever the names and sizes, and however few bytes come at once."""
    raw = data.draw(archives(format))
    for mine, theirs in zip(read(Dribble(raw, step)), by_tarfile(raw), strict=True):
        if mine.kind == tar.DIRECTORY and theirs.kind == tar.FILE:  # tarfile knows the slash of v7 only
            theirs = theirs._replace(kind=tar.DIRECTORY)
        assert without_slash(mine) == without_slash(theirs)


@needs_tar
@pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_an_archive_of_gnu_tar_is_read_in_every_format(format: str, tmp_path: Path) -> None:
    """Long names, odd bytes, links and a hole that is no sparse member unless asked for."""
    (tmp_path / "empty").touch()
    (tmp_path / "512").write_bytes(b"x" * 512)
    (tmp_path / "513").write_bytes(b"y" * 513)
    (tmp_path / ("n" * 90)).write_bytes(b"z")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "ä\n").write_bytes(os.urandom(100_000))
    with open(os.fsencode(tmp_path) + b"/\xff", "wb") as file:
        file.truncate(70_000)
    (tmp_path / "symlink").symlink_to("../dir/512")
    (tmp_path / "zz-hard").hardlink_to(tmp_path / "512")
    if format != "v7":
        os.mkfifo(tmp_path / "fifo")
    if format not in ("v7", "ustar"):
        (tmp_path / ("l" * 120)).write_bytes(b"long")
        (tmp_path / "long-link").symlink_to("m" * 300)
    command = [str(GNU_TAR), "-c", "--sort=name", f"--format={format}", "-C", str(tmp_path), "-f", "-", "."]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found = {os.path.normpath(m.name): m for m in read(run.stdout)}
    paths = {os.path.relpath(p, tmp_path): p for p in (tmp_path, *tmp_path.rglob("*"))}
    assert found.keys() == paths.keys()
    assert found["zz-hard"][1:4] == (tar.HARD_LINK, 0, "./512")
    for name, path in paths.items():
        if path.is_symlink():
            assert found[name][1:4] == (tar.SYMLINK, 0, os.readlink(path))
        elif path.is_dir():
            assert found[name].kind == tar.DIRECTORY
        elif path.is_file() and name != "zz-hard":
            assert (found[name].kind, found[name].data) == (tar.FILE, path.read_bytes())


@needs_tar
@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_a_sparse_file_of_gnu_tar_is_refused_in_clear_words(format: str, tmp_path: Path) -> None:
    """Its data is not the file's."""
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", MIB)
    command = [str(GNU_TAR), "-cS", f"--format={format}", "-C", str(tmp_path), "-f", "-", "hole"]
    raw = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    assert "sparse" in refused(raw)


@needs_tar
@settings(fuzz, max_examples=30, deadline=None)
@given(data=st.data(), format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_names_are_those_that_gnu_tar_lists(data: st.DataObject, format: int) -> None:
    """Two readers that agree on names and places cannot be told two stories."""
    raw = data.draw(archives(format))
    assert gnu_tar_lists(raw) == (0, [as_gnu(m.name, m.kind) for m in read(raw)])


def gnu_tar_lists(raw: bytes) -> tuple[int, list[bytes]]:
    """Its exit status and the names that it shows."""
    command = [str(GNU_TAR), "-t", "--quoting-style=escape", "-f", "-"]
    run = subprocess.run(command, input=raw, capture_output=True, env={"LC_ALL": "C"})
    return run.returncode, run.stdout.split(b"\n")[:-1]


def as_gnu(name: str, kind: str) -> bytes:
    """`name` as GNU tar shows it: escaped; a directory ends with a slash."""
    raw = os.fsencode(name)
    if kind == tar.DIRECTORY and not raw.endswith(b"/"):
        raw += b"/"
    shown = raw.decode("latin-1").replace("\\", "\\\\")
    escapes = dict(
        zip("\a\b\f\n\r\t\v\x7f", ["\\a", "\\b", "\\f", "\\n", "\\r", "\\t", "\\v", "\\177"], strict=True)
    )
    return "".join(escapes.get(c) or (c if " " <= c < "\x7f" else f"\\{ord(c):03o}") for c in shown).encode()


def corpus() -> list[Any]:
    """One test for each archive; without the corpus one that is skipped in plain sight."""
    absent = pytest.param(None, id="corpus", marks=pytest.mark.skip(reason=f"{CORPUS} is absent"))
    paths = sorted((*CORPUS.glob("*.tar"), *CORPUS.glob("*.tgz")))
    return [pytest.param(path, id=path.name) for path in paths] or [absent]


@pytest.mark.parametrize("path", corpus())
def test_an_archive_of_the_corpus_is_read_as_tarfile_reads_it(path: Path) -> None:
    """Real ones: docker, podman, jib, bazel, umoci, skopeo."""
    with open(path, "rb") as file:
        source = open_decompressed(FileSource(file.fileno(), path.name))
        buffer = memoryview(bytearray(MIB))
        raw = b"".join(bytes(buffer[:n]) for n in iter(lambda: source.readinto(buffer), 0))
        file.seek(0)
        found = read(open_decompressed(FileSource(file.fileno(), path.name)))
    assert found
    assert list(map(without_slash, found)) == by_tarfile(raw)


# --- fuzz ------------------------------------------------------------------------------------------

SEEDS = [
    member(b"a", b"one") + member(b"b", b"x" * 600) + END,
    pax((b"path", b"p" * 120), (b"size", b"600"), (b"mtime", b"1"))
    + member(b"a", b"x" * 600)
    + member(b"b")
    + END,
    long(b"n" * 200)
    + long(b"l" * 200, b"K")
    + member(b"a", type=b"2", magic=b"ustar  \0")
    + member(b"b")
    + END,
    member(b"a", b"x" * 600, size=base256(600), prefix=b"dir")
    + pax(type=b"g")
    + member(b"b", type=b"5")
    + END,
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An archive with bytes changed; its headers mostly keep a checksum that fits, to get at what follows."""
    raw = bytearray(draw(st.sampled_from(SEEDS)))
    interesting = st.sampled_from([0, 124, 135, 156, 157, 257, 345, 482])
    for _ in range(draw(st.integers(1, 6))):
        block = draw(st.integers(0, len(raw) // 512 - 1)) * 512
        at = block + draw(st.one_of(interesting, st.integers(0, 511)))
        new = draw(
            st.one_of(
                st.sampled_from([b"\0", b"\x80", b"\xff", b"L", b"x", b"g", b"9"]), st.binary(max_size=12)
            )
        )
        raw[at : at + len(new)] = new
        if draw(st.integers(0, 9)):
            whole = len(raw) - len(raw) % 512
            raw[block : block + 512] = seal(bytes(raw[block : min(block + 512, whole)]).ljust(512, b"\0"))
    return bytes(raw[: draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))])


@settings(fuzz, max_examples=1000)
@given(raw=mutated())
def test_a_mutated_archive_is_read_or_refused(raw: bytes) -> None:
    """Nothing but InvalidArgument, in no more steps than the archive has blocks, and in little memory."""
    source = Dribble(raw, 4096)
    tracemalloc.start()
    try:
        with suppress(InvalidArgument):
            for found in read(source):
                assert 0 <= found.size == len(found.data) <= len(raw)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert source.calls <= 8 + len(raw) // 100
    assert peak < 2 * MIB


@needs_tar
@settings(fuzz, max_examples=200, deadline=None)
@given(raw=mutated())
def test_a_mutated_archive_that_gnu_tar_takes_too_has_the_same_members(raw: bytes) -> None:
    """What is read in two ways hides something from one of the readers; it is to be refused instead."""
    try:
        found = [as_gnu(m.name, m.kind).rstrip(b"/") for m in read(raw)]
    except InvalidArgument:
        return
    status, listed = gnu_tar_lists(raw)
    if status == 0 and b"" not in found:  # which GNU tar calls '.'
        assert [name.rstrip(b"/") for name in listed] == found


@fuzz
@given(raw=st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """Without a header that fits, nothing is a member."""
    with suppress(InvalidArgument):
        assert read(raw) == []


# --- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("index.json", "index.json"),
        ("./index.json", "index.json"),
        (".//blobs/./sha256//a", "blobs/sha256/a"),
        ("blobs/", "blobs"),
        ("./", "."),
        (".", "."),
        ("...", "..."),
        ("..a/b..", "..a/b.."),
        ("a\nb\0\udcff", "a\nb\0\udcff"),
        ("", None),
        ("/", None),
        ("/index.json", None),
        ("//index.json", None),
        ("..", None),
        ("../index.json", None),
        ("./../index.json", None),
        ("a/../index.json", None),
        ("a/..", None),
        ("blobs\\sha256", None),
        ("..\\index.json", None),
    ],
)
def test_a_name_is_a_key(raw: str, normal: str | None) -> None:
    """FAULTS T1: what could lead out of a directory is no key at all."""
    assert normal_name(raw) == normal


@given(raw=st.text("a./\\", max_size=12))
def test_a_normal_name_is_its_own(raw: str) -> None:
    """So one member cannot be found under two keys."""
    normal = normal_name(raw)
    if normal is not None:
        assert normal_name(normal) == normal
        assert normal == os.path.normpath(raw)


@pytest.mark.parametrize(
    ("name", "kind", "link", "target"),
    [
        ("b/layer.tar", tar.SYMLINK, "../a/layer.tar", "a/layer.tar"),
        ("./b/layer.tar", tar.SYMLINK, "./x/../layer.tar", "b/layer.tar"),
        ("layer.tar", tar.SYMLINK, "a.tar", "a.tar"),
        ("a/b", tar.SYMLINK, "..", "."),
        ("b/layer.tar", tar.SYMLINK, "../../a", None),
        ("layer.tar", tar.SYMLINK, "..", None),
        ("layer.tar", tar.SYMLINK, "/etc/passwd", None),
        ("layer.tar", tar.SYMLINK, "", None),
        ("a", tar.SYMLINK, "..\\b", None),
        ("../a", tar.SYMLINK, "b", None),
        ("b/layer.tar", tar.HARD_LINK, "a/layer.tar", "a/layer.tar"),
        ("b/layer.tar", tar.HARD_LINK, "./a", "a"),
        ("b/layer.tar", tar.HARD_LINK, "../a", None),
        ("b/layer.tar", tar.HARD_LINK, "/a", None),
    ],
)
def test_a_link_points_to_a_key_or_nowhere(name: str, kind: str, link: str, target: str | None) -> None:
    """FAULTS T2: it is looked up among the members, and never followed."""
    assert link_target(Member(name, kind, 0, link, 0)) == target


# --- from a pipe -----------------------------------------------------------------------------------


def fill(fd: int, raw: bytes) -> None:
    with open(fd, "wb") as pipe:
        pipe.write(raw)


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    """One pass forward: nothing is sought, and every byte comes through."""
    raw = b"".join(member(b"%d" % n, os.urandom(n)) for n in (0, 1, 511, 512, 513, 70_000, 3 * MIB)) + END
    reading, writing = os.pipe()
    thread = threading.Thread(target=fill, args=(writing, raw))
    thread.start()
    try:
        found = read(FileSource(reading, "stdin"))
    finally:
        os.close(reading)
        thread.join()
    assert found == by_tarfile(raw)


def test_chunks_are_full_whatever_comes_at_once() -> None:
    """A consumer writes and hashes each; many small ones would cost it more than reading does."""
    reader = TarReader(Dribble(member(b"a", bytes(2 * MIB + 5)), 60_000))
    next(reader)
    assert [len(chunk) for chunk in reader.chunks()] == [MIB, MIB, 5]
