"""What reaches stdout, byte for byte."""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool.cli.context import Context
from imgtool.cli.output import (
    Kind,
    PlainText,
    Row,
    Template,
    json_text,
    labels_text,
    safe,
    short,
    size_text,
    width,
)
from imgtool.errors import InvalidArgument

ROWS: list[dict[str, Any]] = [
    {"name": "a", "target": {"digest": "sha256:1"}, "labels": {"x.y/z": "1", "x": {"y": "2"}}, "size": 3},
    {"name": "b\nc\x1b[31m", "target": {"digest": "sha256:2"}, "labels": {}, "size": None},
]
FIELDS = ("name", "target", "labels", "size")
COLUMNS: dict[str, Callable[[Row], str]] = {
    "REF": lambda r: r["name"],
    "DIGEST": lambda r: r["target"]["digest"],
    "NOTE": lambda r: "",
}


class Printer:
    """Prints rows as one call would, and returns the bytes."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        self._monkeypatch = monkeypatch

    def __call__(self, rows: Iterable[Row] = ROWS, **options: Any) -> builtins.bytes:
        context = Context()
        context.format = options.pop("format", "table")
        context.quiet = options.pop("quiet", False)
        with self._path.open("w") as stream:
            self._monkeypatch.setattr(sys, "stdout", stream)
            context.out.rows(Kind("things", FIELDS), rows, COLUMNS, **options)
        return self.bytes()

    def bytes(self) -> bytes:
        """What the last call printed."""
        return self._path.read_bytes()


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Printer:
    return Printer(tmp_path / "stdout", monkeypatch)


def test_a_table_is_aligned_escaped_and_says_when_a_cell_is_empty(printed: Printer) -> None:
    """A name with a line break must not make a row, nor colour the terminal (FAULTS T15)."""
    assert printed().decode() == (
        "REF            DIGEST   NOTE\na              sha256:1 -\nb\\x0ac\\x1b[31m sha256:2 -\n"
    )


def test_a_table_without_rows_is_its_header(printed: Printer) -> None:
    """A pipeline that cuts off one line must not lose an image."""
    assert printed([]) == b"REF DIGEST NOTE\n"
    assert printed([], header=False) == b""


def test_a_table_without_a_header_is_not_aligned(printed: Printer) -> None:
    """Its rows are printed as they come, and do not wait for a longer one."""
    assert printed(header=False) == b"a sha256:1 -\nb\\x0ac\\x1b[31m sha256:2 -\n"


class Stop(BaseException):
    """A signal."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, b"REF DIGEST   NOTE\na   sha256:1 -\n"),
        ({"header": False}, b"a sha256:1 -\n"),
        ({"quiet": True}, b"a\n"),
    ],
)
@pytest.mark.parametrize("kind", [Stop, InvalidArgument])
def test_rows_before_an_error_are_printed(
    printed: Printer, options: dict[str, Any], expected: bytes, kind: type[BaseException]
) -> None:
    """They tell what has been done, which nobody would know of."""

    def rows() -> Iterator[Row]:
        yield ROWS[0]
        raise kind("enough")

    with pytest.raises(kind):
        printed(rows(), **options)
    assert printed.bytes() == expected


def test_json_that_an_error_ends_can_still_be_read(printed: Printer) -> None:
    def rows(count: int) -> Iterator[Row]:
        yield from ROWS[:count]
        raise Stop

    with pytest.raises(Stop):
        printed(rows(1), format="json")
    assert json.loads(printed.bytes()) == {"schema": 1, "things": ROWS[:1]}
    with pytest.raises(Stop):
        printed(rows(0), format="json")
    assert printed.bytes() == b""


def test_quiet_prints_one_identifier_a_line(printed: Printer) -> None:
    assert printed(quiet=True) == b"a\nb\\x0ac\\x1b[31m\n"


def test_zero_prints_exact_identifiers(printed: Printer) -> None:
    """Only NUL cannot be in a name: this is the form for xargs -0."""
    assert printed(zero=True) == b"a\0b\nc\x1b[31m\0"


def test_json_is_one_object_with_a_row_a_line_and_exact_values(printed: Printer) -> None:
    out = printed(format="json")
    assert json.loads(out) == {"schema": 1, "things": ROWS}
    assert out.count(b"\n") == 4
    assert b"\x1b" not in out


def test_json_without_rows_is_whole(printed: Printer) -> None:
    assert printed([], format="json") == b'{"schema": 1, "things": []}\n'


def test_jsonl_is_a_row_a_line(printed: Printer) -> None:
    assert [json.loads(line) for line in printed(format="jsonl").splitlines()] == ROWS


def test_a_template_takes_fields_keys_with_dots_and_escapes(printed: Printer) -> None:
    """The longest key counts: containerd's label keys are full of dots."""
    form = r"{name}\t{target.digest}\n{{{labels.x.y/z}}} {labels.x.y} {labels.none}|{size}"
    assert printed(ROWS[:1], format=form) == b"a\tsha256:1\n{1} 2 |3\n"


