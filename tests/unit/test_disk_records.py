"""What records hold: `imgtool.disk.records`, through the store where a key must survive there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgtool.digest import ALGORITHMS, Digest
from imgtool.disk import codec, open_store, records
from imgtool.errors import DataLoss
from imgtool.model import (
    SIZE_MAX,
    ContentInfo,
    Descriptor,
    Image,
    Lease,
    Namespace,
    Platform,
    References,
    without_empty,
)

NS = "default"
HEX = "0" * 64
TIME = "2026-11-24T06:25:24.004521928Z"

IMAGE: dict[str, Any] = {
    "schema": 1,
    "name": "x",
    "created": TIME,
    "updated": TIME,
    "target": {"mediaType": "t", "digest": f"sha256:{HEX}", "size": 1},
}
CONTENT = {"schema": 1, "digest": f"sha256:{HEX}", "size": 1, "created": TIME, "updated": TIME}
LEASE = {"schema": 1, "id": "x", "created": TIME}
NAMESPACE = {"schema": 1, "name": "x", "created": TIME}
Load = Callable[[dict[str, Any], str], Any]
KINDS: dict[str, tuple[dict[str, Any], Load]] = {
    "image": (IMAGE, records.image_from_record),
    "content": (CONTENT, records.content_from_record),
    "lease": (LEASE, records.lease_from_record),
    "namespace": (NAMESPACE, records.namespace_from_record),
}
each_kind = pytest.mark.parametrize(("record", "load"), KINDS.values(), ids=KINDS)


def changed(record: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of `record` where the key at `path` has another value, or is not there if it is Ellipsis."""
    first, dot, rest = path.partition("/")
    copy = dict(record)
    if dot:
        copy[first] = changed(copy.get(first, {}), rest, value)
    elif value is ...:
        del copy[first]
    else:
        copy[first] = value
    return copy


@each_kind
def test_the_least_that_a_record_may_hold_is_read(record: dict[str, Any], load: Load) -> None:
    """Labels, annotations, resources and the like are optional."""
    assert load(record, "r")


@each_kind
def test_every_required_key_is_missed(record: dict[str, Any], load: Load) -> None:
    """Half a record is damage, and the message names the key."""
    paths = [*record, *(f"target/{key}" for key in record.get("target", ()))]
    for path in paths:
        with pytest.raises(DataLoss, match=f"record 'r': '{path.replace('/', '[.]')}' is missing"):
            load(changed(record, path, ...), "r")


NO_TEXT = [1, True, 1.5, [], {}, ["x"]]
NO_NUMBER = ["1", True, -1, SIZE_MAX + 1, 1.0, [], {}]
NO_TABLE = ["x", 1, True, [], [{}]]
NO_TEXTS = ["x", 1, True, {}, [1], ["a", None], [["a"]]]
NO_DIGEST = [
    *NO_TEXT,
    "",
    HEX,
    "sha256:",
    f"sha256:{HEX}\n",
    f"md5:{HEX[:32]}",
    f"sha256:{'A' * 64}",
    "sha256:..",
]
NO_TIME = [*NO_TEXT, "", "yesterday", "2026-02-30T00:00:00Z", "2026-01-01", f"{TIME}\n"]
NO_SCHEMA = [*NO_NUMBER, 0, 2]


