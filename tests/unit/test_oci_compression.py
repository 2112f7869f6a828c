"""Decompression: what the tools themselves take, and what is refused so that nobody is drowned."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.errors import ImgtoolError, InvalidArgument
from imgtool.oci.compression import (
    BZIP2,
    GZIP,
    HEAD,
    XZ,
    ZSTD,
    FileSource,
    Prefixed,
    Readable,
    detect,
    open_decompressed,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1 << 20
TEXT = b"".join(b"line %d\n" % n for n in range(3000))

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    GZIP: lambda data: gzip.compress(data, mtime=0),
    BZIP2: bz2.compress,
    XZ: lzma.compress,
    ZSTD: lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}
FORMS = tuple(COMPRESS)

fuzz = settings(derandomize=bool(os.environ.get("CI")), deadline=1000)


class Dribble:
    """A source that gives a few bytes at once, as a slow pipe does."""

    def __init__(self, raw: bytes, step: int) -> None:
        self._source = Prefixed(raw)
        self._step = step

    def readinto(self, buffer: memoryview, /) -> int:
        return self._source.readinto(buffer[: self._step])

    def skip(self, count: int, /) -> int:
        return self._source.skip(count)


def drain(source: Readable, step: int = 1 << 16) -> bytes:
    found = io.BytesIO()
    buffer = memoryview(bytearray(step))
    while count := source.readinto(buffer):
        found.write(buffer[:count])
    return found.getvalue()


def decompressed(raw: bytes) -> bytes:
    return drain(open_decompressed(Prefixed(raw)))


def refused(raw: bytes) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        decompressed(raw)
    return caught.value


# --- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@fuzz
@given(
    parts=st.lists(
        st.one_of(st.binary(max_size=300), st.integers(0, 300_000).map(bytes)), min_size=1, max_size=3
    ),
    steps=st.tuples(st.integers(1, 1000), st.integers(1, 100_000)),
)
def test_streams_in_a_row_are_one(form: str, parts: list[bytes], steps: tuple[int, int]) -> None:
    """As pigz, pxz, pbzip2 and pzstd write them; however few bytes come, or are asked for, at once."""
    raw = b"".join(map(COMPRESS[form], parts))
    assert detect(raw[:HEAD]) == form
    assert drain(open_decompressed(Dribble(raw, steps[0])), steps[1]) == b"".join(parts)


@fuzz
@given(raw=st.binary(max_size=300), step=st.integers(1, 20))
def test_what_is_not_compressed_passes_through(raw: bytes, step: int) -> None:
    """Its first bytes too, which have been looked at."""
    if detect(raw[:HEAD]) is None:
        assert drain(open_decompressed(Dribble(raw, step))) == raw


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x1f\x8b",
        b"\x1f\x8b\x07",
        b"BZh9 is the key of it",
        b"BZh01AY&SY",
        b"\xfd7zXZ",
        b"PK\x03\x04",
        b"\x28\xb5",
    ],
)
def test_what_only_looks_compressed_is_not(head: bytes) -> None:
    """A plain file may begin with anything."""
    assert detect(head) is None
    assert decompressed(head) == head


@pytest.mark.parametrize("inner", FORMS)
@pytest.mark.parametrize("outer", FORMS)
def test_one_level_is_undone(outer: str, inner: str) -> None:
    """What is compressed twice swells twice (FAULTS T10)."""
    raw = COMPRESS[inner](TEXT)
    assert decompressed(COMPRESS[outer](raw)) == raw


@pytest.mark.parametrize("form", FORMS)
def test_data_can_be_skipped(form: str) -> None:
    """A tar reader steps over members that nobody wants."""
    source = open_decompressed(Prefixed(COMPRESS[form](TEXT)))
    assert source.skip(1000) == 1000
    buffer = memoryview(bytearray(10))
    assert (source.readinto(buffer), bytes(buffer)) == (10, TEXT[1000:1010])
    assert source.skip(10**9) == len(TEXT) - 1010
    assert source.readinto(buffer) == source.skip(1) == 0


def test_frames_of_zstd_may_be_skippable() -> None:
    """pzstd begins with one; the seekable format ends with one."""
    skippable = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    assert decompressed(skippable + COMPRESS[ZSTD](TEXT) + skippable + COMPRESS[ZSTD](b"x")) == TEXT + b"x"


def test_a_gzip_header_may_have_every_field() -> None:
    """Name, comment, extra field and the header's own checksum."""
    head = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x04\0ab\x00\x00" + b"name\0" + b"comment\0"
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(TEXT) + packer.flush() + zlib.crc32(TEXT).to_bytes(4, "little")
    raw = head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + body + len(TEXT).to_bytes(4, "little")
    assert decompressed(raw) == TEXT


def test_tiny_streams_cost_their_length() -> None:
    """What is left of a block must not be copied for each of the thousands of streams in it."""
    assert decompressed(COMPRESS[GZIP](b"") * 50_000 + COMPRESS[GZIP](b"end")) == b"end"


