"""Records as bytes: `imgtool.disk.codec`. What once went wrong with seals is in test_disk_defects."""

from __future__ import annotations

import time
import tomllib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgtool.disk import codec
from imgtool.errors import DataLoss, InvalidArgument

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
KEYS = st.one_of(st.sampled_from(["name", "a", "b", "a.b", "", "gc.ref/x", "\u2028"]), TEXT)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
PLAIN = st.one_of(TEXT, NUMBERS)
VALUES = st.recursive(
    st.one_of(PLAIN, st.booleans(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
RECORDS = st.dictionaries(KEYS, st.one_of(VALUES, st.dictionaries(KEYS, PLAIN, max_size=4)), max_size=6)

# Lines and parts of lines from which records that are almost canonical are made.
LINES = st.one_of(
    st.sampled_from(
        [
            'name = "x"',
            "size = 7",
            "size = 007",
            "size = 9223372036854775807",
            "size = 99999999999999999999",
            "size = -1",
            '"k.k" = "v"',
            'k.k = "v"',
            "[target]",
            "[target.platform]",
            "[labels]",
            "[[labels]]",
            "[a.b.c]",
            "[ labels ]",
            "# a comment",
            'name="x"',
            "name = 'x'",
            'name = "x" # y',
            'name = "a\\tb"',
            'name = "a\tb"',
            'name = "a\x7fb"',
            'name = "a\x85b\u2028c"',
            'name = "',
            '"" = "empty"',
            "",
            " ",
            'name = "x"\r',
            "\ufeff",
            "size = 1_000",
            "t = 2001-01-01",
        ]
    ),
    st.builds('{} = "{}"'.format, KEYS, TEXT),
    st.builds("[{}]".format, KEYS),
)


@given(st.lists(LINES, max_size=8).map("\n".join))
@example('[a]\nb = "x"\n[a.b]')
@example('a = "x"\n[a]')
@example("[a.b]\n[a]")
@example('[a]\n[a.b]\n[a]\nc = "d"')
def test_the_parser_of_canonical_records_reads_what_tomllib_reads(text: str) -> None:
    """It is there to be fast. What it is not sure of it leaves to tomllib."""
    found = codec._canonical(text)
    if found is not None:
        assert found == tomllib.loads(text)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.one_of(st.integers(0, 9), TEXT)))
def test_the_parser_of_canonical_records_reads_plain_records(record: dict[str, Any]) -> None:
    """Else it would be of no use: a listing of thousands of images is read by it."""
    body = codec.dump(record, "r")[: -codec._SEAL_LENGTH].decode()
    assert (codec._canonical(body) == record) or "\\" in body or "\t" in body


@given(RECORDS)
def test_every_record_that_is_written_is_read_back(record: dict[str, Any]) -> None:
    """And once more written it has the same bytes: there is one form."""
    try:
        data = codec.dump(record, "record")
    except InvalidArgument:
        return
    assert codec.is_sealed(data)
    found = codec.load(data, "record")
    assert found == record
    assert codec.dump(found, "record") == data


@given(TEXT)
def test_nothing_that_a_terminal_acts_on_stands_raw_in_a_record(text: str) -> None:
    """T9, T15: a record is made to be read with cat, whatever a label of a stranger holds."""
    data = codec.dump({"name": text, text + "k": "v", "t": {text: text}, "l": [text]}, "record")
    assert not [char for char in data.decode() if acts(char) and char not in "\n\t"]


def acts(char: str) -> bool:
    """C0, DEL, C1, separators of lines and paragraphs, byte order marks, turns of the writing direction."""
    code = ord(char)
    return (
        code < 0x20
        or 0x7F <= code <= 0x9F
        or code in (0x2028, 0x2029, 0xFEFF)
        or 0x202A <= code <= 0x202E
        or 0x2066 <= code <= 0x2069
    )


def test_c1_line_separators_and_turns_of_direction_are_escaped() -> None:
    """By example: they are the ones that TOML itself lets stand."""
    data = codec.dump({"k": "\x9b31m\u2028\u202eexe.\u2066\ufeff\x7f\x1b"}, "record")
    assert data.startswith(rb'k = "\u009B31m\u2028\u202Eexe.\u2066\uFEFF\u007f\u001b"' + b"\n")


def test_text_that_is_not_utf_8_is_refused_by_the_writer() -> None:
    """A lone surrogate comes from a JSON escape or a file name."""
    for record in ({"k": "\udc80"}, {"\udc80": "v"}, {"t": {"k": ["\ud800"]}}):
        with pytest.raises(InvalidArgument, match="valid UTF-8"):
            codec.dump(record, "image 'x'")


def test_the_writer_refuses_what_is_too_large_for_the_reader() -> None:
    """At the same size, to the byte."""
    largest = codec.RECORD_MAX - len(codec.dump({"k": ""}, "record"))
    data = codec.dump({"k": "x" * largest}, "record")
    assert codec.load(data, "record") == {"k": "x" * largest}
    with pytest.raises(InvalidArgument, match="at most 1048576 fit"):
        codec.dump({"k": "x" * (largest + 1)}, "record")
    with pytest.raises(DataLoss, match="at most 1048576 are read"):
        codec.load(data + b"\n", "record")


def test_a_wrong_seal_is_damage_and_the_hint_tells_the_way_out() -> None:
    """Either it rotted, or somebody edited it and may say so by taking the seal away."""
    data = codec.dump({"k": "good"}, "record")
    edited = data.replace(b"good", b"evil")
    with pytest.raises(DataLoss, match="does not fit its seal") as caught:
        codec.load(edited, "record")
    assert caught.value.hint is not None
    assert "delete its last line" in caught.value.hint
    assert codec.load(edited[: -codec._SEAL_LENGTH], "record") == {"k": "evil"}


def test_a_record_without_a_seal_is_read() -> None:
    """A second program, or a person, may write one. Only fsck mentions it."""
    assert not codec.is_sealed(b'k = "v"\n')
    assert codec.load(b'k = "v"\n', "record") == {"k": "v"}
    assert codec.load(b"", "record") == {}


def test_the_seal_is_what_sha256sum_says_of_the_lines_before_it() -> None:
    """So that anybody can check it, and make it."""
    import hashlib

    *lines, seal = codec.dump({"k": "v"}, "record").splitlines(keepends=True)
    assert seal == b"# sha256:" + hashlib.sha256(b"".join(lines)).hexdigest().encode() + b"\n"


K16 = b".".join([b"k"] * 16_000)
MANY = codec.RECORD_MAX // 16


@pytest.mark.parametrize(
    "data",
    [
        K16 + b" = 1\n",
        b"[" + K16 + b"]\n",
        b"a = {" + K16 + b" = 1}\n",
        b'a = ["""\nx""", {' + K16 + b' = 1}, """y"""]\n',
        b'a = ["""\n", {' + K16 + b' = 1}, "\n"""]\n',
        b"a = ['''\n', {" + K16 + b" = 1}, '\n''']\n",
        b'a = "' + rb"\"" * (MANY * 8 - 10),
        b"a = '" + b"'\"" * (MANY * 8 - 10),
        b"a = " + b"[" * 100_000,
        b"a = " + b"[\n" * 100_000,
        b"a = " + b"{a = " * 100_000,
        b"".join(b"[a%d.b.c.d.e.f.g.h.i.j.k.l.m.n.o]\n" % i for i in range(20_000)),
        b"a = " + b"1" * 5000 + b"\n",
        b"a = 1" + b"_1" * 100_000 + b"\n",
        b"\xff\xfe\n",
        b"\xef\xbb\xbfk = 1\n",
        b"\0\n",
        b"k = 1\nk = 2\n",
        b"k = 1\n[k]\n",
        b"[t]\n[t]\n",
        b"# \xc2",
    ],
    ids=range(21),
)
def test_a_hostile_record_is_refused_within_a_second(data: bytes) -> None:
    """T9: tomllib takes minutes for some, and falls out of its stack for others."""
    begin = time.process_time()
    with pytest.raises(DataLoss, match="record 'record'"):
        codec.load(data, "record")
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("bad", [b".", b"["], ids=["dots", "brackets"])
def test_what_looks_deep_only_inside_a_string_is_read(bad: bytes) -> None:
    """Names, digests and JSON in annotations are full of dots and brackets."""
    text = (bad * 1000).decode()
    record = {text: text, "t": {text + "\"'": "'''" + text}, "l": [text, '"""' + text]}
    assert codec.load(codec.dump(record, "record"), "record") == record
    assert codec.load(b"k = '" + bad * 1000 + b"'\n", "record") == {"k": text}


@settings(deadline=1000)
@given(st.one_of(st.binary(max_size=300), st.lists(LINES).map("\n".join).map(str.encode)))
def test_any_bytes_are_a_record_or_data_loss(data: bytes) -> None:
    """T9: no other exception reaches the user."""
    try:
        found = codec.load(data, "record")
    except DataLoss:
        return
    assert isinstance(found, dict)


@settings(deadline=1000)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.one_of(st.none(), st.text(max_size=5), st.integers(), st.floats(), st.binary(max_size=3)),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=3), inner)),
        ),
        max_size=3,
    )
)
def test_any_record_is_written_or_refused(record: dict[str, Any]) -> None:
    """Unknown fields come from an index of a stranger."""
    with suppress(InvalidArgument):
        codec.load(codec.dump(record, "record"), "record")