@pytest.mark.parametrize(
    ("kind", "path", "values"),
    [
        *((kind, "schema", NO_SCHEMA) for kind in KINDS),
        *((kind, "created", NO_TIME) for kind in KINDS),
        *((kind, "labels", [*NO_TABLE, {"k": 1}, {"k": {}}]) for kind in KINDS),
        ("image", "name", NO_TEXT),
        ("image", "updated", NO_TIME),
        ("image", "target", NO_TABLE),
        ("image", "target/mediaType", NO_TEXT),
        ("image", "target/digest", NO_DIGEST),
        ("image", "target/size", NO_NUMBER),
        ("image", "target/annotations", [*NO_TABLE, {"k": 1}]),
        ("image", "target/artifactType", NO_TEXT),
        ("image", "target/data", NO_TEXT),
        ("image", "target/urls", NO_TEXTS),
        ("image", "target/platform", NO_TABLE),
        ("image", "target/platform/os", NO_TEXT),
        ("image", "target/platform/architecture", NO_TEXT),
        ("image", "target/platform/variant", NO_TEXT),
        ("image", "target/platform/os.version", NO_TEXT),
        ("image", "target/platform/os.features", NO_TEXTS),
        ("content", "digest", NO_DIGEST),
        ("content", "size", NO_NUMBER),
        ("content", "updated", NO_TIME),
        ("lease", "id", NO_TEXT),
        ("lease", "resources", [*NO_TABLE, {"content": "x"}, {"content": [1]}]),
        ("namespace", "name", NO_TEXT),
    ],
)
def test_a_value_that_is_not_what_the_schema_says_is_damage(
    kind: str, path: str, values: list[object]
) -> None:
    """T4, T5, T9: never a crash, and never something else that is taken for it."""
    record, load = KINDS[kind]
    for value in values:
        with pytest.raises(DataLoss, match="record 'r': '"):
            load(changed(record, path, value), "r")


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
OPTIONAL = st.one_of(st.just(""), TEXT)
MAPPING = st.dictionaries(TEXT, TEXT, max_size=3)
TIMES = st.integers(0, 2**63 - 1)
DIGESTS = st.builds(Digest.of, st.binary(max_size=3), st.sampled_from(ALGORITHMS))
UNKNOWN = st.dictionaries(
    TEXT.map("x-{}".format),
    st.one_of(
        TEXT,
        st.integers(-(2**63), SIZE_MAX),
        st.lists(TEXT, min_size=1),
        st.dictionaries(TEXT, TEXT, min_size=1),
    ),
    max_size=2,
)
PLATFORMS = st.builds(Platform, OPTIONAL, OPTIONAL, OPTIONAL, OPTIONAL, st.lists(TEXT, max_size=2).map(tuple))
DESCRIPTORS = st.builds(
    Descriptor,
    TEXT,
    DIGESTS,
    st.integers(1, SIZE_MAX),
    MAPPING,
    st.one_of(st.none(), PLATFORMS.filter(any)),
    OPTIONAL,
    st.lists(TEXT, max_size=2).map(tuple),
    st.one_of(st.none(), OPTIONAL),
    UNKNOWN,
)

REFERENCES = st.none() | st.builds(
    References, TEXT, st.dictionaries(DIGESTS, TEXT, max_size=3), st.none() | DIGESTS, UNKNOWN
)


@given(
    st.one_of(
        st.builds(Image, TEXT, DESCRIPTORS, MAPPING, TIMES, TIMES, UNKNOWN),
        st.builds(ContentInfo, DIGESTS, st.integers(0, SIZE_MAX), MAPPING, TIMES, TIMES, UNKNOWN, REFERENCES),
        st.builds(
            Lease,
            TEXT,
            MAPPING,
            st.dictionaries(TEXT, st.lists(TEXT, min_size=1).map(tuple), max_size=2),
            TIMES,
            UNKNOWN,
        ),
        st.builds(Namespace, TEXT, MAPPING, TIMES, UNKNOWN),
    )
)
def test_what_is_written_is_read_back(thing: Any) -> None:
    """Through bytes, with all that may stand in it, unknown keys too."""
    kind = {Image: "image", ContentInfo: "content", Lease: "lease", Namespace: "namespace"}[type(thing)]
    dump, load = getattr(records, f"{kind}_to_record"), getattr(records, f"{kind}_from_record")
    assert load(codec.load(codec.dump(dump(thing), "r"), "r"), "r") == thing