# --- what lies behind the last stream --------------------------------------------------------------

BEHIND = [
    b"",
    b"\0",
    bytes(4),
    bytes(5),
    bytes(300_000),
    bytes(4) + b"garbage",
    b"garbage",
    b"B",
    b"BZh",
    b"BZh0",
    b"BZh9",
    b"BZh9xxxxxxxxx",
    b"\x1f",
    b"\x1f\x8b",
    b"\xfd7zX",
    b"\x28",
    b"\x28\xb5\x2f\xfd",
    b"PK\x03\x04",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("behind", BEHIND, ids=lambda raw: repr(raw[:16]))
def test_what_lies_behind_is_taken_if_the_tool_takes_it(form: str, behind: bytes) -> None:
    """Without a word: gzip's warning of garbage, with exit status 2, is a refusal here."""
    tool = shutil.which(form)
    if tool is None:
        pytest.skip(f"{form} is not installed")
    raw = COMPRESS[form](TEXT) + behind
    run = subprocess.run([tool, "-dc"], input=raw, capture_output=True)
    if run.returncode == 0:
        assert decompressed(raw) == run.stdout == TEXT
    else:
        assert refused(raw).message.startswith("archive ")


@pytest.mark.parametrize(
    ("form", "behind", "message"),
    [
        (GZIP, b"garbage", "archive cannot be decompressed by gzip: incorrect header check"),
        (GZIP, b"\0\0garbage", "archive has more than padding behind its gzip stream"),
        (XZ, bytes(5), "archive has more than padding behind its xz stream"),
        (
            XZ,
            b"garbage, and more",
            "archive cannot be decompressed by xz: input format not supported by decoder",
        ),
        (BZIP2, b"BZh9xxxxxxxxx", "archive cannot be decompressed by bzip2: invalid data stream"),
        (ZSTD, b"garbage", "archive cannot be decompressed by zstd: unknown frame descriptor"),
    ],
)
def test_what_lies_behind_is_named(form: str, behind: bytes, message: str) -> None:
    """Which of the two, the stream or what follows it, is for the user to look at."""
    assert refused(COMPRESS[form](TEXT) + behind).message == message


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_that_ends_too_soon_is_refused(form: str) -> None:
    """Wherever it ends; the last bytes are only a checksum, and count too."""
    raw = COMPRESS[form](TEXT[:200])
    for end in range(HEAD, len(raw)):
        error = refused(raw[:end])
        assert error.message == f"archive ends within its {form} stream"
        assert error.hint is not None


@pytest.mark.parametrize("form", FORMS)
def test_a_second_stream_that_ends_too_soon_is_refused(form: str) -> None:
    """What came before it was whole."""
    raw = COMPRESS[form](TEXT)
    assert refused(raw + raw[:-1]).message == f"archive ends within its {form} stream"


@pytest.mark.parametrize("form", FORMS)
@settings(fuzz, max_examples=200)
@given(data=st.data())
def test_a_damaged_stream_gives_its_bytes_or_is_refused(form: str, data: st.DataObject) -> None:
    """Each has a checksum; no other bytes and no other error come of it."""
    raw = bytearray(COMPRESS[form](TEXT))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=3)):
        raw[at] ^= data.draw(st.integers(1, 255))
    with suppress(InvalidArgument):
        assert decompressed(bytes(raw)) in (TEXT, raw)


def xz_with_dictionary(code: int, raw: bytes) -> bytes:
    """The xz stream `raw` with another size of dictionary in its header; codes are those of LZMA2."""
    size = (raw[12] + 1) * 4
    block = bytearray(raw[12 : 12 + size])
    assert block[2:4] == b"\x21\x01"  # LZMA2, with one byte of properties
    block[4] = code
    block[-4:] = zlib.crc32(block[:-4]).to_bytes(4, "little")
    return raw[:12] + block + raw[12 + size :]


def test_an_xz_dictionary_is_bounded() -> None:
    """A header of a few bytes may ask for 4 GiB. `xz -9` asks for 64 MiB."""
    raw = COMPRESS[XZ](TEXT)
    assert decompressed(xz_with_dictionary(31, raw)) == TEXT  # 192 MiB
    for code in (32, 40):  # 256 MiB, which with its tables is more than 256; and 4 GiB
        error = refused(xz_with_dictionary(code, raw))
        assert error.message == "archive cannot be decompressed by xz: memory usage limit exceeded"
        assert error.hint == "decompress it with xz first"


