"""Descriptors: the image-spec's own cases, and each field from both sides."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import SIZE_MAX, Descriptor, Platform
from imgtool.oci import descriptor, media
from imgtool.oci.manifest import parse
from imgtool.oci.strictjson import load

SHARED = Path(os.environ.get("IMGTOOL_SHARED") or Path(__file__).parents[3] / "shared")
CASES = SHARED / "cases" / "descriptors.json"
fuzz = settings(derandomize=bool(os.environ.get("CI")), deadline=1000)

TEXT = b"hello"
GOOD: dict[str, Any] = {"mediaType": "text/plain", "digest": str(Digest.of(TEXT)), "size": 5}

UNKNOWN_ALGORITHM = "the schema takes any algorithm; imgtool keeps only what it can verify"
# Where we judge otherwise than the image-spec's schema, and why.
DIFFERENT = {
    "TestDescriptor[21]": UNKNOWN_ALGORITHM,
    "TestDescriptor[22]": UNKNOWN_ALGORITHM,
    "TestDescriptor[23]": UNKNOWN_ALGORITHM,
    "TestDescriptor[24]": UNKNOWN_ALGORITHM,
    "TestDescriptor[25]": UNKNOWN_ALGORITHM,
    "TestDescriptor[27]": UNKNOWN_ALGORITHM,
    "TestDescriptor[28]": UNKNOWN_ALGORITHM,
    "TestManifest[6]": UNKNOWN_ALGORITHM,
    "TestManifest[5]": "artifacts without layers are in use: the manifest page says SHOULD, not MUST",
}


def cases(*kinds: str) -> list[dict[str, Any]]:
    if not CASES.exists():
        pytest.skip(f"{CASES} is absent")
    found = [c for c in json.loads(CASES.read_text())["cases"] if c["kind"] in kinds]
    assert found
    return found


def accepted(case: dict[str, Any]) -> bool:
    raw = case["document"].encode()
    try:
        if case["kind"] == "descriptor":
            descriptor.parse(load(raw, "descriptor"), "descriptor")
        else:
            docker = case.get("docker_schema2", False)
            types = {
                ("manifest", False): media.OCI_MANIFEST,
                ("manifest", True): media.DOCKER_MANIFEST,
                ("index", False): media.OCI_INDEX,
                ("index", True): media.DOCKER_LIST,
            }
            parse(raw, types[case["kind"], docker], "document")
    except InvalidArgument:
        return False
    return True


@pytest.mark.parametrize("kind", ["descriptor", "manifest", "index"])
def test_documents_are_judged_as_the_image_spec_judges_them(kind: str) -> None:
    """Else imgtool would refuse what others make, or keep what others refuse."""
    wrong = [c["test"] for c in cases(kind) if accepted(c) == (c["valid"] == (c["test"] in DIFFERENT))]
    assert not wrong


def test_every_difference_from_the_image_spec_is_a_case() -> None:
    """An entry that no case needs would hide the next one."""
    assert set(DIFFERENT) <= {c["test"] for c in cases("descriptor", "manifest", "index")}


def test_every_field_is_read_and_written_in_the_order_of_the_oci_types() -> None:
    """What is stored is compared as text by people and programs."""
    document = {
        "mediaType": "text/plain",
        "digest": str(Digest.of(TEXT)),
        "size": 5,
        "urls": ["https://example.com/a?b=c#d"],
        "annotations": {"k": "v", "empty": ""},
        "data": base64.b64encode(TEXT).decode(),
        "platform": {
            "architecture": "arm",
            "os": "linux",
            "os.version": "1",
            "os.features": ["a"],
            "variant": "v7",
        },
        "artifactType": "application/x",
        "x-later": {"any": [1]},
    }
    parsed = descriptor.parse(document, "d")
    assert parsed == Descriptor(
        "text/plain",
        Digest.of(TEXT),
        5,
        {"k": "v", "empty": ""},
        Platform("linux", "arm", "v7", "1", ("a",)),
        "application/x",
        ("https://example.com/a?b=c#d",),
        "aGVsbG8=",
        {"x-later": {"any": [1]}},
    )
    assert json.dumps(descriptor.to_dict(parsed)) == json.dumps(document)
    assert descriptor.inline(parsed) == TEXT


def test_null_counts_as_absent() -> None:
    """Go writes null for an empty list or map; it means nothing more."""
    optional = ("urls", "annotations", "data", "platform", "artifactType")
    parsed = descriptor.parse(GOOD | dict.fromkeys(optional), "d")
    assert descriptor.to_dict(parsed) == GOOD
    assert descriptor.inline(parsed) is None


@pytest.mark.parametrize("size", [-1, 2**63, True, 5.0, "5", [5], {}, None])
def test_a_size_is_a_whole_number_in_range(size: object) -> None:
    """True is 1 to Python, and 5.0 is 5 to JavaScript."""
    with pytest.raises(InvalidArgument, match="size"):
        descriptor.parse(GOOD | {"size": size}, "d")


@pytest.mark.parametrize("size", [0, SIZE_MAX])
def test_the_ends_of_the_range_are_sizes(size: int) -> None:
    """Nothing, and the largest that a 64-bit offset can name."""
    assert descriptor.parse(GOOD | {"size": size}, "d").size == size


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../etc/passwd",
        "sha256:" + "A" * 64,
        "sha256:" + "٣" * 64,
        GOOD["digest"] + "\n",
        "sha256:" + "a" * 63,
        "md5:" + "a" * 32,
        5,
        ["sha256"],
    ],
)
def test_a_digest_that_is_none_is_refused(digest: object) -> None:
    """It becomes a path (CVE-2024-3727)."""
    with pytest.raises(InvalidArgument, match="digest"):
        descriptor.parse(GOOD | {"digest": digest}, "config of manifest x")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mediaType", "text/plain; charset=utf-8"),
        ("mediaType", "text/plain\n"),
        ("mediaType", 1),
        ("annotations", []),
        ("annotations", {"a": 1}),
        ("annotations", {"a": None}),
        ("urls", "https://example.com"),
        ("urls", [1]),
        ("urls", ["https://example.com/\u202e"]),
        ("urls", ["https://example.com/\n"]),
        ("platform", "linux/amd64"),
        ("platform", {"os": "linux"}),
        ("platform", {"architecture": "amd64"}),
        ("platform", {"os": 1, "architecture": "amd64"}),
        ("platform", {"os": "linux", "architecture": "amd64", "os.features": "x"}),
        ("artifactType", "x"),
        ("artifactType", 0),
        ("data", 5),
        ("data", "aGVsbG8"),
        ("data", "aGVs\nbG8="),
        ("data", "é"),
        ("data", base64.b64encode(b"hell").decode()),
        ("data", base64.b64encode(b"jello").decode()),
        ("data", ""),
    ],
)
def test_a_field_of_another_kind_is_refused(field: str, value: object) -> None:
    """The message names the thing that the caller gave."""
    with pytest.raises(InvalidArgument, match=r"layers\[3\] of manifest x"):
        descriptor.parse(GOOD | {field: value}, "layers[3] of manifest x")


def test_inline_content_has_the_size_that_is_stated() -> None:
    """Also where its digest fits: the size alone is compared before content is read."""
    with pytest.raises(InvalidArgument, match="data of d has 5 bytes, its size is 6"):
        descriptor.parse(GOOD | {"data": base64.b64encode(TEXT).decode(), "size": 6}, "d")


@pytest.mark.parametrize("value", [None, [], "sha256:…", 5, True])
def test_what_is_no_object_is_no_descriptor(value: object) -> None:
    """Documents are full of surprises one level down."""
    with pytest.raises(InvalidArgument, match="expected a descriptor"):
        descriptor.parse(value, "subject")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        name: json_values | st.just(GOOD.get(name))
        for name in (
            "mediaType",
            "digest",
            "size",
            "urls",
            "annotations",
            "data",
            "platform",
            "artifactType",
            "x",
        )
    },
)


@fuzz
@given(json_values | fields)
def test_no_value_does_more_than_be_refused(value: object) -> None:
    """What is accepted survives being written."""
    try:
        parsed = descriptor.parse(value, "d")
    except InvalidArgument:
        return
    assert descriptor.parse(descriptor.to_dict(parsed), "d") == parsed
