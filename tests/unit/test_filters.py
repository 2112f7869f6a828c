"""The filter language. The cases of containerd's own tests are here as facts: input and outcome."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgtool import filters
from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import ContentInfo, Descriptor, Image, IngestStatus, Lease, Namespace

DIGEST = Digest.of(b"x")
fuzz = settings(derandomize=bool(os.environ.get("CI")), deadline=None)


def thing(name: str = "", other: str = "", **labels: str) -> filters.Adaptor:
    """Something with two fields and labels."""

    def field(path: Sequence[str]) -> tuple[str, bool]:
        if path[0] == "labels":
            key = ".".join(path[1:])
            return labels.get(key, ""), key in labels
        value = {"name": name, "other": other}.get(path[0], "")
        return value, bool(value)

    return field


THINGS = [
    thing("foo", foo="true"),
    thing("bar"),
    thing("foo", **{"foo": "present", "more complex label": "present"}),
    thing("bar", bar="true"),
    thing("fooer", **{'more complex label with \\ and "': "present"}),
    thing("fooer", **{'more complex label with \\ and ".post': "present"}),
    thing("baz", "too complex, yo"),
    thing("bazo", "abc"),
    thing("compound", foo="omg_asdf.asdf-qwer"),
]
ALL = list(range(len(THINGS)))


def matching(*args: str) -> list[int]:
    found = filters.compile(args)
    return [i for i, a in enumerate(THINGS) if found.matches(a)]


def error(text: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        filters.compile([text])
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ALL),
        ("name", ALL),
        ("labels.foo", [0, 2, 8]),
        ("labels.foo,name", [0, 2, 8]),
        ("labels.foo==true", [0]),
        ("labels.foo==omg_asdf.asdf-qwer", [8]),
        ("name==bar", [1, 3]),
        ("name!=bar", [0, 2, 4, 5, 6, 7, 8]),
        ("name==bar,labels.bar", [3]),
        ('other=="too complex, yo"', [6]),
        ("other~=[abc]+,name!=foo", [6, 7]),
        ("other~=/[abc]+/,name!=foo", [6, 7]),
        ("other~=/[abc]{1,2}/,name!=foo", [6, 7]),
        ('other~=/[abc]{0,1}"\\//,name!=foo', []),
        ("name==bar,labels.bar==true", [3]),
        ("name==bar,labels.bar==wrong", []),
        ('name==foo,labels."more complex label"', [2]),
        ('labels."more complex label with \\\\ and \\""==present', [4]),
        ('labels."more complex label with \\\\ and \\"".post==present', [5]),
    ],
)
def test_containerds_own_cases_select_what_they_select_there(text: str, expected: list[int]) -> None:
    """`filter_test.go`: the corpus, the filters and the results."""
    assert matching(text) == expected


def parse_error(before: str, c: str, after: str, reason: str) -> str:
    return f"filters: parse error: [{before} >|{c}|< {after}]: {reason}"


FIELD = "expected field or quoted"
VALUE = "expected value or quoted"
OPERATOR = 'expected an operator ("=="|"!="|"~=")'
OPEN = "quoted literal not terminated"
SYNTAX = "unquoting failed: quote syntax error"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # filter_test.go
        ("labels.|foo|==a.b-c", parse_error("labels.", "|", "foo|==a.b-c", "invalid quote encountered")),
        ('labels.?"more".post==x', parse_error("labels.", "?", '"more".post==x', FIELD)),
        ("name==foo,", f"filters: parse error: [name==foo,]: {FIELD}"),
        ("labels.", f"filters: parse error: [labels.]: {FIELD}"),
        ("image~=,id?=?fbaq", parse_error("image~=", ",", "id?=?fbaq", VALUE)),
        ("labels.ns/key==value", parse_error("labels.ns", "/", "key==value", OPEN)),
        ("labels.key==/value", parse_error("labels.key==", "/", "value", OPEN)),
        # scanner_test.go, seen through the parser
        ("labels.foo=value", parse_error("labels.foo", "=", "value", 'unsupported operator "="')),
        ("foo = bar    ", parse_error("foo ", "=", " bar    ", 'unsupported operator "="')),
        ("foo\0bar", parse_error("foo", "\0", "bar", "unexpected null")),
        ("input==,id!=ff", parse_error("input==", ",", "id!=ff", VALUE)),
        ('labels."a\nkey"==v', parse_error("labels.", '"', 'a\nkey"==v', OPEN)),
        (r'labels."\g"', parse_error("labels.", '"', r'\g"', "illegal escape sequence")),
        (r'labels."\xaz"', parse_error("labels.", '"', r'\xaz"', "illegal numeric escape sequence")),
        ("a==value value", parse_error("a==value", " ", "value", "unexpected input:  ")),
        # parser.go and quote.go, read and worked out
        ("a===b", parse_error("a", "=", "==b", 'unsupported operator "==="')),
        ("a=~b", parse_error("a", "=", "~b", 'unsupported operator "=~"')),
        ("a!b", parse_error("a", "!", "b", 'unsupported operator "!"')),
        ("a== =b", parse_error("a== ", "=", "b", VALUE)),
        ("a==.b", parse_error("a==", ".", "b", VALUE)),
        ("a==", f"filters: parse error: [a==]: {VALUE}"),
        ("a== ", f"filters: parse error: [a== ]: {VALUE}"),
        ("a ", f"filters: parse error: [a ]: {OPERATOR}"),
        ("a ,b", parse_error("a ", ",", "b", OPERATOR)),
        ("a .b", parse_error("a ", ".", "b", OPERATOR)),
        ("labels.a-b==c", parse_error("labels.a", "-", "b==c", OPERATOR)),
        ('a"b"', parse_error("a", '"', 'b"', OPERATOR)),
        (" ", f"filters: parse error: [ ]: {FIELD}"),
        (",a", parse_error("", ",", "a", FIELD)),
        ("a,,b", parse_error("a,", ",", "b", FIELD)),
        ("==a", parse_error("", "=", "=a", FIELD)),
        ("'a'==b", parse_error("", "'", "a'==b", FIELD)),
        ("é==b", parse_error("", "é", "==b", FIELD)),
        ("a==b ,c", parse_error("a==b", " ", ",c", "unexpected input:  ")),
        ("a==b ", parse_error("a==b", " ", "", "unexpected input:  ")),
        ('a=="b"c', parse_error('a=="b"', "c", "", "unexpected input: c")),
        ("a==b\x01c", parse_error("a==b", "\x01", "c", "unexpected input: \x01")),
        ("a==b\0", parse_error("a==b", "\0", "", "unexpected input: \ufffd")),
        ("a==b\udcff", parse_error("a==b", "\udcff", "", "unexpected input: \ufffd")),
        ("a==b\ufffdc", parse_error("a==b", "\ufffd", "c", "unexpected input: \ufffd")),
        ("a==\udcff", parse_error("a==", "\udcff", "", "rune error")),
        ("a==b,\ufffd", parse_error("a==b,", "\ufffd", "", "rune error")),
        ("a==/b/", parse_error("a==", "/", "b/", "invalid quote encountered")),
        ("a!=|b|", parse_error("a!=", "|", "b|", "invalid quote encountered")),
        ('a=="', parse_error("a==", '"', "", OPEN)),
        ('a=="b\\', parse_error("a==", '"', "b\\", "illegal escape sequence")),
        ('a=="\0"', parse_error("a==", '"', '\0"', "unexpected null")),
        ('a=="\\\0"', parse_error("a==", '"', '\\\0"', "unexpected null")),
        ('a=="\\x1\0"', parse_error("a==", '"', '\\x1\0"', "unexpected null")),
        (r"""a=="\'" """, parse_error("a==", '"', r"""\'" """, "illegal escape sequence")),
        (r'a~="a\.b"', parse_error("a~=", '"', r'a\.b"', "illegal escape sequence")),
        (r"a~=/a\.b/", parse_error("a~=", "/", r"a\.b/", "illegal escape sequence")),
        (r"a~=/\"/", parse_error("a~=", "/", r"\"/", "illegal escape sequence")),
        (r'a=="\x4"', parse_error("a==", '"', r'\x4"', "illegal numeric escape sequence")),
        (r'a=="\18"', parse_error("a==", '"', r'\18"', "illegal numeric escape sequence")),
        (r'a=="\u123"', parse_error("a==", '"', r'\u123"', "illegal numeric escape sequence")),
        (r'a=="\400"', parse_error("a==", '"', r'\400"', SYNTAX)),
        (r'a=="\U00110000"', parse_error("a==", '"', r'\U00110000"', SYNTAX)),
        (r'a=="\Uffffffff"', parse_error("a==", '"', r'\Uffffffff"', SYNTAX)),
        (r"a==|\400|", parse_error("a==", "|", r"\400|", "invalid quote encountered")),
    ],
)
def test_an_error_has_containerds_text_and_position(text: str, message: str) -> None:
    """Scripts that know `ctr` compare this text."""
    assert error(text) == message


