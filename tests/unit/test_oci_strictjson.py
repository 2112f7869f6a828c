"""The strict JSON loader: every limit from both sides."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgtool.errors import InvalidArgument
from imgtool.oci.strictjson import DEPTH, LIMIT, load, load_object

fuzz = settings(derandomize=bool(os.environ.get("CI")), deadline=1000)


def refused(raw: bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        load(raw, "index.json")
    return caught.value.message


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "index.json is not JSON: expecting value at line 1 column 1"),
        (b'{"a": 1,}', "index.json is not JSON: "),
        (b"{} {}", "index.json is not JSON: extra data at line 1 column 4"),
        (b'{"a":1}\0', "index.json is not JSON: extra data"),
        (b'"\n"', "index.json is not JSON: invalid control character"),
        (b'{"a": 1, "b": 2, "a": 1}', "index.json has the key 'a' twice in one object"),
        (b'[{"x": {"a": 1, "a": 2}}]', "index.json has the key 'a' twice in one object"),
        (b'{"a": 1, "\\u0061": 2}', "index.json has the key 'a' twice in one object"),
        (b"NaN", "index.json has NaN, which is no JSON number"),
        (b"[-Infinity]", "index.json has -Infinity, which is no JSON number"),
        (b"[1e999]", "index.json has the number 1e999, which does not fit a double"),
        (
            b"18446744073709551616",
            "index.json has the number 18446744073709551616, which does not fit 64 bits",
        ),
        (
            b"-9223372036854775809",
            "index.json has the number -9223372036854775809, which does not fit 64 bits",
        ),
        (b"1" * 5000, "index.json has the number 111111111111111111111111… (5000 characters), which"),
        (b"0." + b"1" * 5000, "index.json has the number 0.1111111111111111111111… (5002 characters), which"),
        (b'"\\ud800"', "index.json has the lone surrogate \\ud800"),
        (b'{"\\udc00x": 1}', "index.json has the lone surrogate \\udc00"),
        (b'{"a": ["\xc3\xa9", "\\udfff"]}', "index.json has the lone surrogate \\udfff"),
        (b"\xef\xbb\xbf{}", "index.json begins with a byte order mark"),
        ("{}".encode("utf-16"), "index.json is not UTF-8: byte 0xff at 0"),
        (b'{"a": "\xed\xa0\x80"}', "index.json is not UTF-8: byte 0xed at 7"),
        (nested(DEPTH + 1), "index.json is nested deeper than 64"),
        (nested(DEPTH)[:DEPTH] + b'{"a":1}' + b"]" * DEPTH, "index.json is nested deeper than 64"),
        (nested(100_000), "index.json is nested deeper than 64"),
        (b'{"a":' * 50_000, "index.json is n"),
        (b" " * LIMIT + b"1", f"index.json has {LIMIT + 1} bytes, at most {LIMIT} are read"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(raw: bytes, message: str) -> None:
    """The message says what was found, and in which document."""
    assert refused(raw).startswith(message)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": [1, -2.5e3, true, false, null, "\\ud83d\\ude00", "\xc3\xa9"]}',
        b"18446744073709551615",
        b"-9223372036854775808",
        b' \t\r\n{"a": {"b": {}}, "c": {"b": {}}} \n',
        b"[" + b"[0]," * 10 + b"[0]]",
        nested(DEPTH),
        nested(DEPTH)[:DEPTH] + b'"deep"' + b"]" * DEPTH,
        b" " * (LIMIT - 1) + b"1",
    ],
)
def test_everything_else_is_read_as_json_says(raw: bytes) -> None:
    """Each limit's last allowed value; keys may repeat in different objects."""
    assert load(raw, "index.json") == json.loads(raw)


@pytest.mark.parametrize(
    ("raw", "found"),
    [(b"null", "null"), (b"[]", "an array"), (b"1.5", "a number"), (b'""', "a string"), (b"true", "true")],
)
def test_a_document_is_an_object(raw: bytes, found: str) -> None:
    """No OCI document is anything else."""
    with pytest.raises(InvalidArgument, match=f"index.json is {found}, expected an object"):
        load_object(raw, "index.json")


@pytest.mark.parametrize("unit", [b"[],", b"0,", b'"",', b"{},"])
def test_the_largest_document_does_not_take_long(unit: bytes) -> None:
    """4 MiB of the smallest values are the most work that a document can ask for."""
    raw = b"[" + unit * ((LIMIT - 3) // len(unit)) + b"0]"
    started = time.monotonic()
    load(raw, "index.json")
    assert time.monotonic() - started < 10  # a guard against quadratic time, not a measurement


texts = st.text(st.characters(codec="utf-8"))
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


@fuzz
@given(values, st.booleans())
def test_what_was_written_is_read(value: Any, ascii_only: bool) -> None:
    """Strict is not picky: all that a correct writer makes comes back."""
    assert load(json.dumps(value, ensure_ascii=ascii_only).encode(), "document") == value


@fuzz
@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,\\u0189dDeE.-+ \nNaInfity\ufeff', max_size=200))
@example(b"-")
@example(b'"\\u12')
def test_no_bytes_do_more_than_be_refused(raw: bytes | str) -> None:
    """RecursionError, ValueError and their kin never reach the user."""
    with suppress(InvalidArgument):
        load(raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass"), "document")