def test_keys_stand_in_the_order_of_the_page_and_labels_in_that_of_their_bytes() -> None:
    """Equal records have equal bytes, whatever order they were made in."""
    platform = Platform("linux", "arm64", "v8", "10", ("b", "a"))
    target = Descriptor(
        "t", Digest(f"sha256:{HEX}"), 1, {"b": "1", "a": "2"}, platform, "a", ("u",), "d", {"n": 1}
    )
    image = Image("x", target, {"é": "1", "z": "2", "Z": "3"}, 0, 0, {"new": True})
    lines = codec.dump(records.image_to_record(image), "r").decode().splitlines()
    keys = [line.partition(" = ")[0] for line in lines if line and line[0] not in ' ]#"']
    assert keys == [
        *("schema", "name", "created", "updated", "new"),
        *("[target]", "mediaType", "digest", "size", "artifactType", "data", "urls", "n"),
        *("[target.platform]", "architecture", "os", "variant"),
        *("[target.annotations]", "a", "b"),
        *("[labels]", "Z", "z"),
    ]
    assert lines[-2] == '"é" = "1"'


# Unknown keys


UNKNOWN_KEYS = b"""
later = "top"
later_list = [ "a", 1, { b = 2 } ]

[future]
table = { inline = true }
"""


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a record as another program would: whole, by rename, without a seal."""
    data = path.read_bytes()
    body = data[: -codec._SEAL_LENGTH] if codec.is_sealed(data) else data
    new = path.with_suffix(".new")
    new.write_bytes(change(body))
    new.rename(path)


def test_unknown_keys_survive_every_update(tmp_path: Path) -> None:
    """An older imgtool must not take from a record what a newer one has put there."""
    top, tables = UNKNOWN_KEYS.split(b"\n\n")
    extra = {"later": "top", "later_list": ["a", 1, {"b": 2}], "future": {"table": {"inline": True}}}
    with open_store(str(tmp_path / "store")) as store:
        digest = Digest.of(b"x")
        with store.content(NS).stage(algorithm="sha256") as writer:
            writer.write(b"x")
            writer.commit()
        store.images(NS).create(Image("x", Descriptor("t", digest, 1), {"k": "v"}))
        store.leases(NS).create(Lease("x"))
        layout = store.engine.layout
        paths = {
            "image": layout.image(NS, "x"),
            "content": layout.content_record(NS, digest),
            "lease": layout.lease(NS, "x"),
            "namespace": layout.namespace_record(NS),
        }
        for path in paths.values():
            edit(
                Path(path),
                lambda body: b"schema = 1" + top + body.removeprefix(b"schema = 1") + b"\n" + tables,
            )
        edit(Path(paths["image"]), lambda body: body.replace(b"[target]\n", b'[target]\nnewField = ["x"]\n'))

        store.images(NS).update(Image("x", Descriptor("t", digest, 1), {"k": "w"}), "labels")
        store.images(NS).rename("x", "y")
        store.content(NS).update(ContentInfo(digest, 1, {"k": "w"}))
        store.leases(NS).update(Lease("x", {"k": "w"}))
        store.leases(NS).add("x", "content", digest)
        store.namespaces.update(Namespace(NS, {"k": "w"}))

        paths["image"] = layout.image(NS, "y")
        for path in paths.values():
            data = Path(path).read_bytes()
            assert codec.is_sealed(data)
            found = codec.load(data, path)
            assert {key: found[key] for key in extra} == extra
            assert found["labels"] == {"k": "w"}
        image = store.images(NS).get("y")
        assert image.target.unknown == {"newField": ["x"]}
        assert image.unknown == extra


def test_a_new_target_does_not_keep_the_unknown_keys_of_the_old(tmp_path: Path) -> None:
    """They were said of that one."""
    with open_store(str(tmp_path / "store")) as store:
        old = Descriptor("t", Digest.of(b"x"), 1, unknown={"newField": 1})
        store.images(NS).create(Image("x", old, unknown={"later": 1}))
        image = store.images(NS).update(Image("x", Descriptor("t", Digest.of(b"y"), 1)), "target")
        assert image.target.unknown == {}
        assert image.unknown == {"later": 1}
        assert store.images(NS).get("x") == image


@given(MAPPING.map(without_empty))
def test_a_mapping_without_entries_is_left_out(labels: dict[str, str]) -> None:
    """There is one form of a record without labels."""
    record = records.namespace_to_record(Namespace("x", labels))
    assert ("labels" in record) == bool(labels)