def zstd_with_window(log: int) -> bytes:
    """A zstd frame, of one block of "x", with a window of 2^log bytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0, (log - 10) << 3]) + (1 << 3 | 1).to_bytes(3, "little") + b"x"


def test_a_zstd_window_is_bounded() -> None:
    """`zstd --ultra -22` asks for 128 MiB; `zstd --long=31` for 2 GiB, and `zstd -d` refuses that too."""
    assert decompressed(zstd_with_window(27)) == b"x"
    for log in (28, 31, 41):
        error = refused(zstd_with_window(log))
        assert error.message == (
            "archive cannot be decompressed by zstd: frame requires too much memory for decoding"
        )
        assert error.hint == "decompress it with zstd first"


@pytest.mark.parametrize(("form", "module"), [(XZ, "lzma"), (BZIP2, "bz2")])
def test_a_python_without_a_module_says_so(form: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever builds Python without the headers of a library gets one that lacks it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImgtoolError) as caught:
        decompressed(COMPRESS[form](TEXT))
    assert caught.value.message == f"this Python was built without {form}"
    assert caught.value.hint == f"decompress the archive with {form} first"


BOMB = """
import re
from imgtool.oci.compression import FileSource, open_decompressed
print(open_decompressed(FileSource(0, "stdin")).skip(1 << 40))
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def zeros(form: str, size: int) -> bytes:
    """So many zeros, in the form that costs its reader the most."""
    packer: Any
    if form == ZSTD:
        level, log = zstd.CompressionParameter.compression_level, zstd.CompressionParameter.window_log
        packer = zstd.ZstdCompressor(options={level: 1, log: 27})
    elif form == XZ:
        packer = lzma.LZMACompressor(preset=0)
    else:
        packer = bz2.BZ2Compressor() if form == BZIP2 else zlib.compressobj(wbits=31)
    raw = b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()
    return xz_with_dictionary(31, raw) if form == XZ else raw


@pytest.mark.parametrize("form", FORMS)
def test_a_bomb_stays_small_in_memory(form: str) -> None:
    """FAULTS T10: 300 MiB, of which the largest dictionary that is taken has 192."""
    size = 256 * MIB
    raw = zeros(form, size)
    assert len(raw) < size // 500
    run = subprocess.run([sys.executable, "-c", BOMB], input=raw, capture_output=True, check=True)
    total, peak = map(int, run.stdout.split())
    assert total == size
    assert peak < 300 * 1024


# --- files and pipes -------------------------------------------------------------------------------


def test_a_file_is_read_from_where_it_stands(tmp_path: Path) -> None:
    """And stands where the reading has got to: whoever owns it can go on from there."""
    (tmp_path / "x").write_bytes(b"0123456789")
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    try:
        os.lseek(fd, 2, os.SEEK_SET)
        source = FileSource(fd, "x")
        assert source.skip(3) == 3
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5
        assert source.skip(100) == 5
        assert source.skip(1) == 0
        assert drain(source) == b""
    finally:
        os.close(fd)


def test_a_pipe_is_read_and_skipped() -> None:
    """It cannot seek, and gives what it has."""
    reading, writing = os.pipe()
    data = os.urandom(3 * MIB)

    def fill() -> None:
        with open(writing, "wb") as pipe:
            pipe.write(data)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        source = FileSource(reading, "stdin")
        assert source.skip(MIB) == MIB
        assert drain(source) == data[MIB:]
        assert source.skip(1) == 0
    finally:
        os.close(reading)
        thread.join()


def test_an_error_of_the_system_has_the_name_of_the_source(tmp_path: Path) -> None:
    """And is not taken for damage, which has another exit code."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ImgtoolError) as caught:
            open_decompressed(FileSource(fd, "x.tar"))
        assert caught.value.message == "cannot read 'x.tar': is a directory"
        assert not isinstance(caught.value, InvalidArgument)
    finally:
        os.close(fd)


def test_bytes_come_before_what_follows_them() -> None:
    """Who has looked at the head of a stream gives it back so."""
    source = Prefixed(b"head", Prefixed(b"rest"))
    assert source.skip(3) == 3
    buffer = memoryview(bytearray(10))
    assert (source.readinto(buffer), bytes(buffer[:1])) == (1, b"d")
    assert source.skip(2) == 2
    assert drain(source) == b"st"
    assert source.skip(1) == 0


@pytest.mark.parametrize("form", [None, *FORMS])
def test_only_what_is_needed_is_imported(form: str | None) -> None:
    """Most archives are not compressed, and none is in four ways."""
    needs = {GZIP: "zlib", BZIP2: "_bz2", XZ: "_lzma", ZSTD: "zstd"}
    code = (
        "import sys; before = set(sys.modules)\n"
        "from imgtool.oci.compression import Prefixed, open_decompressed\n"
        "source = open_decompressed(Prefixed(sys.stdin.buffer.read()))\n"
        "source.readinto(memoryview(bytearray(9)))\n"
        "print(*set(sys.modules) - before)"
    )
    raw = COMPRESS[form](TEXT) if form else TEXT
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], input=raw, capture_output=True, env=with_path(), check=True
    )
    names = {name.rpartition(".")[2] for name in run.stdout.decode().split()}
    assert names & set(needs.values()) == ({needs[form]} if form else set())


def with_path() -> dict[str, str]:
    """The modules of this process, for one without site-packages, whose start imports what it likes."""
    return {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