def test_a_template_is_escaped_unless_its_lines_end_with_nul(printed: Printer) -> None:
    assert printed(ROWS[1:], format="{name}{size}") == b"b\\x0ac\\x1b[31m\n"
    assert printed(ROWS[1:], format="{name}{size}", zero=True) == b"b\nc\x1b[31m\0"


@pytest.mark.parametrize(
    ("form", "quiet", "zero", "shown"),
    [
        ("table", False, False, True),
        ("table", True, False, False),
        ("table", False, True, False),
        ("json", True, False, True),
        ("jsonl", False, False, True),
        ("{size}", True, True, True),
        ("{size.x}", False, False, True),
        ("{name} size {{size}}", False, False, False),
    ],
)
def test_what_is_not_shown_need_not_be_found_out(form: str, quiet: bool, zero: bool, shown: bool) -> None:
    """`list --format '{name}'` over ten thousand images must not read their manifests."""
    context = Context()
    context.format, context.quiet = form, quiet
    assert context.out.shows("size", zero=zero) is shown


@pytest.mark.parametrize("form", ["yaml", "", "{", "{name", "{}", "}", "a}b{name}", "{nothing}"])
def test_a_format_that_cannot_be_is_refused(printed: Printer, form: str) -> None:
    with pytest.raises(InvalidArgument):
        printed(format=form)


def test_a_template_cannot_reach_into_python(printed: Printer) -> None:
    """`str.format` would: '{0.__class__}' has been an exploit elsewhere."""
    assert printed(ROWS[:1], format="{name.__class__}{target.digest.upper}") == b"\n"
    with pytest.raises(InvalidArgument):
        Template("{0.__class__}").check(FIELDS)


def test_zero_does_not_go_with_json(printed: Printer) -> None:
    with pytest.raises(InvalidArgument, match="-0"):
        printed(format="json", zero=True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        ("a\nb\tc\r", r"a\x0ab\x09c\x0d"),
        ("\x1b]0;x\x07", r"\x1b]0;x\x07"),
        ("\x9b31m", r"\xc2\x9b31m"),
        ("\u202efdp.exe", r"\xe2\x80\xaefdp.exe"),
        ("\u2028", r"\xe2\x80\xa8"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800", r"\xed\xa0\x80"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_its_bytes(text: str, shown: str) -> None:
    assert safe(text) == shown


@pytest.mark.parametrize(
    "text", ["a", "\x1b\n", "\x7f", "é漢😀", "\u202e\x9b", os.fsdecode(b"\xff"), "\U000e0001"]
)
def test_json_text_is_exact_and_harmless(text: str) -> None:
    """A JSON line may be looked at in a terminal as well."""
    shown = json_text({"k": text})
    assert json.loads(shown) == {"k": text}
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", True),
        (b'{"a": 1}\n', True),
        ("é".encode()[:1], True),
        (b"\0", False),
        (b"\xff\xfe", False),
        (b"\x1b[2J", False),
        (b"\x1f\x8b\x08", False),
        (b"\x7f", False),
    ],
)
def test_binary_is_told_from_text(data: bytes, text: bool) -> None:
    assert PlainText().goes_on(data) is text


def test_a_character_may_lie_across_two_parts_of_a_text() -> None:
    """Content is read by the mebibyte, wherever that cuts; but a half is not completed by anything."""
    whole, half = PlainText(), PlainText()
    assert [whole.goes_on(b"\xc3"), whole.goes_on(b"\xa9"), whole.goes_on(b"\xc2\x9b")] == [True, True, False]
    assert [half.goes_on(b"\xc3"), half.goes_on(b"a")] == [True, False]


def test_binary_is_not_written_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """`imgtool cat LAYER` by mistake must not leave a terminal unusable."""
    leader, follower = os.openpty()
    with os.fdopen(leader, "rb"), os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        with pytest.raises(InvalidArgument, match="terminal"):
            Context().out.stream()(b"\x1f\x8b")
        Context().out.stream()(b"text\n")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (5 * 1024**3 // 2, "2.5 GiB"),
        (2**63 - 1, "8.0 EiB"),
    ],
)
def test_sizes_are_in_iec_units_unless_exact(size: int, text: str) -> None:
    assert size_text(size) == text
    assert size_text(size, exact=True) == str(size)


def test_digests_and_labels_are_cut_unless_whole() -> None:
    digest, labels = "sha256:" + "ab" * 32, {"b": "2" * 50, "a": "1"}
    assert short(digest) == "sha256:abababababab"
    assert short(digest, whole=True) == digest
    assert labels_text(labels, whole=True) == "a=1,b=" + "2" * 50
    assert len(labels_text(labels)) == 40


def test_wide_characters_take_two_columns() -> None:
    """A table with a Chinese name stays aligned."""
    assert (width("ab"), width("漢字"), width("e\u0301")) == (2, 4, 1)


@pytest.fixture(autouse=True)
def _keep_stdout() -> Iterator[None]:
    saved = os.dup(1)
    yield
    os.dup2(saved, 1)
    os.close(saved)