def test_no_filters_match_everything() -> None:
    """A list command without arguments lists all."""
    assert matching() == ALL


def test_filters_are_alternatives() -> None:
    """Arguments are OR."""
    assert matching("name==baz", "name==bazo") == [6, 7]


def test_an_empty_filter_among_others_matches_everything() -> None:
    """containerd's ParseAll treats each argument alone."""
    assert matching("name==baz", "") == ALL


def test_one_bad_filter_fails_them_all() -> None:
    """Half an OR would silently list less than was asked for."""
    with pytest.raises(InvalidArgument):
        filters.compile(["", "name==foo", "name="])


def test_an_absent_field_differs_from_every_value() -> None:
    """`!=` is the one operator that an absent field meets, `!=""` excepted."""
    assert 1 in matching("labels.foo!=true")
    assert 1 not in matching("labels.foo==true")
    assert 1 not in matching('labels.foo!=""')
    assert 1 not in matching('labels.foo==""')


def test_unknown_fields_are_absent_and_names_tell_case() -> None:
    """A filter may name what only other stores have."""
    assert matching("size") == matching("Name") == matching("labels") == []
    assert matching("size!=1") == ALL


def test_a_regexp_searches_unanchored_and_an_absent_field_is_empty_text() -> None:
    """containerd calls MatchString on whatever the adaptor returned."""
    assert matching("name~=az") == [6, 7]
    assert matching("name~=^az") == []
    assert matching("labels.none~=^$") == ALL


def test_a_dollar_does_not_match_before_a_final_newline() -> None:
    """Python's own `re` would."""
    assert not filters.compile(["name~=b$"]).matches(thing("b\n"))


@pytest.mark.parametrize(
    "pattern", ["(", "(?=b)", "(?!x)", r"(b)\1", "x{1001}", r"\C", r"b\C", '"\\xff"', '"\\\\C"']
)
def test_a_regexp_that_go_does_not_compile_matches_nothing(
    pattern: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is no error there; and RE2 must not write to stderr about it."""
    found = filters.compile([f"name~={pattern}"])
    assert not any(found.matches(thing(name)) for name in ("", "b", "bb", "é", "\udcff"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("[[:alpha:]]+", "b"),
        (r"^\pL$", "é"),
        (r"a\.b", "a.b"),
        ('"a\\\\.b"', "a.b"),
        (r"/a\/b/", "a/b"),
        (r"|a\|b|", "b"),
        (r"\QC\C\E", r"C\C"),
        (r"\\C", r"\C"),
        ("|a,b c|", "a,b c"),
        ('""', ""),
        ('"\\x00"', "a\0b"),
    ],
)
def test_a_regexp_is_re2s_after_its_quotes_are_undone(pattern: str, text: str) -> None:
    """Unquoted values are taken raw; in quotes the escapes come first."""
    assert filters.compile([f"name~={pattern}"]).matches(thing(text))


def test_a_catastrophic_pattern_is_linear() -> None:
    """With a backtracking engine this test would not end."""
    assert not filters.compile(["name~=(a*)*b"]).matches(thing("a" * 5000))


@pytest.mark.parametrize(
    ("quoted", "value"),
    [
        (r'"\a\b\f\n\r\t\v\\\""', '\a\b\f\n\r\t\v\\"'),
        (r'"\101\x41\u0041\U00000041"', "AAAA"),
        (r'"\xe7\x89\x9b\u725b牛"', "牛牛牛"),
        (r'"\ud800"', "\ufffd"),
        (r'"\000\x00"', "\0\0"),
        ('"a|b/c\'d`e"', "a|b/c'd`e"),
        ('"\x01\u202e"', "\x01\u202e"),
        ("a=b.c:d@e/f'g`h|i\"j", "a=b.c:d@e/f'g`h|i\"j"),
        ("'a'", "'a'"),
        ("`a`", "`a`"),
        (r"a\nb", r"a\nb"),
        ("牛é\u0301", "牛é\u0301"),
        ("\x01a", "\x01a"),
    ],
)
def test_a_value_stands_for_this_text(quoted: str, value: str) -> None:
    """Escapes only in quotes; a bare value may hold nearly everything after its first character."""
    assert filters.compile([f"name=={quoted}"]).matches(thing(value))


def test_escapes_that_spell_no_text_equal_nothing() -> None:
    """Stored values are UTF-8; containerd compares bytes."""
    assert matching(r'name=="\xff"') == []
    assert matching(r'name!="\xff"') == ALL


def test_white_space_before_a_token_is_skipped() -> None:
    """Also the kinds that only Unicode calls space; U+001C is none to Go, though it is to Python."""
    assert matching(" labels. foo\t== \u2003true,\n name \xa0== foo") == [0]
    assert error("\x1cname").endswith("]: expected field or quoted")


def test_a_key_may_be_split_at_its_dots_or_quoted() -> None:
    """Stores join the rest of the path by dots."""
    item = thing(**{"a.b": "1", "x.io/k": "2"})
    for text in (
        "labels.a.b==1",
        'labels."a.b"==1',
        '"labels".a."b"',
        'labels."x.io/k"==2',
        'labels.x."io/k"',
    ):
        assert filters.compile([text]).matches(item)


@pytest.mark.parametrize(
    ("text", "hinted"),
    [("labels.containerd.io/gc.root==x", True), ("labels.a-b", True), ("name==", False), ("name=x", False)],
)
def test_a_key_that_needs_quotes_is_met_with_a_hint(text: str, hinted: bool) -> None:
    """The commonest mistake with containerd's filters."""
    with pytest.raises(InvalidArgument) as caught:
        filters.compile([text])
    assert ('labels."example.com/key"' in (caught.value.hint or "")) is hinted


def test_re2_is_imported_only_for_a_regexp() -> None:
    """It costs more than the rest of `imgtool list`."""
    code = (
        "import sys; from imgtool.filters import compile; compile(['name==x']); a = 're2' in sys.modules;"
        "compile(['name~=x']); print(a, 're2' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False True\n"


IMAGE = Image(
    "docker.io/library/a:1",
    Descriptor("application/x", DIGEST, 3, annotations={"org.x": "y"}),
    labels={"k": "v", "x.io/k": "w"},
)


@pytest.mark.parametrize(
    ("adaptor", "text", "expected"),
    [
        (filters.image_fields(IMAGE), "name~=library", True),
        (filters.image_fields(IMAGE), f"target.digest=={DIGEST}", True),
        (filters.image_fields(IMAGE), "target.mediatype==application/x", True),
        (filters.image_fields(IMAGE), "target.mediaType", False),
        (filters.image_fields(IMAGE), "target", False),
        (filters.image_fields(IMAGE), "target.size", False),
        (filters.image_fields(IMAGE), "annotations.org.x==y", True),
        (filters.image_fields(IMAGE), "target.annotations.org.x", False),
        (filters.image_fields(IMAGE), 'labels."x.io/k"==w', True),
        (filters.image_fields(IMAGE), "labels", False),
        (filters.image_fields(IMAGE), "created", False),
        (filters.content_fields(ContentInfo(DIGEST, 3, {"k": "v"})), f"digest=={DIGEST},labels.k==v", True),
        (filters.content_fields(ContentInfo(DIGEST, 3, {"k": "v"})), "size", False),
        (filters.ingest_fields(IngestStatus("a/b", 0, 0, 0, 0)), "ref==a/b", True),
        (filters.ingest_fields(IngestStatus("a/b", 0, 0, 0, 0)), "offset", False),
        (filters.lease_fields(Lease("l", {"k": "v"})), "id==l,labels.k==v", True),
        (filters.lease_fields(Lease("l")), "labels.k", False),
        (filters.namespace_fields(Namespace("n", {"k": "v"})), "name==n,labels.k==v", True),
        (filters.namespace_fields(Namespace("n")), "labels.k", False),
    ],
)
def test_each_noun_has_containerds_fields(adaptor: filters.Adaptor, text: str, expected: bool) -> None:
    """`metadata/adaptors.go`, `content/adaptor.go`; namespaces have a `name`."""
    assert filters.compile([text]).matches(adaptor) is expected


WORDS = ["name", "labels", "a.b", "==", "!=", "~=", r"\x4", r"\u12", r"\C"]
TOKENS = st.sampled_from([*WORDS, *'.,="/|()[]*9-x牛\\ \n\0\ufffd\udc80\x85\x1c'])


@fuzz
@given(st.lists(st.text() | st.lists(TOKENS).map("".join), max_size=3), st.text())
@example(["name~=\udcff"], "")
def test_any_text_is_a_filter_or_an_invalid_argument(texts: list[str], value: str) -> None:
    """Filters come from argv, which may hold anything."""
    try:
        found = filters.compile(texts)
    except InvalidArgument:
        return
    assert found.matches(thing(value)) in (True, False)


@fuzz
@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from("abfnrtv\\"))
def test_a_value_written_with_escapes_is_found(value: str, extra: str) -> None:
    """Every text can be asked for: escape each of its bytes."""
    quoted = "".join(f"\\x{b:02x}" for b in value.encode())
    assert filters.compile([f'name=="{quoted}"']).matches(lambda path: (value, True))
    assert not filters.compile([f'name=="{quoted}\\{extra}"']).matches(lambda path: (value, True))
